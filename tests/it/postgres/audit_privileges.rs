//! That no other role writes to the trail of `migrations/optional/audit_sessions.sql`.

use deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    PgSessionStore, SessionService,
    tokio_postgres::{Client, Error, error::SqlState},
};

use crate::support::{
    PgSessions,
    audit::{AUDIT, events, install},
    database, number, sql,
};

fn code(result: Result<(), Error>) -> Option<SqlState> {
    result.err().and_then(|error| error.code().cloned())
}

/// Connects as a role that has all privileges on the sessions and the users.
async fn as_role(database: &TestDatabase, role: &str) -> Client {
    let mut config = database.config();
    config.user(role);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Each line is an attempt of a role that may do everything with the sessions and the users to write
/// to the trail or to have its function called.
const ATTEMPTS: &[&str] = &[
    "INSERT INTO sessions_audit (event, happened_at, session_id, user_id, last_seen_at, columns)
         VALUES ('began', now(), gen_random_uuid(), '1', now(), '{}')",
    "UPDATE sessions_audit SET actor = 'x'",
    "DELETE FROM sessions_audit",
    "TRUNCATE sessions_audit",
    "ALTER TABLE sessions_audit DISABLE TRIGGER ALL",
    "ALTER TABLE sessions DISABLE TRIGGER ALL",
    "DROP TABLE sessions_audit",
    "SELECT setval('sessions_audit_id_seq', 1)",
    "CREATE TRIGGER t BEFORE INSERT ON sessions_audit EXECUTE FUNCTION mine()",
    "CREATE TRIGGER t AFTER INSERT ON forged REFERENCING NEW TABLE AS new_rows
         FOR EACH STATEMENT EXECUTE FUNCTION sessions_audit_write()",
    "CREATE OR REPLACE FUNCTION sessions_audit_write() RETURNS trigger LANGUAGE plpgsql
         AS 'BEGIN RETURN NULL; END'",
    "SELECT sessions_audit_write()",
];

/// P05: a role that may do everything with the sessions cannot write to the trail, even if default
/// privileges grant it more. Its changes of sessions are recorded.
#[tokio::test]
async fn only_the_owner_writes() {
    let database = database().await;
    let role = format!("app_{}", database.name());
    let client = database.client().await;
    let grants = format!(
        "CREATE ROLE {role} LOGIN;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}, PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {role}, PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {role}, PUBLIC;
         GRANT ALL ON sessions, users TO {role};
         GRANT CREATE ON SCHEMA public TO {role}"
    );
    client.batch_execute(&grants).await.unwrap();
    install(&database, &[]).await;
    let app = as_role(&database, &role).await;
    let forged = "CREATE TABLE forged AS SELECT * FROM sessions;
        CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
    app.batch_execute(forged).await.unwrap();
    let again = format!(
        "GRANT ALL ON sessions_audit TO PUBLIC;
         GRANT ALL ON sessions_audit TO {role} WITH GRANT OPTION;
         GRANT ALL ON SEQUENCE sessions_audit_id_seq TO {role};
         GRANT ALL ON FUNCTION sessions_audit_write() TO {role}"
    );
    for reinstalled in [false, true] {
        if reinstalled {
            client.batch_execute(&again).await.unwrap();
            let pass_on = "GRANT ALL ON sessions_audit TO pg_monitor";
            app.batch_execute(pass_on).await.unwrap();
            install(&database, &[]).await;
        }
        for attempt in ATTEMPTS {
            let refused = code(app.batch_execute(attempt).await);
            assert_eq!(refused, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{attempt}");
        }
    }

    let mut config = database.config();
    config.user(&role);
    let pool = Pool::builder(Manager::new(config, NoTls)).build().unwrap();
    let sessions: PgSessions = SessionService::new(PgSessionStore::new(pool));
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    app.batch_execute("DELETE FROM sessions").await.unwrap();
    assert_eq!(events(&database).await, ["began", "ended"]);
    let other = format!("SELECT count(*) FROM sessions_audit WHERE database_role <> '{role}'");
    assert_eq!(number(&database, &other).await, 0);
    // Not even the owner changes a row, and the owner deletes old ones.
    let changed = client
        .batch_execute("UPDATE sessions_audit SET actor = 'x'")
        .await;
    assert_eq!(code(changed), Some(SqlState::INSUFFICIENT_PRIVILEGE));
    let prune = "DELETE FROM sessions_audit WHERE recorded_at <= now()";
    assert_eq!(sql(&database, prune).await, 2);
    drop(app);
    sessions.close().await;
    client
        .batch_execute(&format!("DROP OWNED BY {role} CASCADE"))
        .await
        .unwrap();
}

/// Each line is a state in which the script must not install the trail, and the reason.
const REFUSED: &[(&str, SqlState)] = &[
    ("DROP TABLE sessions", SqlState::UNDEFINED_TABLE),
    (
        "CREATE TABLE sessions_audit (id int)",
        SqlState::DUPLICATE_TABLE,
    ),
    (
        "CREATE VIEW sessions_audit AS SELECT '' AS database_role",
        SqlState::DUPLICATE_TABLE,
    ),
    (
        "CREATE TABLE sessions_audit (database_role text); ALTER TABLE sessions_audit OWNER TO @",
        SqlState::DUPLICATE_TABLE,
    ),
    (
        "CREATE FUNCTION sessions_audit_write() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        SqlState::DUPLICATE_FUNCTION,
    ),
    (
        "CREATE FUNCTION sessions_audit_write() RETURNS trigger LANGUAGE plpgsql AS
             E'\n-- tower-user-session, audit version 1\nBEGIN END';
         ALTER FUNCTION sessions_audit_write() OWNER TO @",
        SqlState::DUPLICATE_FUNCTION,
    ),
    ("SET ROLE @", SqlState::INSUFFICIENT_PRIVILEGE),
    (
        r#"SET tower_user_session.audit_columns = 'user_agent, "token_digest"'"#,
        SqlState::INVALID_PARAMETER_VALUE,
    ),
    (
        "SET tower_user_session.audit_columns = 'no_column'",
        SqlState::UNDEFINED_COLUMN,
    ),
    (
        "SET tower_user_session.audit_columns = 'ip); DROP TABLE users'",
        SqlState::INVALID_PARAMETER_VALUE,
    ),
];

/// I01, M12, P05: the triggers run with the privileges of the owner. The script therefore uses no table
/// and no function of another role, and rejects what is not the name of a column
/// that may be recorded.
#[tokio::test]
async fn the_script_refuses_objects_of_others() {
    for (state, expected) in REFUSED {
        let database = database().await;
        let role = format!("other_{}", database.name());
        let client = database.client().await;
        client
            .batch_execute(&format!(
                "CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}"
            ))
            .await
            .unwrap();
        let state = state.replace('@', &role);
        client.batch_execute(&state).await.unwrap();
        let refused = code(client.batch_execute(AUDIT).await);
        assert_eq!(refused, Some(expected.clone()), "{state}");
        client
            .batch_execute(&format!(
                "RESET ROLE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}"
            ))
            .await
            .unwrap();
    }
}
