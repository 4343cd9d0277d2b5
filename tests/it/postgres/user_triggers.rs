//! Which users the trigger on their table announces, and with which payload.

use std::time::SystemTime;

use ephemeral_postgres::{TestDatabase, skip};
use tower_user_session::{
    PgSessionStore,
    session::{SessionId, UserKey},
    store::SessionStore as _,
};

use crate::support::{
    User, database,
    notifications::{Feed, announced_users},
    number, pool, sessions, sql,
};

/// C09, C10: a user is announced if a column of the row changes, including `json`, which has no
/// equality. The user needs no session.
#[tokio::test]
async fn changed_users_are_announced_if_configured() {
    let database = database().await;
    let migrate = || sessions(&database).store().migrate();
    migrate().notify_on_revocation().await.unwrap();
    let mut feed = Feed::of(&database, "sessions").await;
    sql(&database, "UPDATE users SET role = 'a'").await;
    feed.expect_none("not asked").await;
    migrate().notify_on_user_change().await.unwrap();
    for statement in [
        "ALTER TABLE users ADD COLUMN settings json DEFAULT '{}'",
        "ALTER TABLE users ADD COLUMN place point",
        "ALTER TABLE users ADD COLUMN n int, ADD COLUMN o int, ADD COLUMN s int, ADD COLUMN key int",
        "ALTER TABLE users DROP COLUMN created_at",
    ] {
        sql(&database, statement).await;
    }
    feed.expect_none("the table").await;
    for change in [
        "role = 'b'",
        "disabled_at = now()",
        "disabled_at = NULL",
        "settings = '{\"a\": 1}'",
        "place = '(1, 2)'",
        "email = 'other'",
    ] {
        let update = format!("UPDATE users SET {change} WHERE id = 1");
        sql(&database, &update).await;
        feed.users(&["1"]).await;
    }
    sql(&database, "UPDATE users SET role = 'b'").await;
    feed.users(&["2"]).await;
    for nothing in ["role = role", "settings = settings, email = email"] {
        sql(&database, &format!("UPDATE users SET {nothing}")).await;
        feed.expect_none(nothing).await;
    }
    let no_user = "UPDATE users SET role = 'c' WHERE id = 99";
    sql(&database, no_user).await;
    feed.expect_none(no_user).await;
    // The old key and the new one.
    sql(&database, "UPDATE users SET id = 7 WHERE id = 1").await;
    feed.users(&["1", "7"]).await;
    for statement in [
        "ALTER TABLE sessions RENAME TO web",
        "ALTER TABLE users RENAME TO people",
        "UPDATE people SET role = 'd' WHERE id = 2",
    ] {
        sql(&database, statement).await;
    }
    feed.users(&["2"]).await;
}

/// A trigger that does not find the key any more announces everything, and does not count as
/// installed.
#[tokio::test]
async fn a_renamed_key_announces_everything() {
    let (database, sessions, mut feed) = announced_users().await;
    sql(&database, "ALTER TABLE users RENAME COLUMN id TO \"Key\"").await;
    sql(&database, "UPDATE users SET role = 'd'").await;
    assert_eq!(feed.received().await, ["everything"]);
    let no_user = "UPDATE users SET role = 'd' WHERE \"Key\" = 99";
    sql(&database, no_user).await;
    feed.expect_none(no_user).await;
    let announced = include_str!("../../../src/postgres/sql/announced.sql");
    let announced = announced.replace(":table_name", "$1");
    let client = database.client().await;
    let users: Option<String> = client
        .query_one(&announced, &[&"sessions"])
        .await
        .unwrap()
        .get(2);
    assert_eq!(users, None);
    let migrate = sessions.store().migrate().users_key("Key");
    migrate.notify_on_user_change().await.unwrap();
    sql(&database, "UPDATE users SET role = 'e' WHERE \"Key\" = 2").await;
    feed.users(&["2"]).await;
}

/// One statement sends one notification: at the size limit of a payload, and beyond it.
#[tokio::test]
async fn a_statement_announces_users_once() {
    let (database, _, mut feed) = announced_users().await;
    let fill = "INSERT INTO users (id, email) SELECT n, n FROM generate_series(3, 471) AS n";
    sql(&database, fill).await;
    let all: Vec<_> = (1..471).map(|key| key.to_string()).collect();
    let all: Vec<_> = all.iter().map(|key| &**key).collect();
    sql(&database, "UPDATE users SET role = 'a' WHERE id < 471").await;
    feed.users(&all).await;
    sql(&database, "UPDATE users SET role = 'b'").await;
    assert_eq!(feed.received().await, ["everything"]);
}

/// The payload that announces a user whose key has this type.
enum By {
    /// The hash that the lookup computes too.
    Hash,
    Everything,
}

/// N01: the announced hash is that of the user's sessions, for each type that has one, in each
/// spelling that equals the key, for any settings of the role that updates. Other types announce
/// everything.
#[tokio::test]
async fn a_key_of_every_type_announces_its_sessions() {
    use By::{Everything, Hash};
    let loose = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    let word = "CREATE TYPE word AS (text text)";
    for (setup, key_type, key, also, by) in [
        ("", "smallint", "7", "7", Hash),
        ("", "integer", "-7", "-7", Hash),
        (
            "",
            "bigint",
            "9223372036854775807",
            "9223372036854775807",
            Hash,
        ),
        ("", "text", "'a''b ü'", "'a''b ü'", Hash),
        ("", "varchar(20)", "'ada'", "'ada'", Hash),
        (
            "",
            "uuid",
            "'07070707-0707-0707-0707-07070707070A'",
            "'070707070707070707070707-0707070A'",
            Hash,
        ),
        (
            "CREATE EXTENSION citext",
            "citext",
            "'Ada@Example.com'",
            "'ada@example.COM'",
            Hash,
        ),
        (loose, "text COLLATE loose", "'Ada'", "'aDA'", Hash),
        ("", "numeric", "7", "7.0", Everything),
        ("", "char(5)", "'ada'", "'ada  '", Everything),
        ("", "double precision", "1e300", "1e300", Everything),
        (
            "",
            "timestamptz",
            "'2000-01-01 00:00 UTC'",
            "'2000-01-01 02:00+02'",
            Everything,
        ),
        ("", "bytea", "'\\x07'", "'\\x07'", Everything),
        (
            "CREATE DOMAIN number AS int",
            "number",
            "7",
            "7",
            Everything,
        ),
        (word, "word", "ROW('ada')", "ROW('ada')", Everything),
    ] {
        let users = format!(
            "CREATE TABLE users (id {key_type} PRIMARY KEY, name json, disabled_at timestamptz);
             INSERT INTO users VALUES ({key}, '1')"
        );
        let database = TestDatabase::create("").await;
        let client = database.client().await;
        if let Err(error) = client.batch_execute(setup).await {
            let name = "postgres::user_triggers::a_key_of_every_type_announces_its_sessions";
            skip(name, &format!("no {key_type} here: {error}"));
            continue;
        }
        client.batch_execute(&users).await.unwrap();
        let store = PgSessionStore::<User>::new(pool(&database, 2));
        for _ in 0..2 {
            store.migrate().notify_on_user_change().await.unwrap();
        }
        let mut feed = Feed::of(&database, "sessions").await;
        let insert = format!(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
             VALUES (sha256('a'), {also}, now() + interval '1 day') RETURNING id"
        );
        let session: SessionId = client.query_one(&insert, &[]).await.unwrap().get(0);
        let live = store.remaining_lifetimes(&[session]).await.unwrap();
        for settings in [
            "",
            "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = -15;
             SET bytea_output = 'escape'; SET lc_monetary = 'C'; SET search_path = ''",
        ] {
            client.batch_execute(settings).await.unwrap();
            let update = "UPDATE public.users SET name = pg_catalog.to_json(name::text || '!')";
            client.batch_execute(update).await.unwrap();
            let received = feed.received().await;
            match by {
                Hash => {
                    let [payload] = &*received else {
                        panic!("{key_type}: {received:?}");
                    };
                    let hash = payload.strip_prefix("users ").unwrap();
                    let hash = u64::from_str_radix(hash, 16).unwrap();
                    let announced = UserKey::from_hash(hash);
                    assert_eq!(live[0].user_key, Some(announced), "{key_type}");
                }
                Everything => {
                    assert_eq!(received, ["everything"], "{key_type}");
                    assert_eq!(live[0].user_key, None, "{key_type}");
                }
            }
        }
    }
}

/// With a list of columns, a change of one of them or of the key is announced, and no other change.
#[tokio::test]
async fn changes_of_ignored_columns_are_not_announced() {
    let database = database().await;
    sql(&database, "ALTER TABLE users ADD COLUMN \"Seen; at\" json").await;
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    let columns = ["role", "Seen; at"];
    let trigger =
        "SELECT oid::text::bigint FROM pg_trigger WHERE tgname = 'tower_user_session_user_changed'";
    let migrate = async || {
        let migrate = store.migrate().notify_on_user_change_if(columns);
        migrate.await.unwrap();
        number(&database, trigger).await
    };
    let installed = migrate().await;
    assert_eq!(migrate().await, installed, "it is installed again");
    let mut feed = Feed::of(&database, "sessions").await;
    for (change, announced) in [
        ("role = role || '!'", true),
        ("\"Seen; at\" = '1'", true),
        ("\"Seen; at\" = '1'", false),
        ("email = email || '!'", false),
        ("disabled_at = now()", false),
        ("role = role", false),
    ] {
        let update = format!("UPDATE users SET {change} WHERE id = 1");
        sql(&database, &update).await;
        if announced {
            feed.users(&["1"]).await;
        } else {
            feed.expect_none(change).await;
        }
    }
    sql(&database, "UPDATE users SET id = 7 WHERE id = 1").await;
    feed.users(&["1", "7"]).await;
    sql(&database, "UPDATE users SET role = 'x'").await;
    assert_eq!(feed.received().await.len(), 2, "each by itself");

    // The feed accepts it, and the other form replaces it.
    let announced = include_str!("../../../src/postgres/sql/announced.sql");
    let announced = announced.replace(":table_name", "$1");
    let client = database.client().await;
    for columns in [&["email"][..], &[]] {
        let row = client.query_one(&announced, &[&"sessions"]).await.unwrap();
        assert_eq!(row.get::<_, Option<&str>>(2), Some(&*feed.users));
        if columns.is_empty() {
            store.migrate().notify_on_user_change().await.unwrap();
        } else {
            let migrate = store.migrate().notify_on_user_change_if(columns);
            migrate.await.unwrap();
        }
        sql(
            &database,
            "UPDATE users SET email = email || '!' WHERE id = 2",
        )
        .await;
        feed.users(&["2"]).await;
    }
}

/// Other columns that reference the users, of other tables and of the sessions table itself, have
/// no effect.
#[tokio::test]
async fn other_references_to_users_are_not_sessions() {
    let (database, sessions, mut feed) = announced_users().await;
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    for statement in [
        "CREATE TABLE posts (user_id bigint REFERENCES users)",
        "INSERT INTO posts VALUES (1), (2)",
        "ALTER TABLE sessions ADD COLUMN invited_by text REFERENCES users (email)",
        "UPDATE sessions SET invited_by = 'eve@example.com'",
    ] {
        sql(&database, statement).await;
    }
    feed.received().await;
    sql(&database, "UPDATE users SET role = 'x' WHERE id = 2").await;
    feed.users(&["2"]).await;
}

/// M13: a role with only REFERENCES on the users' key makes its own table look like a table of
/// sessions, with a function of its own that runs when that table is read. Updating a user does not
/// read it.
#[tokio::test]
async fn a_role_that_may_reference_users_runs_no_code() {
    let (database, _, mut feed) = announced_users().await;
    let role = format!("referrer_{}", database.name());
    let client = database.client().await;
    let prepare = format!(
        "CREATE ROLE {role};
         CREATE SCHEMA own AUTHORIZATION {role};
         GRANT REFERENCES (id) ON users TO {role};
         CREATE TABLE ran (by name);
         GRANT INSERT ON ran TO {role};
         SET ROLE {role};
         CREATE TYPE own.time AS (at timestamptz);
         CREATE FUNCTION own.spy(own.time) RETURNS timestamptz LANGUAGE plpgsql AS
             'BEGIN INSERT INTO public.ran VALUES (current_user); RETURN ''infinity''; END';
         CREATE CAST (own.time AS timestamptz) WITH FUNCTION own.spy(own.time) AS IMPLICIT;
         CREATE FUNCTION own.quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TABLE own.base (
             id uuid, token_digest bytea, user_id bigint REFERENCES public.users (id), expires_at own.time
         );
         CREATE TRIGGER tower_user_session_ended AFTER DELETE ON own.base
             REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION own.quiet();
         INSERT INTO own.base VALUES (gen_random_uuid(), '', 1, ROW(now()));
         RESET ROLE"
    );
    client.batch_execute(&prepare).await.unwrap();
    let update = "UPDATE users SET role = role || '!' WHERE id = 1";
    client.batch_execute(update).await.unwrap();
    feed.users(&["1"]).await;
    assert_eq!(number(&database, "SELECT count(*) FROM ran").await, 0);
    let drop = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    client.batch_execute(&drop).await.unwrap();
}

/// N02: the notification comes with the commit, and sessions that began meanwhile have the user's
/// hash too.
#[tokio::test]
async fn a_user_is_announced_when_the_change_is_committed() {
    let (database, sessions, mut feed) = announced_users().await;
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let update = "UPDATE users SET disabled_at = now() WHERE id = 1";
    transaction.execute(update, &[]).await.unwrap();
    feed.expect_none("before the commit").await;
    let begun = SystemTime::now();
    let meanwhile = sessions.sign_in_without_request(1).await.unwrap();
    assert!(begun.elapsed().unwrap().as_secs() < 60);
    transaction.commit().await.unwrap();
    feed.users(&["1"]).await;
    assert_eq!(sessions.user(meanwhile.token()).await.unwrap(), None);
}
