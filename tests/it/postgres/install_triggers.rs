//! Installing `migrations/0002_announce_sessions.sql`, and checking that it is in place.

use std::time::Duration;

use ephemeral_postgres::TestDatabase;
use tower_user_session::PgSessionStore;

use crate::support::{
    USERS, User, cookie, database,
    notifications::{Feed, id},
    number, pool, sessions, sql,
};

const ANNOUNCED: &str = include_str!("../../../src/postgres/sql/announced.sql");

/// A repeated installation changes nothing and waits for no lock. Disabled or lost triggers are
/// repaired. `check` reports whether all are in place.
#[tokio::test]
async fn triggers_are_installed_once_and_checked() {
    let database = TestDatabase::create(USERS).await;
    let store = PgSessionStore::<User>::new(pool(&database, 4));
    let client = database.client().await;
    let announced = ANNOUNCED.replace(":table_name", "$1");
    let announced = async || {
        let row = client.query_one(&announced, &[&"sessions"]).await.unwrap();
        (row.get::<_, String>(0), row.get(1), row.get(2))
    };
    let users = "SELECT 'tower_user_session_users_' || 'users'::regclass::oid";
    let users: String = client.query_one(users, &[]).await.unwrap().get(0);
    assert!(client.query_one(ANNOUNCED, &[]).await.is_err());
    store.migrate().await.unwrap();
    let channel = Feed::of(&database, "sessions").await.channel;
    let is =
        |sessions, with_users: bool| (channel.clone(), sessions, with_users.then(|| users.clone()));
    assert_eq!(announced().await, is(false, false));
    store.migrate().notify_on_revocation().await.unwrap();
    assert_eq!(announced().await, is(true, false));
    // The order makes no difference.
    let both = store.migrate().notify_on_user_change();
    both.notify_on_revocation().await.unwrap();
    assert_eq!(announced().await, is(true, true));

    let mut busy = database.client().await;
    let writing = busy.transaction().await.unwrap();
    let lock = "LOCK TABLE sessions, users IN ROW EXCLUSIVE MODE";
    writing.execute(lock, &[]).await.unwrap();
    let before = "SELECT max(oid)::text::bigint FROM pg_trigger";
    let before_again = number(&database, before).await;
    let again = store.migrate().notify_on_user_change().into_future();
    let again = tokio::time::timeout(Duration::from_secs(60), again).await;
    again
        .expect("the installation waited for the writer")
        .unwrap();
    store.migrate().await.unwrap();
    assert_eq!(number(&database, before).await, before_again);
    writing.rollback().await.unwrap();

    store.check().await.unwrap();
    for (loss, left) in [
        ("ALTER TABLE sessions DISABLE TRIGGER USER", is(false, true)),
        (
            "ALTER TABLE sessions ENABLE REPLICA TRIGGER tower_user_session_ended",
            is(false, true),
        ),
        ("ALTER TABLE sessions ENABLE TRIGGER ALL", is(false, true)),
        ("ALTER TABLE users ENABLE TRIGGER ALL", is(true, false)),
        (
            "ALTER TABLE users DISABLE TRIGGER tower_user_session_user_changed",
            is(true, false),
        ),
        (
            "-- Of an earlier version:
             CREATE OR REPLACE TRIGGER tower_user_session_emptied AFTER TRUNCATE ON sessions
                 FOR EACH STATEMENT EXECUTE FUNCTION tower_user_session_announce();
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER tower_user_session_emptied",
            is(false, true),
        ),
        (
            "CREATE OR REPLACE TRIGGER tower_user_session_user_changed AFTER UPDATE ON users
                 REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
                 FOR EACH STATEMENT EXECUTE FUNCTION tower_user_session_announce_user('2', 'email');
             ALTER TABLE users ENABLE ALWAYS TRIGGER tower_user_session_user_changed",
            is(true, false),
        ),
        (
            "DROP TRIGGER tower_user_session_emptied ON sessions",
            is(false, true),
        ),
        (
            "CREATE FUNCTION another() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE OR REPLACE TRIGGER tower_user_session_emptied AFTER TRUNCATE ON sessions
                 FOR EACH STATEMENT EXECUTE FUNCTION another();
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER tower_user_session_emptied",
            is(false, true),
        ),
        (
            "DROP TRIGGER tower_user_session_user_changed ON users",
            is(true, false),
        ),
        (
            "DROP FUNCTION IF EXISTS tower_user_session_announce(), tower_user_session_announce_user() CASCADE",
            is(false, false),
        ),
    ] {
        client.batch_execute(loss).await.unwrap();
        assert_eq!(announced().await, left, "{loss}");
        if loss.contains("earlier version") {
            let message = format!("{:?}", store.check().await.unwrap_err());
            assert!(message.contains("needs schema version 2"), "{message}");
        } else {
            store.check().await.unwrap();
        }
        store.migrate().notify_on_user_change().await.unwrap();
        assert_eq!(announced().await, is(true, true), "{loss}");
    }
}

/// The check covers one table, and a trigger counts only if it announces each change.
#[tokio::test]
async fn other_triggers_are_not_mistaken_for_the_announcing_ones() {
    let database = database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    let client = database.client().await;
    let announced = ANNOUNCED.replace(":table_name", "$1");
    let announced = async |table: &str| -> bool {
        let row = client.query_one(&announced, &[&table]).await;
        row.unwrap().get(1)
    };

    // The application's own triggers, after the same statements.
    client
        .batch_execute(
            "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER d AFTER DELETE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION audit('2');
             CREATE TRIGGER u AFTER UPDATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION audit('2');
             CREATE TRIGGER t AFTER TRUNCATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION audit('2');
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER d;
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER u;
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER t",
        )
        .await
        .unwrap();
    assert!(!announced("sessions").await);

    // Triggers of another table.
    let other = PgSessionStore::<User>::new(pool(&database, 2)).with_table("others");
    other.migrate().notify_on_revocation().await.unwrap();
    assert!(announced("others").await);
    assert!(!announced("sessions").await);

    store.migrate().notify_on_revocation().await.unwrap();
    assert!(announced("sessions").await);
    // A trigger that announces some changes only.
    client
        .batch_execute(
            "CREATE OR REPLACE TRIGGER tower_user_session_emptied AFTER TRUNCATE ON sessions
             FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION tower_user_session_announce('2');
             ALTER TABLE sessions ENABLE ALWAYS TRIGGER tower_user_session_emptied",
        )
        .await
        .unwrap();
    assert!(!announced("sessions").await);
    assert!(announced("others").await);
    store.migrate().notify_on_revocation().await.unwrap();
    assert!(announced("sessions").await);
}

/// The re-check interval depends on whether the users of the sessions table are announced. Neither
/// the users of another sessions table, nor another table that the sessions reference, nor a trigger
/// of the application counts.
#[tokio::test]
async fn only_the_users_of_a_sessions_table_count_as_announced() {
    let database = database().await;
    let client = database.client().await;
    let people = "CREATE TABLE people (id bigint PRIMARY KEY)";
    client.batch_execute(people).await.unwrap();
    let web = PgSessionStore::<User>::new(pool(&database, 2)).with_table("web");
    let migrate = web.migrate().users_table("people");
    migrate.notify_on_user_change().await.unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    store.migrate().notify_on_revocation().await.unwrap();

    let announced = ANNOUNCED.replace(":table_name", "$1");
    let announced = async |table: &str| -> Option<String> {
        let row = client.query_one(&announced, &[&table]).await;
        row.unwrap().get(2)
    };
    let channel = async |table: &str| -> Option<String> {
        let channel = format!("SELECT 'tower_user_session_users_' || '{table}'::regclass::oid");
        client.query_one(&channel, &[]).await.unwrap().get(0)
    };
    for statements in [
        "",
        "ALTER TABLE sessions ADD COLUMN invited_by bigint REFERENCES people",
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER audit AFTER UPDATE ON users
             FOR EACH STATEMENT EXECUTE FUNCTION audit('2', 'id');
         ALTER TABLE users ENABLE ALWAYS TRIGGER audit",
    ] {
        client.batch_execute(statements).await.unwrap();
        assert_eq!(announced("sessions").await, None, "{statements}");
        assert_eq!(announced("web").await, channel("people").await);
    }
    store.migrate().notify_on_user_change().await.unwrap();
    assert_eq!(announced("sessions").await, channel("users").await);
}

/// Functions that an older version of this library installed are replaced.
#[tokio::test]
async fn older_functions_are_replaced() {
    let database = database().await;
    for function in [
        "tower_user_session_announce",
        "tower_user_session_announce_user",
    ] {
        let older = format!(
            "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        );
        sql(&database, &older).await;
    }
    let sessions = sessions(&database);
    let migrate = sessions.store().migrate().notify_on_user_change();
    migrate.await.unwrap();
    let mut feed = Feed::of(&database, "sessions").await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sql(&database, "UPDATE users SET role = 'x' WHERE id = 1").await;
    feed.users(&["1"]).await;
    let signed_out = sessions.sign_out(&cookie(&sessions, ada.token())).await;
    assert!(signed_out.ended().unwrap());
    feed.one("ended", &[id(&ada)]).await;
}

/// A function that another role could change later must not run with the privileges of roles that
/// write.
#[tokio::test]
async fn a_function_owned_by_another_role_is_rejected() {
    let database = database().await;
    let role = format!("stranger_{}", database.name());
    for statement in [
        &*format!("CREATE ROLE {role}"),
        &format!("GRANT CREATE ON SCHEMA public TO {role}"),
        "CREATE FUNCTION tower_user_session_announce() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        &format!("ALTER FUNCTION tower_user_session_announce() OWNER TO {role}"),
    ] {
        sql(&database, statement).await;
    }
    let migrate = sessions(&database).store().migrate();
    let error = migrate.notify_on_revocation().await.unwrap_err();
    let message = format!("{error:?}");
    assert!(message.contains("belongs to another role"), "{message}");
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
    let migrate = sessions(&database).store().migrate();
    migrate.notify_on_revocation().await.unwrap();
}

/// Without the sessions table, or with another table of that name, the error says what to do.
#[tokio::test]
async fn the_second_migration_needs_the_first() {
    let database = TestDatabase::create(USERS).await;
    let file = include_str!("../../../migrations/0002_announce_sessions.sql");
    let client = database.client().await;
    for meanwhile in ["", "CREATE TABLE sessions (id int)"] {
        client.batch_execute(meanwhile).await.unwrap();
        let error = client.batch_execute(file).await.unwrap_err();
        let hint = error.as_db_error().unwrap().hint().unwrap();
        assert!(hint.contains("0001_create_sessions.sql"), "{hint}");
    }
}
