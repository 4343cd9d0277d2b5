//! Installing `migrations/0003_revoke_sessions.sql`, and checking that it is in place.

use std::error::Error as _;

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    tokio_postgres::NoTls,
};

use crate::support::{USERS, User, database, number, pool, sessions, sql, until_waiting};

const FILE: &str = include_str!("../../../migrations/0003_revoke_sessions.sql");

fn store(database: &TestDatabase) -> PgSessionStore<User> {
    PgSessionStore::new(pool(database, 2))
}

fn message(error: &Error) -> String {
    let source = error.source().unwrap();
    let cause = source.source().map(ToString::to_string);
    format!("{source} {}", cause.unwrap_or_default())
}

/// One line per change: a name, the statements, and the functions that `check()` names.
const CHANGES: &[(&str, &str, &[&str])] = &[
    (
        "one is missing",
        "DROP FUNCTION sessions_revoke_all(bigint)",
        &["public.sessions_revoke_all"],
    ),
    (
        "all are missing",
        "DROP FUNCTION sessions_revoke(bigint, uuid), sessions_revoke_others(bigint, uuid),
                       sessions_revoke_all(bigint), sessions_revoke_everyone()",
        &[
            "public.sessions_revoke",
            "public.sessions_revoke_all",
            "public.sessions_revoke_everyone",
            "public.sessions_revoke_others",
        ],
    ),
    (
        "another version",
        "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('sessions_revoke_all'::regproc),
            'schema version 3', 'schema version 1'); END $$",
        &["public.sessions_revoke_all"],
    ),
    (
        "another search path",
        "ALTER FUNCTION sessions_revoke(bigint, uuid) SET search_path = public",
        &["public.sessions_revoke"],
    ),
    (
        "row-level security is not an error",
        "ALTER FUNCTION sessions_revoke(bigint, uuid) RESET row_security",
        &["public.sessions_revoke"],
    ),
    (
        "the privileges of the owner",
        "ALTER FUNCTION sessions_revoke_everyone() SECURITY DEFINER",
        &["public.sessions_revoke_everyone"],
    ),
    (
        "another type of key",
        "ALTER TABLE sessions ALTER COLUMN user_id TYPE integer; ALTER TABLE users ALTER COLUMN id TYPE integer",
        &[
            "public.sessions_revoke",
            "public.sessions_revoke_all",
            "public.sessions_revoke_others",
        ],
    ),
    (
        "another schema",
        "ALTER SCHEMA public RENAME TO app; ALTER DATABASE @ SET search_path = app",
        &[
            "app.sessions_revoke",
            "app.sessions_revoke_all",
            "app.sessions_revoke_everyone",
            "app.sessions_revoke_others",
        ],
    ),
];

/// M23: `check()` names each function that is missing or changed, and the migration restores it.
#[tokio::test]
async fn check_names_missing_functions_and_the_migration_restores_them() {
    for (name, change, missing) in CHANGES {
        let database = database().await;
        let client = database.client().await;
        let change = change.replace('@', database.name());
        client.batch_execute(&change).await.unwrap();
        for pooling in [false, true] {
            let store = store(&database);
            let store = if pooling {
                store.with_transaction_pooling()
            } else {
                store
            };
            // With another type of key, the user type of the test does not fit.
            if let Ok(report) = store.check().await {
                assert_eq!(report.missing_functions(), *missing, "{name}");
                let error = report.require_functions().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Schema, "{name}");
            } else {
                assert!(name.contains("key"), "{name}");
            }
        }
        store(&database).migrate().await.unwrap();
        let left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'sessions\\_revoke%'";
        assert_eq!(number(&database, left).await, 4, "{name}");
        match store(&database).check().await {
            Ok(report) => {
                assert_eq!(report.missing_functions(), [""; 0], "{name}");
                report.require_functions().unwrap();
            }
            // The user type of the test has another key.
            Err(error) => assert!(name.contains("key"), "{name}: {error:?}"),
        }
    }
}

/// M23: functions of the application, and functions of a role that does not own the table, are never
/// replaced.
#[tokio::test]
async fn the_migration_replaces_no_other_function() {
    let database = TestDatabase::create(USERS).await;
    let role = format!("other_{}", database.name());
    sql(&database, &format!("CREATE ROLE {role}")).await;
    let body = "LANGUAGE sql AS 'SELECT 7::bigint'";
    let create = format!("CREATE FUNCTION sessions_revoke_everyone() RETURNS bigint {body}");
    sql(&database, &create).await;
    let error = store(&database).migrate().await.unwrap_err();
    assert!(message(&error).contains("is not a function of this migration"));
    let seven = "SELECT sessions_revoke_everyone()";
    assert_eq!(number(&database, seven).await, 7);

    sql(&database, "DROP FUNCTION sessions_revoke_everyone()").await;
    store(&database).migrate().await.unwrap();
    let own = format!("ALTER FUNCTION sessions_revoke_everyone() OWNER TO {role}");
    sql(&database, &own).await;
    let error = store(&database).migrate().await.unwrap_err();
    assert!(message(&error).contains("is not a function of this migration"));
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
    store(&database).migrate().await.unwrap();
}

/// A role that does not own the table can run the migration again, and cannot create the functions.
#[tokio::test]
async fn only_the_owner_of_the_table_creates_the_functions() {
    let database = database().await;
    let role = format!("guest_{}", database.name());
    sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
    sql(
        &database,
        &format!("GRANT CREATE ON SCHEMA public TO {role}"),
    )
    .await;
    let mut config = database.config();
    config.user(&role);
    let guest = Pool::builder(Manager::new(config, NoTls)).max_size(1);
    let guest = PgSessionStore::<User>::new(guest.build().unwrap());
    guest.migrate().await.unwrap();
    sql(&database, "DROP FUNCTION sessions_revoke_all(bigint)").await;
    let error = guest.migrate().await.unwrap_err();
    assert!(message(&error).contains("sessions_revoke_all(bigint) is missing or outdated"));
    guest.pool().close();
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
}

/// Two tables of sessions in one schema have functions of their own, and a name that leaves no room
/// for the functions' names is an error.
#[tokio::test]
async fn functions_are_named_after_their_table() {
    let database = database().await;
    let web = || store(&database).with_table("Web \"Sessions\"");
    web().migrate().await.unwrap();
    web().check().await.unwrap();
    let api = sessions(&database);
    let web = SessionService::new(web());
    let on_web = web.sign_in_without_request(1).await.unwrap();
    let on_api = api.sign_in_without_request(1).await.unwrap();
    let client = database.client().await;
    let revoke = r#"SELECT "Web ""Sessions""_revoke_all"(1)"#;
    client.batch_execute(revoke).await.unwrap();
    assert_eq!(web.user(on_web.token()).await.unwrap(), None);
    assert_eq!(api.user(on_api.token()).await.unwrap(), Some(User::ada()));

    let longest = "a".repeat(47);
    let fits = store(&database).with_table(&longest);
    fits.migrate().await.unwrap();
    fits.check().await.unwrap();
    let too_long = store(&database).with_table(format!("{longest}a"));
    let error = too_long.migrate().await.unwrap_err();
    assert!(message(&error).contains("is too long"), "{error:?}");
}

/// The file needs the first one, and works without a foreign key if the settings name the users.
#[tokio::test]
async fn the_file_names_what_is_missing() {
    let database = TestDatabase::create(USERS).await;
    let client = database.client().await;
    for meanwhile in ["", "CREATE TABLE sessions (id int)"] {
        client.batch_execute(meanwhile).await.unwrap();
        let error = client.batch_execute(FILE).await.unwrap_err();
        let hint = error.as_db_error().unwrap().hint().unwrap();
        assert!(hint.contains("0001_create_sessions.sql"), "{hint}");
    }
    sql(&database, "DROP TABLE sessions").await;
    store(&database).migrate().await.unwrap();
    let without_key = "ALTER TABLE sessions DROP CONSTRAINT sessions_user_id_fkey;
        DROP FUNCTION sessions_revoke_all(bigint); ALTER TABLE users RENAME TO people";
    client.batch_execute(without_key).await.unwrap();
    let error = client.batch_execute(FILE).await.unwrap_err();
    let hint = error.as_db_error().unwrap().hint().unwrap();
    assert!(hint.contains("tower_user_session.users_table"), "{hint}");
    let set = "SET tower_user_session.users_table = 'people'";
    client.batch_execute(set).await.unwrap();
    client.batch_execute(FILE).await.unwrap();
    client
        .batch_execute("SELECT sessions_revoke_all(1)")
        .await
        .unwrap();
}

/// The file restores the search path of the caller.
#[tokio::test]
async fn the_file_restores_the_search_path() {
    let database = database().await;
    let mut client = database.client().await;
    for prepare in ["SELECT", "DROP FUNCTION sessions_revoke_all(bigint)"] {
        let transaction = client.transaction().await.unwrap();
        let set = "SET LOCAL search_path = public, pg_catalog";
        transaction.batch_execute(set).await.unwrap();
        transaction.batch_execute(prepare).await.unwrap();
        transaction.batch_execute(FILE).await.unwrap();
        let path = transaction.query_one("SHOW search_path", &[]).await;
        assert_eq!(path.unwrap().get::<_, &str>(0), "public, pg_catalog");
        transaction.commit().await.unwrap();
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Named;

impl PgUser for Named {
    type Id = String;
    const COLUMNS: &'static str = "u.id";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// M12, M14: two spellings of one key are one user, whose lock and sessions they share.
#[tokio::test]
async fn functions_compare_keys_like_the_foreign_key() {
    let database = TestDatabase::create("SELECT").await;
    let client = database.client().await;
    let users = "CREATE EXTENSION citext; CREATE TABLE users (id citext PRIMARY KEY); INSERT INTO users VALUES ('Ada')";
    if let Err(error) = client.batch_execute(users).await {
        ephemeral_postgres::skip(
            "functions_compare_keys_like_the_foreign_key",
            &error.to_string(),
        );
        return;
    }
    let store = PgSessionStore::<Named>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let sessions = SessionService::new(store);
    let mut client = database.client().await;
    let signing_in = client.transaction().await.unwrap();
    let signed_in = sessions
        .sign_in_without_request("ADA".to_owned())
        .in_transaction(&signing_in)
        .await
        .unwrap();
    let revoking = database.client().await;
    let revoke = revoking.batch_execute("SELECT sessions_revoke_all('ada')");
    let commit = async {
        until_waiting(&database, 1).await;
        signing_in.commit().await.unwrap();
    };
    let (revoked, ()) = tokio::join!(revoke, commit);
    revoked.unwrap();
    assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
}
