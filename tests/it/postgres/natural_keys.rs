//! Natural keys, which may be renamed.

use ephemeral_postgres::TestDatabase;
use tower_user_session::{BoxError, LookupRow, PgSessionStore, PgUser, SessionService};

use crate::support::{pool, sql};

#[derive(Clone, Debug, PartialEq)]
struct Named(String);

impl PgUser for Named {
    type Id = String;
    const COLUMNS: &'static str = "u.id";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self(row.user().get("id")?))
    }
}

/// M14: `check()` names the column of a table whose collation distinguishes two spellings that are
/// one key.
#[tokio::test]
async fn check_names_a_collation_that_differs() {
    let database = TestDatabase::create("SELECT").await;
    let client = database.client().await;
    let users = "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE users (id text COLLATE nocase PRIMARY KEY)";
    if let Err(error) = client.batch_execute(users).await {
        ephemeral_postgres::skip("check_names_a_collation_that_differs", &error.to_string());
        return;
    }
    let store = PgSessionStore::<Named>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    for (collation, fits) in [("\"C\"", false), ("\"default\"", false), ("nocase", true)] {
        let alter = format!(
            "ALTER TABLE sessions DROP CONSTRAINT sessions_user_id_fkey,
                 ALTER COLUMN user_id TYPE text COLLATE {collation};
             ALTER TABLE sessions ADD CONSTRAINT sessions_user_id_fkey
                 FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE"
        );
        // From PostgreSQL 18 on, the server rejects such a foreign key itself.
        if client.batch_execute(&alter).await.is_err() {
            continue;
        }
        let store = PgSessionStore::<Named>::new(pool(&database, 2));
        match store.check().await {
            Ok(_) => assert!(fits, "{collation}"),
            Err(error) => {
                let source = std::error::Error::source(&error).unwrap().to_string();
                assert!(
                    !fits && source.contains("collation of sessions.user_id"),
                    "{source}"
                );
            }
        }
    }
}

/// M14: a user whose key is renamed stays signed in, and can be signed out by the new key.
#[tokio::test]
async fn renamed_key_keeps_its_sessions() {
    let users =
        "CREATE TABLE users (id text PRIMARY KEY); INSERT INTO users VALUES ('ada'), ('eve')";
    let database = TestDatabase::create(users).await;
    let store = PgSessionStore::<Named>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    let sessions = SessionService::new(store);
    let ada = sessions
        .sign_in_without_request("ada".to_owned())
        .await
        .unwrap();
    let eve = sessions
        .sign_in_without_request("eve".to_owned())
        .await
        .unwrap();
    sql(
        &database,
        "UPDATE users SET id = 'lovelace' WHERE id = 'ada'",
    )
    .await;
    let named = |name: &str| Some(Named(name.to_owned()));
    assert_eq!(sessions.user(ada.token()).await.unwrap(), named("lovelace"));
    assert_eq!(sessions.revoke_all(&"ada".to_owned()).await.unwrap(), 0);
    assert_eq!(
        sessions.revoke_all(&"lovelace".to_owned()).await.unwrap(),
        1
    );
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert_eq!(sessions.user(eve.token()).await.unwrap(), named("eve"));
}
