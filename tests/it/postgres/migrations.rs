//! Migrations: creating the sessions table.

use std::{collections::BTreeMap, process::Command};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{TestDatabase, skip};
use tower_user_session::{
    Error, PgSessionStore,
    tokio_postgres::{NoTls, error::SqlState},
};

use crate::support::{USERS, User, audit::AUDIT, database, number, pool, psql, sql, until_waiting};

const COUNT: &str = "SELECT count(*) FROM pg_class WHERE relname = 'sessions' AND relkind = 'r'";

fn store(database: &TestDatabase) -> PgSessionStore<User> {
    PgSessionStore::new(pool(database, 2))
}

fn message(error: &Error) -> String {
    std::error::Error::source(error)
        .and_then(std::error::Error::source)
        .map(ToString::to_string)
        .unwrap()
}

/// Ten processes start together: one migrates, and the others find the migration done.
#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    let database = TestDatabase::create(USERS).await;
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let store = store(&database);
            tokio::spawn(async move { store.migrate().await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(number(&database, COUNT).await, 1);
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'sessions'::regclass";
    assert_eq!(number(&database, indexes).await, 3);
    store(&database).check().await.unwrap();
}

/// While one process migrates, the next one waits.
#[tokio::test]
async fn a_second_migration_waits_for_the_first() {
    let database = TestDatabase::create(USERS).await;
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute(
        "SELECT pg_advisory_xact_lock(x'73657373696f6e73'::bigint)",
        &[],
    )
    .await
    .unwrap();
    let second = tokio::spawn({
        let store = store(&database);
        async move { store.migrate().await }
    });
    until_waiting(&database, 1).await;
    assert_eq!(number(&database, COUNT).await, 0);
    lock.commit().await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(number(&database, COUNT).await, 1);
}

/// An unsuitable schema is a clear error, and nothing is changed.
#[tokio::test]
async fn an_unsuitable_schema_is_an_error_with_the_reason() {
    let database = TestDatabase::create(USERS).await;
    let error = store(&database)
        .migrate()
        .users_table("people")
        .await
        .unwrap_err();
    assert!(
        message(&error).contains("the users' table people does not exist"),
        "{}",
        message(&error)
    );
    let error = store(&database)
        .migrate()
        .users_key("uid")
        .await
        .unwrap_err();
    assert!(message(&error).contains("column uid of the users' table public.users does not exist"));
    let error = store(&database)
        .migrate()
        .users_key("role")
        .await
        .unwrap_err();
    assert!(
        message(&error).contains("no unique constraint"),
        "{}",
        message(&error)
    );
    let odd = store(&database).with_table("");
    assert!(odd.migrate().await.is_err());
    assert_eq!(number(&database, COUNT).await, 0);

    sql(&database, "CREATE TABLE sessions (id int)").await;
    let error = store(&database).migrate().await.unwrap_err();
    assert!(
        message(&error).contains("exists and is not a table of sessions"),
        "{}",
        message(&error)
    );
    let columns =
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attnum > 0";
    assert_eq!(number(&database, columns).await, 1);
    // Another table of sessions does not make this one suitable.
    let other = store(&database).with_table("web_sessions");
    other.migrate().await.unwrap();
    let error = store(&database).migrate().await.unwrap_err();
    assert!(
        message(&error).contains("exists and is not a table of sessions"),
        "{}",
        message(&error)
    );
}

/// The key has the type that it has in the users table, whatever other objects have its name.
#[tokio::test]
async fn the_key_has_the_type_of_the_users_key() {
    let database = TestDatabase::create(&format!(
        "CREATE TABLE a (id text PRIMARY KEY); {USERS}; CREATE TABLE z (id text PRIMARY KEY)"
    ))
    .await;
    store(&database).migrate().await.unwrap();
    let column = "SELECT count(*) FROM information_schema.columns
        WHERE table_name = 'sessions' AND column_name = 'user_id' AND data_type = 'bigint'";
    assert_eq!(number(&database, column).await, 1);
    store(&database).check().await.unwrap();
}

/// The table rejects each impossible session, whatever statement writes it.
#[tokio::test]
async fn the_table_rejects_impossible_sessions() {
    let database = database().await;
    let client = database.client().await;
    let insert = async |column: &str, value: &str| {
        let columns = BTreeMap::from([
            ("token_digest", "sha256('a')"),
            ("user_id", "1"),
            ("expires_at", "now() + interval '1 day'"),
            (column, value),
        ]);
        let names: Vec<_> = columns.keys().copied().collect();
        let values: Vec<_> = columns.values().copied().collect();
        let insert = format!(
            "INSERT INTO sessions ({}) VALUES ({})",
            names.join(", "),
            values.join(", ")
        );
        client.execute(&insert, &[]).await
    };
    for (column, value) in [
        ("token_digest", "substr(sha256('a'), 2)"),
        ("token_digest", "sha256('a') || 'a'"),
        ("created_at", "'-infinity'"),
        ("created_at", "'infinity'"),
        ("authenticated_at", "'-infinity'"),
        ("authenticated_at", "'infinity'"),
        ("last_seen_at", "'-infinity'"),
        ("last_seen_at", "'infinity'"),
        ("expires_at", "'-infinity'"),
        ("expires_at", "'infinity'"),
        ("user_agent", "repeat('a', 1025)"),
        ("user_agent", "repeat('ä', 513)"),
    ] {
        let error = insert(column, value).await.unwrap_err();
        assert_eq!(
            error.code(),
            Some(&SqlState::CHECK_VIOLATION),
            "{column} = {value}"
        );
    }
    insert("user_agent", "repeat('a', 1024)").await.unwrap();
}

/// Settings of a migration stay on no connection of the pool, on which the files then run with the
/// defaults.
#[tokio::test]
async fn settings_end_with_the_migration() {
    let database = TestDatabase::create(&format!(
        "{USERS}; CREATE SCHEMA app; CREATE TABLE app.accounts (account_id text PRIMARY KEY)"
    ))
    .await;
    let only = pool(&database, 1);
    let elsewhere = PgSessionStore::<User>::new(only.clone()).with_table("web_sessions");
    let migrate = elsewhere.migrate().users_table("app.accounts");
    let migrate = migrate.users_key("account_id").notify_on_user_change();
    migrate.await.unwrap();
    let client = only.get().await.unwrap();
    // Settings of a finished transaction are empty on their connection, and no longer null.
    for setting in [
        "sessions_table",
        "users_table",
        "users_key",
        "announce_users",
        "announce_users_columns",
        "audit_columns",
        "audit_idle_timeout",
    ] {
        let set = format!("BEGIN; SET LOCAL tower_user_session.{setting} = 'off'; COMMIT");
        client.batch_execute(&set).await.unwrap();
    }
    for file in [
        include_str!("../../../migrations/0001_create_sessions.sql"),
        include_str!("../../../migrations/0002_announce_sessions.sql"),
        include_str!("../../../migrations/0003_revoke_sessions.sql"),
        AUDIT,
    ] {
        client.batch_execute(file).await.unwrap();
    }
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tower_user_session%'
        AND tgrelid IN ('sessions'::regclass, 'users'::regclass)";
    assert_eq!(number(&database, triggers).await, 7);
    drop(client);
    store(&database).check().await.unwrap();
}

/// An ordinary role needs only the documented privileges, for the second run too.
#[tokio::test]
async fn a_migration_needs_the_documented_privileges() {
    let database = TestDatabase::create(USERS).await;
    let role = format!("migrator_{}", database.name());
    for statement in [
        &*format!("CREATE ROLE {role} LOGIN"),
        &format!("GRANT CREATE ON SCHEMA public TO {role}"),
        &format!("GRANT REFERENCES ON users TO {role}"),
    ] {
        sql(&database, statement).await;
    }
    let mut config = database.config();
    config.user(&role);
    let manager = Manager::new(config, NoTls);
    let limited = Pool::builder(manager).max_size(1).build().unwrap();
    let store = PgSessionStore::<User>::new(limited.clone());
    for _ in 0..2 {
        store.migrate().await.unwrap();
        store.migrate().notify_on_revocation().await.unwrap();
    }
    assert!(store.migrate().notify_on_user_change().await.is_err());
    let own = format!("ALTER TABLE users OWNER TO {role}");
    sql(&database, &own).await;
    for _ in 0..2 {
        store.migrate().notify_on_user_change().await.unwrap();
    }
    limited.close();
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
}

/// A migration that is canceled at any point leaves nothing half done.
#[tokio::test]
async fn a_migration_that_is_cancelled_leaves_nothing_or_everything() {
    let database = TestDatabase::create(USERS).await;
    for polls in 0..12 {
        let mut migration = Box::pin(IntoFuture::into_future(store(&database).migrate()));
        let mut left = polls;
        std::future::poll_fn(|cx| {
            if left == 0 || migration.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(());
            }
            left -= 1;
            std::task::Poll::Pending
        })
        .await;
        drop(migration);
        let tables = number(&database, COUNT).await;
        if tables > 0 {
            store(&database).check().await.unwrap();
        }
    }
    store(&database).migrate().await.unwrap();
    store(&database).check().await.unwrap();
}

/// The files run under psql unchanged, with and without the settings, and `migrate` then finds its
/// work done.
#[tokio::test]
async fn the_files_run_under_psql() {
    let name = "postgres::migrations::the_files_run_under_psql";
    let Some(psql) = psql().await else {
        return skip(name, "there is no psql here");
    };
    let database = TestDatabase::create(&format!(
        "{USERS}; CREATE SCHEMA app; CREATE TABLE app.accounts (account_id text PRIMARY KEY)"
    ))
    .await;
    let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = [
        format!("{migrations}/0001_create_sessions.sql"),
        format!("{migrations}/0002_announce_sessions.sql"),
        format!("{migrations}/0003_revoke_sessions.sql"),
    ];
    let run = |settings: &str| {
        let output = Command::new(&psql)
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &database.url()])
            .args([
                "-c", settings, "-f", &files[0], "-f", &files[1], "-f", &files[2],
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run("SELECT 1");
    run("SELECT 1");
    store(&database).migrate().await.unwrap();
    store(&database).check().await.unwrap();
    run("SET tower_user_session.users_table = 'app.accounts';
         SET tower_user_session.users_key = 'account_id';
         SET tower_user_session.sessions_table = 'app.\"Web Sessions\"';
         SET tower_user_session.announce_users = 'on'");
    let column = "SELECT count(*) FROM information_schema.columns
        WHERE table_schema = 'app' AND table_name = 'Web Sessions' AND column_name = 'user_id' AND data_type = 'text'";
    assert_eq!(number(&database, column).await, 1);
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tower_user_session%'
        AND tgrelid IN ('app.\"Web Sessions\"'::regclass, 'app.accounts'::regclass)";
    assert_eq!(number(&database, triggers).await, 4);
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tower_user_session%'
        AND tgrelid IN ('sessions'::regclass, 'users'::regclass)";
    assert_eq!(number(&database, triggers).await, 3);
    let revoke = r#"SELECT cardinality(app."Web Sessions_revoke_all"('ada'))::bigint"#;
    assert_eq!(number(&database, revoke).await, 0);
}

/// Concurrent runs of the files are serialized, also without `migrate` and at every isolation
/// level.
#[tokio::test]
async fn concurrent_runs_of_the_files_are_serialized() {
    let create = include_str!("../../../migrations/0001_create_sessions.sql");
    let revoke = include_str!("../../../migrations/0003_revoke_sessions.sql");
    for level in ["read committed", "repeatable read", "serializable"] {
        let database = TestDatabase::create(USERS).await;
        let set = format!(
            "ALTER DATABASE {} SET default_transaction_isolation = '{level}'",
            database.name()
        );
        sql(&database, &set).await;
        for _ in 0..3 {
            let mut clients = Vec::new();
            for _ in 0..6 {
                clients.push(database.client().await);
            }
            let mut runs = tokio::task::JoinSet::new();
            for client in clients {
                runs.spawn(async move {
                    client.batch_execute(create).await?;
                    client.batch_execute(revoke).await
                });
            }
            for run in runs.join_all().await {
                run.unwrap_or_else(|error| panic!("{level}: {error:?}"));
            }
            sql(&database, "DROP TABLE sessions").await;
        }
    }
}
