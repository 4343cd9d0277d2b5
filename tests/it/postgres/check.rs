//! Tables, privileges and user types that `check()` reports as unsuitable.

use std::error::Error as _;

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, CurrentSession, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    tokio_postgres::NoTls,
};

use crate::support::{
    USERS, User, database,
    fault::{ObservedFault, send},
    pool, sql,
};

/// The texts of an error and its sources.
fn message(error: &Error) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    let cause = error.source().and_then(std::error::Error::source);
    let cause = cause.map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}: {cause}")
}

async fn refused<U: PgUser>(store: PgSessionStore<U>, name: &str, says: &[&str]) {
    let error = match store.check().await {
        Ok(check) => panic!("{name}: {check:?}"),
        Err(error) => error,
    };
    let message = message(&error);
    for part in says {
        assert!(
            message.contains(part),
            "{name}: {message} does not contain {part}"
        );
    }
}

/// One line per change of the database: a name, the statements, and the text of the finding. `@` is
/// the database, and `~` the application's role.
const CHANGES: &[(&str, &str, &[&str])] = &[
    (
        "a widened key",
        "ALTER TABLE users ALTER COLUMN id TYPE bigint; ALTER TABLE sessions ALTER COLUMN user_id TYPE integer",
        &["sessions.user_id has the type integer", "bigint", "ALTER COLUMN user_id TYPE bigint"],
    ),
    (
        "advisory locks that do nothing, as in an engine without them",
        "SET allow_system_table_mods = on;
         CREATE OR REPLACE FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) RETURNS boolean
         LANGUAGE sql AS 'SELECT true'",
        &["two connections got the same advisory lock"],
    ),
    (
        "policies on the sessions",
        "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY",
        &["row-level security hides rows of sessions from the role ~", "BYPASSRLS"],
    ),
    (
        "forced policies on the sessions of their owner",
        "ALTER TABLE sessions OWNER TO ~; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        &["row-level security hides rows of sessions", "FORCE"],
    ),
    (
        "policies on the users",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        &["row-level security hides rows of users", "BYPASSRLS"],
    ),
    (
        "a policy that shows everything",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY every ON users USING (true)",
        &["row-level security hides rows of users"],
    ),
    (
        "no right to insert",
        "REVOKE INSERT ON sessions FROM ~",
        &["lacks the privileges INSERT (expires_at)", "GRANT"],
    ),
    (
        "no right to update",
        "REVOKE UPDATE ON sessions FROM ~",
        &["lacks the privileges UPDATE (authenticated_at), UPDATE (last_seen_at), UPDATE (token_digest) on sessions"],
    ),
    ("no right to delete", "REVOKE DELETE ON sessions FROM ~", &["lacks the privileges DELETE on sessions"]),
    (
        "no right to a column of the users",
        "REVOKE SELECT ON users FROM ~; GRANT SELECT (id, email, role) ON users TO ~",
        &["the role lacks a privilege", "permission denied for table users"],
    ),
    (
        "a read-only role",
        "ALTER ROLE ~ SET default_transaction_read_only = on",
        &["transactions of the role ~ are read-only"],
    ),
    (
        "a read-only database",
        "ALTER DATABASE @ SET default_transaction_read_only = on",
        &["read-only", "default_transaction_read_only"],
    ),
    (
        "a partitioned table",
        "ALTER TABLE sessions RENAME TO old;
         CREATE TABLE sessions (LIKE old INCLUDING DEFAULTS, UNIQUE (token_digest)) PARTITION BY HASH (token_digest);",
        &["sessions is partitioned", "ordinary table"],
    ),
    (
        "a table that others inherit from",
        "CREATE TABLE child () INHERITS (sessions)",
        &["inherit from sessions"],
    ),
    (
        "a view",
        "ALTER TABLE sessions RENAME TO old; CREATE VIEW sessions AS SELECT * FROM old",
        &["not an ordinary table (relkind v)"],
    ),
    (
        "no unique index",
        "ALTER TABLE sessions DROP CONSTRAINT sessions_token_digest_key",
        &["no valid unique index on token_digest"],
    ),
    (
        "a partial index",
        "ALTER TABLE sessions DROP CONSTRAINT sessions_token_digest_key;
         CREATE UNIQUE INDEX ON sessions (token_digest) WHERE remembered",
        &["no valid unique index on token_digest"],
    ),
    ("no table of sessions", "DROP TABLE sessions", &["PgSessionStore::migrate creates"]),
    ("a missing column", "ALTER TABLE sessions DROP COLUMN ip", &["ip inet"]),
    (
        "times without a zone",
        "ALTER TABLE sessions ALTER COLUMN last_seen_at TYPE timestamp",
        &["last_seen_at timestamp with time zone"],
    ),
];

async fn role(database: &TestDatabase) -> String {
    let role = format!("unfit_{}", database.name());
    for statement in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO {role}"),
        format!("GRANT SELECT ON users TO {role}"),
        format!("GRANT ALL ON SCHEMA public TO {role}"),
    ] {
        sql(database, &statement).await;
    }
    role
}

fn pool_of(database: &TestDatabase, role: &str) -> Pool {
    let mut config = database.config();
    config.user(role);
    let manager = Manager::new(config, NoTls);
    Pool::builder(manager).max_size(2).build().unwrap()
}

/// M09, M10, M17: `check()` names each defect of the database and how to fix it.
#[tokio::test]
async fn an_unsuitable_database_is_reported() {
    for (name, change, says) in CHANGES {
        let database = database().await;
        let role = role(&database).await;
        let fill = |text: &str| text.replace('@', database.name()).replace('~', &role);
        let store = || PgSessionStore::<User>::new(pool_of(&database, &role));
        store().check().await.unwrap();
        let client = database.client().await;
        client.batch_execute(&fill(change)).await.unwrap();
        let says: Vec<_> = says.iter().map(|part| fill(part)).collect();
        let says: Vec<_> = says.iter().map(String::as_str).collect();
        refused(store(), name, &says).await;
        let pooling = store().with_transaction_pooling();
        refused(pooling, &format!("{name}, unnamed"), &says).await;
        client
            .batch_execute(&fill("DROP OWNED BY ~ CASCADE; DROP ROLE ~"))
            .await
            .unwrap();
    }
}

/// M09: rows hidden by a policy are an error for each call, and never a success.
#[tokio::test]
async fn rows_hidden_by_a_policy_are_never_a_success() {
    for pooling in [false, true] {
        let database = database().await;
        let role = role(&database).await;
        let store = PgSessionStore::<User>::new(pool_of(&database, &role));
        let sessions = SessionService::new(if pooling {
            store.with_transaction_pooling()
        } else {
            store
        });
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let headers = crate::support::cookie(&sessions, ada.token());
        let fault = ObservedFault::begin("row-level security hides sessions or users", &sessions);
        sql(&database, "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY").await;
        let id = ada.session().id();
        assert!(sessions.revoke_all(&1).await.is_err());
        let current = CurrentSession::new(ada.session());
        assert!(sessions.revoke_others(&1, &current).await.is_err());
        assert!(sessions.revoke(&1, id).await.is_err());
        assert!(sessions.revoke_everyone().await.is_err());
        assert!(sessions.sign_out(&headers).await.ended().is_err());
        assert!(sessions.reauthenticate(1, &headers).await.is_err());
        assert!(sessions.delete_expired().await.is_err());
        let mut client = sessions.store().pool().get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let revoked = sessions.revoke_all_in_transaction(&transaction, &1).await;
        assert!(revoked.is_err());
        drop(transaction);
        assert!(sessions.sessions_of(&1).await.is_err());
        // Behind a transaction pooler no setting of the session can turn a policy into an error, so
        // `check()` must report it.
        assert_eq!(sessions.user(ada.token()).await.is_err(), !pooling);
        drop(client);
        if !pooling {
            let request = async || {
                send(&sessions, ada.token()).await;
            };
            fault.becomes_visible(request).await;
            sql(&database, "ALTER TABLE sessions DISABLE ROW LEVEL SECURITY").await;
            fault.ends(request).await;
        }
        drop(sessions);
        let client = database.client().await;
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        client.batch_execute(&drop).await.unwrap();
    }
}

/// Defines a user type with this key, these columns and tables.
macro_rules! unfit {
    ($name:ident, $id:ty, $columns:literal, $from:literal, $condition:literal, $type:ty) => {
        #[derive(Clone, Debug)]
        struct $name;
        impl PgUser for $name {
            type Id = $id;
            const COLUMNS: &'static str = $columns;
            const FROM: &'static str = $from;
            const CONDITION: &'static str = $condition;
            fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
                let _: $type = row.user().get("email")?;
                Ok(Self)
            }
        }
    };
}

unfit!(WrongId, i32, "u.email", "users AS u", "true", String);
unfit!(WrongType, i64, "u.email", "users AS u", "true", i64);
unfit!(
    Misspelled,
    i64,
    "u.email AS mail",
    "users AS u",
    "true",
    String
);
unfit!(
    Twice,
    i64,
    "u.email, 'x' AS email",
    "users AS u",
    "true",
    String
);
unfit!(
    Starred,
    i64,
    "u.*, v.email",
    "users AS u JOIN users AS v ON v.id = u.id",
    "true",
    String
);
unfit!(
    TwoRows,
    i64,
    "u.email",
    "users AS u CROSS JOIN generate_series(1, 2)",
    "true",
    String
);
unfit!(
    Aggregate,
    i64,
    "max(u.email) AS email",
    "users AS u",
    "u.disabled_at IS NOT NULL",
    String
);
unfit!(
    Counted,
    i64,
    "count(*)::text AS email",
    "users AS u",
    "false",
    String
);
unfit!(
    NoSuchColumn,
    i64,
    "u.mail AS email",
    "users AS u",
    "true",
    String
);
unfit!(NoSuchTable, i64, "u.email", "people AS u", "true", String);

async fn user_is_refused<U: PgUser>(says: &[&str]) {
    let database = TestDatabase::create(USERS).await;
    PgSessionStore::<User>::new(pool(&database, 1))
        .migrate()
        .await
        .unwrap();
    let store = || PgSessionStore::<U>::new(pool(&database, 2));
    let name = std::any::type_name::<U>();
    refused(store(), name, says).await;
    refused(
        store().with_transaction_pooling(),
        &format!("{name}, unnamed"),
        says,
    )
    .await;
}

/// M10: `check()` names each defect of a `PgUser` implementation: one line per user type.
#[tokio::test]
async fn an_unsuitable_user_type_is_reported() {
    user_is_refused::<WrongId>(&["the users' key has the type int8", "PgUser::Id"]).await;
    user_is_refused::<WrongType>(&["from_row", "\"email\"", "i64"]).await;
    user_is_refused::<Misspelled>(&["from_row", "no column \"email\""]).await;
    user_is_refused::<Twice>(&["more than one column \"email\""]).await;
    user_is_refused::<Starred>(&["more than one column \"email\""]).await;
    user_is_refused::<TwoRows>(&["more than one row for one user", "ARRAY"]).await;
    user_is_refused::<Aggregate>(&["aggregate", "CONDITION"]).await;
    user_is_refused::<Counted>(&["aggregate"]).await;
    user_is_refused::<NoSuchColumn>(&["u.mail"]).await;
    user_is_refused::<NoSuchTable>(&["people"]).await;
}

/// M10: `check()` names a duplicate column even if the table has no user that `from_row` could
/// read.
#[tokio::test]
async fn a_duplicate_column_is_reported_without_any_user() {
    let database = database().await;
    sql(&database, "DELETE FROM users").await;
    let says = &["more than one column \"email\""];
    let store = || PgSessionStore::<Twice>::new(pool(&database, 2));
    refused(store(), "no user", says).await;
    refused(store().with_transaction_pooling(), "no user, unnamed", says).await;
}

unfit!(
    Joined,
    i64,
    "u.email",
    "users AS u LEFT JOIN notes AS n ON n.user_id = u.id",
    "true",
    String
);

/// M09: policies are reported on each table that `PgUser::FROM` names.
#[tokio::test]
async fn a_policy_on_a_joined_table_is_reported() {
    let database = database().await;
    let role = role(&database).await;
    let notes = format!(
        "CREATE TABLE notes (user_id bigint PRIMARY KEY); GRANT SELECT ON notes TO {role};
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY"
    );
    let client = database.client().await;
    client.batch_execute(&notes).await.unwrap();
    let store = || PgSessionStore::<Joined>::new(pool_of(&database, &role));
    let says = &["row-level security", "BYPASSRLS", "\"notes\""];
    refused(store(), "joined", says).await;
    refused(store().with_transaction_pooling(), "joined, unnamed", says).await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    client.batch_execute(&drop).await.unwrap();
}

/// M10: a duplicate column is an error for each lookup, and neither of the two is read.
#[tokio::test]
async fn same_column_name_twice_is_an_error() {
    let database = database().await;
    for store in [
        PgSessionStore::<Twice>::new(pool(&database, 2)),
        PgSessionStore::<Twice>::new(pool(&database, 2)).with_transaction_pooling(),
    ] {
        let sessions = SessionService::new(store);
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let error = sessions.user(ada.token()).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(
            message(&error).contains("more than one column"),
            "{}",
            message(&error)
        );
    }
}

/// M10: an aggregate never signs in a user who fails the condition.
#[tokio::test]
async fn aggregate_never_skips_the_condition() {
    let database = database().await;
    let honest = crate::support::sessions(&database);
    let ada = honest.sign_in_without_request(1).await.unwrap();
    let sessions = SessionService::new(PgSessionStore::<Aggregate>::new(pool(&database, 2)));
    let error = sessions.user(ada.token()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
}
