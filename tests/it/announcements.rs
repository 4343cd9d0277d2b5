//! What `migrations/0002_announce_sessions.sql` announces, and what it does not.

use std::{collections::BTreeSet, future::poll_fn, process::Command, time::SystemTime};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{TestDatabase, skip};
use tokio::sync::mpsc;
use tower_user_session::{
    PgSessionStore, SessionId, SessionLimit, SessionLookup, SessionService, SignedIn,
    tokio_postgres::{AsyncMessage, Client, NoTls, Notification},
};

use crate::{
    secrets::Secrets,
    support::{
        PgSessions, USERS, User, cookie, current, database, number, pool, psql, sessions, sql,
    },
};

/// A connection that listens to a table's channel.
pub struct Feed {
    client: Client,
    pub channel: String,
    heard: mpsc::UnboundedReceiver<Notification>,
    barrier: u32,
}

impl Feed {
    pub async fn of(database: &TestDatabase, table: &str) -> Self {
        let (client, mut connection) = database.config().connect(NoTls).await.unwrap();
        let (send, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = send.send(notification);
                }
            }
        });
        let oid = format!("SELECT '{table}'::regclass::oid");
        let oid: u32 = client.query_one(&oid, &[]).await.unwrap().get(0);
        let channel = format!("tower_user_session_{oid}");
        let listen = format!("LISTEN {channel}; LISTEN barrier");
        client.batch_execute(&listen).await.unwrap();
        Self {
            client,
            channel,
            heard,
            barrier: 0,
        }
    }

    /// What was announced since the last call. Notifications come in the order of the commits, so
    /// that one of our own is behind all of them.
    pub async fn heard(&mut self) -> Vec<String> {
        self.barrier += 1;
        let barrier = format!("NOTIFY barrier, '{}'", self.barrier);
        self.client.batch_execute(&barrier).await.unwrap();
        let mut payloads = Vec::new();
        loop {
            let notification = self.heard.recv().await.unwrap();
            if notification.channel() == "barrier" {
                assert_eq!(notification.payload(), self.barrier.to_string());
                return payloads;
            }
            assert_eq!(notification.channel(), self.channel);
            payloads.push(notification.payload().to_owned());
        }
    }

    pub async fn silence(&mut self, what: &str) {
        assert_eq!(self.heard().await, [""; 0], "{what}");
    }

    /// One notification of this kind, of these sessions in any order.
    pub async fn one(&mut self, kind: &str, sessions: &[SessionId]) {
        let heard = self.heard().await;
        let [payload] = &heard[..] else {
            panic!("{heard:?}");
        };
        let mut words = payload.split(' ');
        assert_eq!(words.next(), Some(kind));
        let named: Vec<_> = words.collect();
        let expected: BTreeSet<_> = sessions.iter().map(name).collect();
        assert_eq!(named.len(), expected.len(), "{payload}");
        let named: BTreeSet<_> = named.into_iter().map(str::to_owned).collect();
        assert_eq!(named, expected);
    }
}

/// As a payload has it.
fn name(id: &SessionId) -> String {
    id.to_string().replace('-', "")
}

pub fn id(signed_in: &SignedIn) -> SessionId {
    signed_in.session().id()
}

async fn announced_sessions() -> (TestDatabase, PgSessions, Feed) {
    let database = database().await;
    let sessions = sessions(&database);
    let migrate = sessions.store().migrate().announce_ended_sessions();
    migrate.await.unwrap();
    let feed = Feed::of(&database, "sessions").await;
    (database, sessions, feed)
}

async fn announced_users() -> (TestDatabase, PgSessions, Feed) {
    let (database, sessions, feed) = announced_sessions().await;
    let migrate = sessions.store().migrate().announce_changed_users();
    migrate.await.unwrap();
    (database, sessions, feed)
}

/// So many live sessions of user 1, and what they are called.
async fn fill(database: &TestDatabase, count: i32) -> Vec<SessionId> {
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at)
        SELECT sha256(n::text::bytea), 1, now() + interval '1 day' FROM generate_series(1, $1) AS n
        RETURNING id";
    let rows = database.client().await.query(insert, &[&count]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// D07, D13: every way in which a session ends is announced once, with its name; also as a side effect.
#[tokio::test]
async fn every_end_of_a_session_is_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let mut adas = Vec::new();
    for _ in 0..5 {
        adas.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    let adas = <[SignedIn; 5]>::try_from(adas).unwrap();
    let [first, second, third, fourth, fifth] = adas;
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    feed.silence("new sessions").await;

    let signed_out = sessions.sign_out(&cookie(&sessions, first.token())).await;
    assert!(signed_out.ended().unwrap());
    feed.one("ended", &[id(&first)]).await;
    let _ = sessions.sign_out(&cookie(&sessions, first.token())).await;
    feed.silence("nothing ended").await;

    sessions.revoke(&1, id(&second)).await.unwrap();
    feed.one("ended", &[id(&second)]).await;
    sessions.revoke_others(&1, &current(&third)).await.unwrap();
    feed.one("ended", &[id(&fourth), id(&fifth)]).await;
    sessions.revoke_all(&1).await.unwrap();
    feed.one("ended", &[id(&third)]).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sessions.revoke_everyone().await.unwrap();
    feed.one("ended", &[id(&ada), id(&eve)]).await;

    // A sign-in that replaces, and one for which the oldest makes room.
    let old = sessions.sign_in_without_request(2).await.unwrap();
    let headers = cookie(&sessions, old.token());
    let new = sessions.sign_in(1, &headers).await.unwrap();
    feed.one("ended", &[id(&old)]).await;
    let limit = SessionLimit::end_oldest(1).unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_session_limit(limit);
    let newest = SessionService::new(store)
        .sign_in_without_request(1)
        .await
        .unwrap();
    feed.one("ended", &[id(&new)]).await;

    // With the user, in a trigger of the foreign key: one user, and more in one statement.
    let eves = sessions.sign_in_without_request(2).await.unwrap();
    sql(&database, "DELETE FROM users WHERE id = 1").await;
    feed.one("ended", &[id(&newest)]).await;
    sql(&database, "INSERT INTO users (id, email) VALUES (1, 'ada')").await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sql(&database, "DELETE FROM users").await;
    feed.one("ended", &[id(&eves), id(&ada)]).await;
}

/// D05: a session that goes on otherwise than before is announced as changed, and only then.
#[tokio::test]
async fn every_change_of_a_session_is_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    // Names that stand in the triggers too.
    let columns =
        "ALTER TABLE sessions ADD COLUMN most int, ADD COLUMN channel int, ADD COLUMN n int";
    sql(&database, columns).await;
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    let confirmed = sessions.confirm(1, &cookie(&sessions, old.token())).await;
    let confirmed = confirmed.unwrap();
    assert_eq!(id(&confirmed), id(&old));
    feed.one("changed", &[id(&old)]).await;
    for change in [
        "token_digest = sha256(token_digest)",
        "expires_at = expires_at - interval '1 microsecond'",
        "expires_at = expires_at + interval '1 microsecond'",
        "user_id = 2",
        "created_at = created_at - interval '1 hour'",
        "authenticated_at = authenticated_at - interval '1 hour'",
        "last_seen_at = last_seen_at - interval '1 microsecond'",
    ] {
        sql(&database, &format!("UPDATE sessions SET {change}")).await;
        feed.one("changed", &[id(&old), id(&other)]).await;
    }

    // Of a row in which the id itself changes, the old one and the new one.
    let new = SessionId::from_bytes([7; 16]);
    let rename = format!("UPDATE sessions SET id = '{new}' WHERE id = '{}'", id(&old));
    sql(&database, &rename).await;
    feed.one("changed", &[id(&old), new]).await;

    for nothing in [
        "last_seen_at = last_seen_at + interval '1 hour'",
        "user_agent = 'another', ip = '::1', remembered = true",
        "user_id = user_id",
    ] {
        sql(&database, &format!("UPDATE sessions SET {nothing}")).await;
        feed.silence(nothing).await;
    }
    let nobody = "UPDATE sessions SET expires_at = now() WHERE user_id = 99";
    sql(&database, nobody).await;
    feed.silence(nobody).await;
}

/// Use that is written down is silent: it is the most frequent write, and nobody's answer changes.
#[tokio::test]
async fn use_is_not_announced() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let idle = "UPDATE sessions SET last_seen_at = now() - interval '1 hour'";
    sql(&database, idle).await;
    feed.one("changed", &[id(&ada)]).await;
    let used = [(id(&ada), SystemTime::now())];
    sessions.store().touch(&used).await.unwrap();
    let touched =
        "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '30 minutes'";
    assert_eq!(number(&database, touched).await, 1);
    feed.silence("a touch").await;
}

/// D17: cleaning up after sessions whose absolute limit has passed says nothing; a live one would.
#[tokio::test]
async fn cleaning_up_floods_nobody() {
    let (database, sessions, mut feed) = announced_sessions().await;
    fill(&database, 300).await;
    let expire = "UPDATE sessions SET expires_at = now() - interval '1 day'";
    sql(&database, expire).await;
    assert_eq!(feed.heard().await, ["everything"]);
    let live = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.clean_up().await.unwrap(), 300);
    feed.silence("cleaning up").await;
    fill(&database, 1).await;
    sql(&database, expire).await;
    feed.heard().await;
    sql(&database, "DELETE FROM sessions").await;
    feed.silence("sessions that are over").await;
    let last = sessions.sign_in_without_request(2).await.unwrap();
    sql(&database, "DELETE FROM sessions").await;
    feed.one("ended", &[id(&last)]).await;
    assert_eq!(sessions.user(live.token()).await.unwrap(), None);
}

/// One statement, one notification, however many rows; at the boundary of what fits, and beyond it.
#[tokio::test]
async fn a_statement_announces_once() {
    let (database, _, mut feed) = announced_users().await;
    for count in [200, 242] {
        let ids = fill(&database, count).await;
        for change in [
            "UPDATE sessions SET expires_at = expires_at + interval '1 hour'",
            "UPDATE users SET role = role || '!'",
        ] {
            sql(&database, change).await;
            feed.one("changed", &ids).await;
        }
        sql(&database, "DELETE FROM sessions").await;
        feed.one("ended", &ids).await;
    }
    for count in [243, 10_000] {
        fill(&database, count).await;
        for change in [
            "UPDATE sessions SET expires_at = expires_at + interval '1 hour'",
            "UPDATE users SET role = role || '!'",
            "DELETE FROM sessions",
        ] {
            sql(&database, change).await;
            assert_eq!(feed.heard().await, ["everything"], "{change}");
        }
    }
    for truncate in ["TRUNCATE sessions", "TRUNCATE users CASCADE"] {
        sql(&database, truncate).await;
        assert_eq!(feed.heard().await, ["everything"], "{truncate}");
    }
}

/// A password change with the end of the other sessions: nothing before the commit, nothing without it.
#[tokio::test]
async fn nothing_is_announced_before_the_commit() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let this = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    for commit in [false, true] {
        let mut client = pool(&database, 1).get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let change = "UPDATE users SET role = 'new' WHERE id = 1";
        transaction.execute(change, &[]).await.unwrap();
        sessions
            .revoke_others_in_transaction(&transaction, &1, &current(&this))
            .await
            .unwrap();
        feed.silence("before the commit").await;
        if commit {
            transaction.commit().await.unwrap();
            feed.one("ended", &[id(&other)]).await;
        } else {
            transaction.rollback().await.unwrap();
            feed.silence("rolled back").await;
        }
    }
}

/// By hand, as another program would do it, and where ordinary triggers do not fire.
#[tokio::test]
async fn whoever_ends_a_session_announces_it() {
    let (database, sessions, mut feed) = announced_users().await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let client = database.client().await;
    let replica = "SET session_replication_role = replica";
    client.batch_execute(replica).await.unwrap();
    for (statement, kind) in [
        ("UPDATE users SET role = 'x' WHERE id = 1", "changed"),
        (
            "UPDATE sessions SET user_id = 2 WHERE user_id = 1",
            "changed",
        ),
        ("DELETE FROM sessions WHERE user_id = 2", "ended"),
    ] {
        client.execute(statement, &[]).await.unwrap();
        let both = [id(&ada), id(&eve)];
        let who = if kind == "changed" {
            &both[..1]
        } else {
            &both[..]
        };
        feed.one(kind, who).await;
    }
    client.execute("TRUNCATE sessions", &[]).await.unwrap();
    assert_eq!(feed.heard().await, ["everything"]);

    let Some(psql) = psql().await else {
        let name = "announcements::whoever_ends_a_session_announces_it";
        return skip(name, "there is no psql here");
    };
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let url = database.url();
    let delete = ["-X", "-d", &url, "-c", "DELETE FROM sessions"];
    let output = Command::new(psql).args(delete).output().unwrap();
    assert!(output.status.success());
    feed.one("ended", &[id(&ada)]).await;
}

/// C09, C10: a user's row that really changes, if that was asked for: of any column, `json` included,
/// which knows no equality; and only live sessions, found by whatever the tables are called meanwhile.
#[tokio::test]
async fn changed_users_are_announced_where_asked() {
    let (database, sessions, mut feed) = announced_sessions().await;
    let first = sessions.sign_in_without_request(1).await.unwrap();
    let second = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let over = sessions.sign_in_without_request(2).await.unwrap();
    let expire = format!(
        "UPDATE sessions SET expires_at = now() WHERE id = '{}'",
        id(&over)
    );
    sql(&database, &expire).await;
    feed.one("changed", &[id(&over)]).await;

    sql(&database, "UPDATE users SET role = 'a'").await;
    feed.silence("not asked").await;
    let migrate = || sessions.store().migrate().announce_changed_users();
    migrate().await.unwrap();
    for statement in [
        "ALTER TABLE users ADD COLUMN settings json DEFAULT '{}'",
        "ALTER TABLE users ADD COLUMN place point",
        "ALTER TABLE users ADD COLUMN n int, ADD COLUMN o int, ADD COLUMN s int, ADD COLUMN key int",
        "ALTER TABLE users DROP COLUMN created_at",
    ] {
        sql(&database, statement).await;
    }
    feed.silence("the table").await;
    for change in [
        "role = 'b'",
        "disabled_at = now()",
        "disabled_at = NULL",
        "settings = '{\"a\": 1}'",
        "place = '(1, 2)'",
        "email = 'other'",
    ] {
        sql(
            &database,
            &format!("UPDATE users SET {change} WHERE id = 1"),
        )
        .await;
        feed.one("changed", &[id(&first), id(&second)]).await;
    }
    sql(&database, "UPDATE users SET role = 'b'").await;
    feed.one("changed", &[id(&eve)]).await;
    for nothing in ["role = role", "settings = settings, email = email"] {
        sql(&database, &format!("UPDATE users SET {nothing}")).await;
        feed.silence(nothing).await;
    }
    let nobody = "UPDATE users SET role = 'c' WHERE id = 99";
    sql(&database, nobody).await;
    feed.silence(nobody).await;

    for statement in [
        "ALTER TABLE sessions RENAME TO web",
        "ALTER TABLE users RENAME COLUMN id TO \"Key\"",
        "ALTER TABLE users RENAME TO people",
        "UPDATE people SET role = 'd' WHERE \"Key\" = 2",
    ] {
        sql(&database, statement).await;
    }
    feed.one("changed", &[id(&eve)]).await;
    sql(&database, "DROP TABLE web").await;
    sql(&database, "UPDATE people SET role = 'e'").await;
    feed.silence("there are no sessions").await;
}

/// Other columns that refer to the users, of other tables and of the sessions' own, are in nobody's way.
#[tokio::test]
async fn other_references_to_users_are_none_of_sessions() {
    let (database, sessions, mut feed) = announced_users().await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    for statement in [
        "CREATE TABLE posts (user_id bigint REFERENCES users)",
        "INSERT INTO posts VALUES (1), (2)",
        "ALTER TABLE sessions ADD COLUMN invited_by text REFERENCES users (email)",
        "UPDATE sessions SET invited_by = 'eve@example.com'",
    ] {
        sql(&database, statement).await;
    }
    sql(&database, "UPDATE users SET role = 'x' WHERE id = 2").await;
    feed.silence("whoever invited").await;
    sql(&database, "UPDATE users SET role = 'x'").await;
    feed.one("changed", &[id(&ada)]).await;
}

/// Any type of key, also one of the application's own; any name of the tables.
#[tokio::test]
async fn keys_of_every_type_and_tables_of_any_name() {
    let table = "\"Sessions!\".\"log \"\"ins\"\"; --\"";
    for (key_type, key) in [
        ("integer", "7"),
        ("bigint", "7"),
        ("text", "'a''b'"),
        ("uuid", "'07070707-0707-0707-0707-070707070707'"),
        ("\"my App\".\"Key type\"", "'(1)'"),
    ] {
        let setup = format!(
            "CREATE SCHEMA \"my App\"; CREATE SCHEMA \"Sessions!\";
             CREATE TYPE \"my App\".\"Key type\" AS (number int);
             CREATE TABLE \"my App\".\"user's \"\"accounts\"\"\" (\"Key\" {key_type} PRIMARY KEY, name json);
             INSERT INTO \"my App\".\"user's \"\"accounts\"\"\" VALUES ({key}, '1');"
        );
        let database = TestDatabase::create(&setup).await;
        let store = PgSessionStore::<User>::new(pool(&database, 2))
            .with_schema("Sessions!")
            .with_table("log \"ins\"; --");
        for _ in 0..2 {
            let migrate = store
                .migrate()
                .users_table("\"my App\".\"user's \"\"accounts\"\"\"")
                .users_key("Key");
            migrate.announce_changed_users().await.unwrap();
        }
        let mut feed = Feed::of(&database, table).await;
        let insert = format!(
            "INSERT INTO {table} (token_digest, user_id, expires_at)
             VALUES (sha256('a'), {key}, now() + interval '1 day') RETURNING id"
        );
        let client = database.client().await;
        let session: SessionId = client.query_one(&insert, &[]).await.unwrap().get(0);
        let update = "UPDATE \"my App\".\"user's \"\"accounts\"\"\" SET name = '2'";
        sql(&database, update).await;
        feed.one("changed", &[session]).await;
        sql(&database, &format!("UPDATE {table} SET user_id = user_id")).await;
        feed.silence("the same key").await;
        sql(&database, &format!("DELETE FROM {table}")).await;
        feed.one("ended", &[session]).await;
    }
}

/// A key that equals the user's, and yet is another one, by the operators of its type, wherever they are: its
/// sessions are found, and to write it in the other way is a change.
#[tokio::test]
async fn keys_that_are_equal_and_not_the_same() {
    let words = "
        CREATE SCHEMA app;
        CREATE TYPE app.word AS (text text);
        CREATE FUNCTION app.compare(a app.word, b app.word) RETURNS int IMMUTABLE LANGUAGE sql
            AS 'SELECT bttextcmp(lower(a.text), lower(b.text))';
        CREATE FUNCTION app.less(a app.word, b app.word) RETURNS boolean IMMUTABLE LANGUAGE sql
            AS 'SELECT lower(a.text) < lower(b.text)';
        CREATE FUNCTION app.equal(a app.word, b app.word) RETURNS boolean IMMUTABLE LANGUAGE sql
            AS 'SELECT lower(a.text) = lower(b.text)';
        CREATE OPERATOR app.< (FUNCTION = app.less, LEFTARG = app.word, RIGHTARG = app.word);
        CREATE OPERATOR app.= (FUNCTION = app.equal, LEFTARG = app.word, RIGHTARG = app.word,
            COMMUTATOR = OPERATOR(app.=), MERGES);
        CREATE OPERATOR CLASS app.words DEFAULT FOR TYPE app.word USING btree AS
            OPERATOR 1 app.<, OPERATOR 3 app.=, FUNCTION 1 app.compare(app.word, app.word);";
    for (setup, key_type, key, equal) in [
        ("", "numeric", "7", "7.0"),
        (words, "app.word", "ROW('ada')", "ROW('ADA')"),
    ] {
        let setup = format!(
            "{setup} CREATE TABLE users (id {key_type} PRIMARY KEY, name text);
             INSERT INTO users VALUES ({key}, 'Ada')"
        );
        let database = TestDatabase::create(&setup).await;
        let store = PgSessionStore::<User>::new(pool(&database, 2));
        store.migrate().announce_changed_users().await.unwrap();
        let mut feed = Feed::of(&database, "sessions").await;
        let insert = format!(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
             VALUES (sha256('a'), {key}, now() + interval '1 day') RETURNING id"
        );
        let client = database.client().await;
        let session: SessionId = client.query_one(&insert, &[]).await.unwrap().get(0);
        let other_way = format!("UPDATE sessions SET user_id = {equal}");
        sql(&database, &other_way).await;
        feed.one("changed", &[session]).await;
        sql(&database, &other_way).await;
        feed.silence("it is written that way already").await;
        sql(&database, "UPDATE users SET name = 'A.'").await;
        feed.one("changed", &[session]).await;
    }
}

/// I01: names only, and neither token nor digest in any spelling.
#[tokio::test]
async fn announcements_tell_no_secret() {
    let (database, sessions, mut feed) = announced_users().await;
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let new = sessions.confirm(1, &cookie(&sessions, old.token())).await;
    let new = new.unwrap();
    sql(&database, "UPDATE users SET role = 'x'").await;
    let _ = sessions.sign_out(&cookie(&sessions, new.token())).await;
    let heard = feed.heard().await;
    let name = name(&id(&new));
    let changed = format!("changed {name}");
    assert_eq!(heard, [changed.clone(), changed, format!("ended {name}")]);
    for token in [old.token(), new.token()] {
        Secrets::of(token).assert_not_in("an announcement", &heard.join("\n"));
    }
}

/// C17: what the store's documentation asks for is enough to sign out; and who may change users but not
/// see all sessions announces everything rather than fail or be silent.
#[tokio::test]
async fn no_further_rights_are_needed() {
    let (database, _, mut feed) = announced_users().await;
    let role = format!("writer_{}", database.name());
    let as_role = async || {
        let mut config = database.config();
        config.user(&role);
        let manager = Manager::new(config, NoTls);
        Pool::builder(manager).max_size(2).build().unwrap()
    };
    for statement in [
        &*format!("CREATE ROLE {role} LOGIN"),
        &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO {role}"),
        &format!("GRANT SELECT ON users TO {role}"),
    ] {
        sql(&database, statement).await;
    }
    let limited: PgSessions = SessionService::new(PgSessionStore::new(as_role().await));
    let ada = limited.sign_in_without_request(1).await.unwrap();
    let signed_out = limited.sign_out(&cookie(&limited, ada.token())).await;
    assert!(signed_out.ended().unwrap());
    feed.one("ended", &[id(&ada)]).await;

    let ada = limited.sign_in_without_request(1).await.unwrap();
    let grant = format!("GRANT UPDATE ON users TO {role}");
    sql(&database, &grant).await;
    let client = as_role().await.get().await.unwrap();
    let mut update = "UPDATE users SET role = role || '!' WHERE id = 1";
    client.execute(update, &[]).await.unwrap();
    feed.one("changed", &[id(&ada)]).await;
    for statement in [
        "ALTER TABLE sessions ENABLE ROW LEVEL SECURITY",
        &format!("REVOKE ALL ON sessions FROM {role}"),
    ] {
        sql(&database, statement).await;
        client.execute(update, &[]).await.unwrap();
        assert_eq!(feed.heard().await, ["everything"], "{statement}");
    }
    update = "UPDATE users SET role = role WHERE id = 99";
    client.execute(update, &[]).await.unwrap();
    feed.silence("no user").await;
    drop(client);
    drop(limited);
    sql(&database, &format!("DROP OWNED BY {role}")).await;
}

/// Of the rights that it takes to see the sessions of a user, each: whoever lacks it may still change users,
/// and announces everything.
#[tokio::test]
async fn every_right_to_see_sessions_can_be_missing() {
    let database = TestDatabase::create(&format!("{USERS}; CREATE SCHEMA app")).await;
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_schema("app");
    store.migrate().announce_changed_users().await.unwrap();
    let sessions: PgSessions = SessionService::new(store);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut feed = Feed::of(&database, "app.sessions").await;
    let role = format!("changer_{}", database.name());
    sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
    let grant = format!("GRANT SELECT, UPDATE ON users TO {role}");
    sql(&database, &grant).await;
    let mut config = database.config();
    config.user(&role);
    let manager = Manager::new(config, NoTls);
    let limited = Pool::builder(manager).max_size(1).build().unwrap();
    let change = async || {
        let client = limited.get().await.unwrap();
        let update = "UPDATE users SET role = role || '!' WHERE id = 1";
        client.execute(update, &[]).await.unwrap();
    };
    let rights = [
        "USAGE ON SCHEMA app",
        "SELECT (id) ON app.sessions",
        "SELECT (user_id) ON app.sessions",
        "SELECT (expires_at) ON app.sessions",
    ];
    for right in rights {
        sql(&database, &format!("GRANT {right} TO {role}")).await;
    }
    for right in rights {
        change().await;
        feed.one("changed", &[id(&ada)]).await;
        sql(&database, &format!("REVOKE {right} FROM {role}")).await;
        change().await;
        assert_eq!(feed.heard().await, ["everything"], "without {right}");
        sql(&database, &format!("GRANT {right} TO {role}")).await;
    }
    limited.close();
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
}

/// Names that come before PostgreSQL's own: nothing is kept silent, and nothing of theirs runs.
#[tokio::test]
async fn a_hostile_search_path_silences_nothing() {
    let (database, _, mut feed) = announced_users().await;
    let ids = fill(&database, 2).await;
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT 'infinity'::timestamptz $$;
             CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(bigint, bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
             CREATE FUNCTION evil.no(record, record) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
             CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = text, RIGHTARG = text);
             CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = bigint, RIGHTARG = bigint);
             CREATE OPERATOR evil.> (FUNCTION = evil.no, LEFTARG = bigint, RIGHTARG = bigint);
             CREATE OPERATOR evil.> (FUNCTION = evil.no, LEFTARG = timestamptz, RIGHTARG = timestamptz);
             CREATE OPERATOR evil.*<> (FUNCTION = evil.no, LEFTARG = record, RIGHTARG = record);
             CREATE TABLE evil.old_rows AS SELECT * FROM sessions LIMIT 0;
             CREATE TEMP TABLE pg_trigger (LIKE pg_catalog.pg_trigger);
             CREATE TEMP TABLE new_rows AS SELECT * FROM sessions LIMIT 0;
             SET search_path = evil, pg_catalog, public",
        )
        .await
        .unwrap();
    let change =
        "UPDATE sessions SET expires_at = expires_at OPERATOR(pg_catalog.+) '1 hour'::interval";
    for (statement, kind) in [
        (change, "changed"),
        ("UPDATE users SET role = 'x'", "changed"),
        ("DELETE FROM sessions", "ended"),
    ] {
        client.batch_execute(statement).await.unwrap();
        feed.one(kind, &ids).await;
    }
}
