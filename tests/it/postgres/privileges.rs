//! The store under a role that has exactly the privileges that SECURITY.md lists.

use std::{net::IpAddr, time::Duration};

use deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
use ephemeral_postgres::TestDatabase;
use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use tower_user_session::{
    BoxError, PgSessionStore, SessionService, session::SessionLimit,
    tokio_postgres::error::SqlState,
};

use crate::support::{User, cookie, current, database, number, sql};

/// The statements of SECURITY.md, for this role.
fn grants(role: &str) -> Vec<String> {
    let text = include_str!("../../../SECURITY.md");
    let (_, rest) = text.split_once("```sql\n").unwrap();
    let (statements, _) = rest.split_once("```").unwrap();
    let lines = statements.lines().map(|line| line.split("--").next());
    let statements: String = lines.map(Option::unwrap_or_default).collect();
    let statements = statements.split(';').map(|one| one.trim().to_owned());
    statements
        .filter(|statement| !statement.is_empty())
        .map(|statement| match statement.strip_suffix(" TO app") {
            Some(grant) => format!("{grant} TO {role}"),
            None => statement,
        })
        .collect()
}

fn pool_of(database: &TestDatabase, role: &str) -> Pool {
    let mut config = database.config();
    config.user(role);
    Pool::builder(Manager::new(config, NoTls))
        .max_size(2)
        .build()
        .unwrap()
}

/// Each operation of a store while an application runs.
async fn everything(database: &TestDatabase, role: &str) -> Result<(), BoxError> {
    let store = PgSessionStore::<User>::new(pool_of(database, role));
    let store = store.with_session_limit(SessionLimit::end_oldest(3)?);
    store.check().await?;
    let sessions = SessionService::new(store);

    let agent = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("Phone"))]);
    let phone = sessions.sign_in(1, &agent).ip(IpAddr::from([127, 0, 0, 1]));
    let phone = phone.remember(true).await?;
    assert_eq!(sessions.user(phone.token()).await?, Some(User::ada()));
    let headers = cookie(&sessions, phone.token());
    let phone = sessions.reauthenticate(1, &headers).await?;
    let laptop = sessions.sign_in_without_request(1).await?;
    assert_eq!(sessions.sessions_of(&1).await?.len(), 2);
    sessions.revoke(&1, laptop.session().id()).await?;
    let _tablet = sessions.sign_in_without_request(1).await?;
    let mut client = sessions.store().pool().get().await?;
    let transaction = client.transaction().await?;
    let current = current(&phone);
    let others = sessions.revoke_others_in_transaction(&transaction, &1, &current);
    assert_eq!(others.await?, 1);
    transaction.commit().await?;
    drop(client);

    sql(
        database,
        "UPDATE sessions SET last_seen_at = now() - interval '1 day'",
    )
    .await;
    assert!(sessions.user(phone.token()).await?.is_some());
    let headers = cookie(&sessions, phone.token());
    sessions.close().await;
    let recent = "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '1 hour'";
    if number(database, recent).await != 1 {
        return Err("last_seen_at was not updated".into());
    }
    let signed_out = sessions.sign_out(&headers).await;
    if !signed_out.ended().map_err(Clone::clone)? {
        return Err("no session was ended".into());
    }
    let _again = sessions.sign_in_without_request(1).await?;
    assert_eq!(sessions.revoke_all(&1).await?, 1);
    let _again = sessions.sign_in_without_request(1).await?;
    sql(database, "UPDATE sessions SET expires_at = now()").await;
    assert_eq!(sessions.delete_expired().await?, 1);
    let _again = sessions.sign_in_without_request(1).await?;
    assert_eq!(sessions.revoke_everyone().await?, 1);
    Ok(())
}

/// What an attacker would try who can make the application run arbitrary SQL.
const REFUSED: [&str; 14] = [
    "SELECT password_hash FROM users",
    "SELECT u FROM users AS u",
    "UPDATE users SET disabled_at = NULL",
    "INSERT INTO users (email) VALUES ('mallory@example.com')",
    "DELETE FROM users",
    "SELECT id FROM users FOR UPDATE",
    // Beyond the limit, another user's, as if just authenticated, or with a chosen id.
    "UPDATE sessions SET expires_at = now() + interval '1 year'",
    "UPDATE sessions SET user_id = 2",
    "UPDATE sessions SET created_at = now()",
    "INSERT INTO sessions (id, token_digest, user_id, expires_at)
     VALUES (gen_random_uuid(), sha256('x'), 2, now() + interval '1 day')",
    "TRUNCATE sessions",
    "ALTER TABLE sessions DROP CONSTRAINT sessions_user_id_fkey",
    "CREATE TABLE sessions_of_mine ()",
    "CREATE TRIGGER t BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
];

/// C17, L04: with the privileges that SECURITY.md lists everything works. Without any one of them
/// an operation fails. Nothing beyond them is possible.
#[tokio::test]
async fn the_documented_rights_are_enough_and_no_more() {
    let database = database().await;
    let role = format!("app_{}", database.name());
    sql(&database, "ALTER TABLE users ADD COLUMN password_hash text").await;
    sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
    for grant in grants(&role) {
        sql(&database, &grant).await;
    }
    everything(&database, &role).await.unwrap();

    let pool = pool_of(&database, &role);
    for statement in REFUSED {
        let client = pool.get().await.unwrap();
        let error = client.batch_execute(statement).await.unwrap_err();
        let state = error.code();
        assert_eq!(
            state,
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{statement}: {error:?}"
        );
    }
    drop(pool);

    let rights = format!(
        "SELECT format('%s (%I) ON %I', privilege_type, column_name, table_name)
         FROM information_schema.column_privileges
         WHERE grantee = '{role}' AND (table_name = 'users' OR privilege_type IN ('INSERT', 'UPDATE'))
         UNION ALL VALUES ('SELECT ON sessions'), ('DELETE ON sessions')"
    );
    let rights = database.client().await.query(&rights, &[]).await.unwrap();
    assert_eq!(rights.len(), 15);
    for right in rights {
        let right: String = right.get(0);
        sql(&database, &format!("REVOKE {right} FROM {role}")).await;
        let outcome = tokio::time::timeout(Duration::from_secs(30), everything(&database, &role));
        assert!(outcome.await.unwrap().is_err(), "{right} is not needed");
        sql(&database, "DELETE FROM sessions").await;
        sql(&database, &format!("GRANT {right} TO {role}")).await;
    }
    everything(&database, &role).await.unwrap();
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
}
