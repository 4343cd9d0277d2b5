//! Settings of the database, of the role and of the pool that the store must not depend on.

use std::{future::IntoFuture as _, time::Duration};

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tokio::{task::JoinSet, time::timeout};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService, deadpool_postgres,
    session::{SessionLimit, SessionToken},
    store::{SessionLookup as _, SessionStore as _, SessionUse},
    tokio_postgres::{self, IsolationLevel},
};

use crate::support::{
    PATIENCE, PgSessions, User, cookie, database, has_timers, number, patiently, pool, sessions,
    sign_out, until_waiting, waiting,
};

/// One line per setting: a name, and the SQL that makes it the default of each new connection.
const SETTINGS: &[(&str, &str)] = &[
    ("the default", "SELECT"),
    (
        "read uncommitted",
        "ALTER DATABASE @ SET default_transaction_isolation = 'read uncommitted'",
    ),
    (
        "repeatable read",
        "ALTER DATABASE @ SET default_transaction_isolation = 'repeatable read'",
    ),
    (
        "serializable",
        "ALTER DATABASE @ SET default_transaction_isolation = 'serializable'",
    ),
];

async fn set(database: &TestDatabase, setting: &str) {
    let client = database.client().await;
    let name = client.query_one("SELECT quote_ident(current_database())", &[]);
    let name: String = name.await.unwrap().get(0);
    let statement = setting.replace('@', &name);
    client.batch_execute(&statement).await.unwrap();
}

fn limited(database: &TestDatabase, connections: usize, limit: SessionLimit) -> PgSessions {
    let store = PgSessionStore::<User>::new(pool(database, connections));
    SessionService::new(store.with_session_limit(limit))
}

/// M01: a limit of sessions is exact at every isolation level.
#[tokio::test]
async fn session_limit_is_exact_at_every_isolation_level() {
    for (name, setting) in SETTINGS {
        let database = database().await;
        set(&database, setting).await;
        let mut sign_ins = JoinSet::new();
        for _ in 0..6 {
            // A separate process: within one, the writes of a user are serialized.
            let sessions = limited(&database, 1, SessionLimit::end_oldest(1).unwrap());
            sign_ins.spawn(async move { sessions.sign_in_without_request(1).await.map(drop) });
        }
        for signed_in in sign_ins.join_all().await {
            signed_in.unwrap();
        }
        let count = number(&database, "SELECT count(*) FROM sessions").await;
        assert_eq!(count, 1, "{name}");
    }
}

/// M01: a revocation ends the session of a concurrent sign-in.
#[tokio::test]
async fn revocation_ends_a_concurrent_sign_in_at_every_isolation_level() {
    for (name, setting) in SETTINGS {
        let database = database().await;
        set(&database, setting).await;
        let sessions = sessions(&database);
        let pool: Pool = pool(&database, 1);
        let mut client = pool.get().await.unwrap();
        let level = client
            .build_transaction()
            .isolation_level(IsolationLevel::ReadCommitted);
        let transaction = level.start().await.unwrap();
        let signed_in = sessions
            .sign_in_without_request(1)
            .in_transaction(&transaction)
            .await
            .unwrap();
        let revoking = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.revoke_all(&1).await }
        });
        until_waiting(&database, 1).await;
        transaction.commit().await.unwrap();
        assert_eq!(revoking.await.unwrap().unwrap(), 1, "{name}");
        assert_eq!(
            sessions.user(signed_in.token()).await.unwrap(),
            None,
            "{name}"
        );
    }
}

/// M01, M05: a sign-out or a sign-in that waits for a rotation ends the session under its new
/// digest.
#[tokio::test]
async fn session_that_is_being_rotated_ends() {
    for (name, setting) in SETTINGS {
        for signs_in_again in [false, true] {
            let database = database().await;
            set(&database, setting).await;
            let sessions = sessions(&database);
            let old = sessions.sign_in_without_request(1).await.unwrap();
            let new = SessionToken::generate().unwrap();
            let mut client = database.client().await;
            let transaction = client.transaction().await.unwrap();
            let rotate = "UPDATE sessions SET token_digest = $1";
            transaction.execute(rotate, &[&new.digest()]).await.unwrap();
            let ending = tokio::spawn({
                let (sessions, headers) = (sessions.clone(), cookie(&sessions, old.token()));
                async move {
                    if signs_in_again {
                        sessions.sign_in(1, &headers).await.is_ok()
                    } else {
                        sessions.sign_out(&headers).await.ended().unwrap()
                    }
                }
            });
            until_waiting(&database, 1).await;
            transaction.commit().await.unwrap();
            assert!(patiently(ending).await.unwrap(), "{name}");
            assert_eq!(sessions.user(&new).await.unwrap(), None, "{name}");
            let left = number(&database, "SELECT count(*) FROM sessions").await;
            assert_eq!(left, i64::from(signs_in_again), "{name}");
        }
    }
}

/// M01: a sign-in whose first attempt found the session waits for its second attempt until the
/// rotation has been committed. It still ends the session, which has another digest then.
#[tokio::test]
async fn session_that_was_rotated_between_two_attempts_ends() {
    if !has_timers("postgres::settings::session_that_was_rotated_between_two_attempts_ends").await {
        return;
    }
    let database = database().await;
    // The first attempt waits for 50 ms only, which a busy machine can miss.
    for _ in 0..10 {
        if let Some(is_live) = rotated_between_two_attempts(&database).await {
            assert!(!is_live);
            return;
        }
    }
    panic!("no first attempt was observed");
}

/// Rotates the session between the two attempts of a sign-in that presents it. Returns whether the
/// rotated session is live afterwards, or `None` if the first attempt was not observed.
async fn rotated_between_two_attempts(database: &TestDatabase) -> Option<bool> {
    let store = PgSessionStore::<User>::new(pool(database, 4));
    let builder = SessionService::builder(store).deadline(PATIENCE / 2);
    let sessions = builder.build().unwrap();
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(2).await.unwrap();
    let new = SessionToken::generate().unwrap();

    // The write of another user waits for a row. Until it ends, no other write waits longer than
    // its first attempt.
    let mut holder = database.client().await;
    let held = holder.transaction().await.unwrap();
    let lock = "SELECT FROM sessions WHERE token_digest = $1 FOR UPDATE";
    held.execute(lock, &[&other.token().digest()])
        .await
        .unwrap();
    let sign_in = |user, token: &SessionToken| {
        let (sessions, headers) = (sessions.clone(), cookie(&sessions, token));
        tokio::spawn(async move { sessions.sign_in(user, &headers).await.map(drop) })
    };
    let earlier = sign_in(2, other.token());
    tokio::time::sleep(Duration::from_millis(200)).await;
    until_waiting(database, 1).await;

    let mut client = database.client().await;
    let rotation = client.transaction().await.unwrap();
    let rotate = "UPDATE sessions SET token_digest = $1 WHERE token_digest = $2";
    rotation
        .execute(rotate, &[&new.digest(), &old.token().digest()])
        .await
        .unwrap();
    let ending = sign_in(1, old.token());
    let watching = database.client().await;
    let observed = timeout(Duration::from_secs(1), async {
        while waiting(&watching).await < 2 {}
        // Until the first attempt has ended.
        while waiting(&watching).await > 1 {}
    });
    let observed = observed.await.is_ok();
    rotation.commit().await.unwrap();
    held.rollback().await.unwrap();
    for signing_in in [earlier, ending] {
        patiently(signing_in).await.unwrap().unwrap();
    }
    if !observed {
        return None;
    }
    Some(sessions.user(&new).await.unwrap().is_some())
}

/// M03: a single write that the server rolled back because of other transactions is retried once.
#[tokio::test]
async fn rolled_back_write_is_sent_once_more() {
    for state in ["40001", "40P01"] {
        let database = database().await;
        let sessions = sessions(&database);
        let signed_in = sessions.sign_in_without_request(1).await.unwrap();
        let fails_once = format!(
            "CREATE SEQUENCE attempts;
             CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('attempts') = 1 THEN RAISE SQLSTATE '{state}'; END IF;
                 RETURN OLD;
             END $$;
             CREATE TRIGGER fail_once BEFORE DELETE ON sessions
                 FOR EACH ROW EXECUTE FUNCTION fail_once()"
        );
        let client = database.client().await;
        client.batch_execute(&fails_once).await.unwrap();
        let signed_out = sessions
            .sign_out(&cookie(&sessions, signed_in.token()))
            .await;
        assert!(signed_out.ended().unwrap(), "{state}");
        let attempts = number(&database, "SELECT last_value FROM attempts").await;
        assert_eq!(attempts, 2, "{state}");
    }
}

/// M02: a transaction of the application above READ COMMITTED is rejected.
#[tokio::test]
async fn application_transactions_above_read_committed_are_rejected() {
    let database = database().await;
    let sessions = sessions(&database);
    for (level, accepted) in [
        (IsolationLevel::ReadUncommitted, true),
        (IsolationLevel::ReadCommitted, true),
        (IsolationLevel::RepeatableRead, false),
        (IsolationLevel::Serializable, false),
    ] {
        let pool = pool(&database, 1);
        let mut client = pool.get().await.unwrap();
        let transaction = client
            .build_transaction()
            .isolation_level(level)
            .start()
            .await
            .unwrap();
        let signed_in = sessions
            .sign_in_without_request(1)
            .in_transaction(&transaction)
            .await
            .map(drop);
        let revoked = sessions
            .revoke_all_in_transaction(&transaction, &1)
            .await
            .map(drop);
        for outcome in [signed_in, revoked] {
            assert_eq!(outcome.is_ok(), accepted, "{level:?}: {outcome:?}");
            if let Err(error) = outcome {
                assert_eq!(error.kind(), ErrorKind::Configuration);
                assert!(error.to_string().contains("READ COMMITTED"), "{error}");
            }
        }
    }
}

/// M04: services that name one table differently exclude each other. Services of two tables do not.
#[tokio::test]
async fn different_names_of_one_table_share_a_lock() {
    let database = database().await;
    let plain = sessions(&database);
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_schema("public");
    let qualified = SessionService::new(store);
    let pool = pool(&database, 1);
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let _ = plain
        .sign_in_without_request(1)
        .in_transaction(&transaction)
        .await
        .unwrap();
    let revoking = tokio::spawn(async move { qualified.revoke_all(&1).await });
    until_waiting(&database, 1).await;

    let tenant =
        "CREATE SCHEMA tenant; CREATE TABLE tenant.sessions (LIKE public.sessions INCLUDING ALL);
        ALTER DATABASE @ SET search_path = tenant, public";
    set(&database, tenant).await;
    let other_table = sessions(&database);
    let _ = patiently(other_table.sign_in_without_request(1).into_future())
        .await
        .unwrap();

    transaction.commit().await.unwrap();
    assert_eq!(revoking.await.unwrap().unwrap(), 1);
}

/// State that other code can leave on a connection that it returns to the pool, one line each.
const LEFT_ON_A_CONNECTION: &[&str] = &[
    "BEGIN; UPDATE users SET email = 'changed'",
    "BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE users SET email = 'changed'",
    "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE users SET email = 'changed'",
    "BEGIN; UPDATE users SET email = 'changed'; SAVEPOINT here",
    "BEGIN; UPDATE users SET email = 'changed'; SELECT 1 / 0",
    "BEGIN",
    "CREATE TEMPORARY TABLE sessions (LIKE public.sessions INCLUDING ALL)",
    "CREATE TEMPORARY TABLE users (LIKE public.users INCLUDING ALL)",
    "SET search_path = nowhere",
    "SET statement_timeout = 1",
    "SET default_transaction_read_only = on",
    "SET session_replication_role = replica",
    "SET ROLE pg_monitor",
    "DISCARD ALL",
];

/// M07: state that other code leaves on a pooled connection reaches no statement of the store, and
/// none of it is committed.
#[tokio::test]
async fn state_left_on_pooled_connections_reaches_no_statement() {
    for left in LEFT_ON_A_CONNECTION {
        let database = database().await;
        let pool = pool(&database, 1);
        let sessions = SessionService::new(PgSessionStore::<User>::new(pool.clone()));
        let leave = async || {
            let client = pool.get().await.unwrap();
            // One of them fails on purpose.
            let _ = client.batch_execute(left).await;
        };
        leave().await;
        let signed_in = sessions.sign_in_without_request(1).await.expect(left);
        let user = async || sessions.user(signed_in.token()).await.expect(left);
        leave().await;
        assert_eq!(user().await, Some(User::ada()), "{left}");
        assert_eq!(
            sessions.sessions_of(&1).await.expect(left).len(),
            1,
            "{left}"
        );
        leave().await;
        let headers = cookie(&sessions, signed_in.token());
        let signed_out = sessions.sign_out(&headers).await;
        assert!(signed_out.ended().unwrap(), "{left}");
        assert_eq!(user().await, None, "{left}");
        let rows = number(&database, "SELECT count(*) FROM sessions").await;
        assert_eq!(rows, 0, "{left}");
        leave().await;
        assert_eq!(sessions.revoke_all(&1).await.expect(left), 0);
        leave().await;
        assert_eq!(sessions.revoke_everyone().await.expect(left), 0);
        leave().await;
        assert_eq!(sessions.delete_expired().await.expect(left), 0);
        leave().await;
        sessions.store().migrate().await.expect(left);
        let changed = "SELECT count(*) FROM users WHERE email = 'changed'";
        assert_eq!(number(&database, changed).await, 0, "{left}");
    }
}

/// What a pool does with each new connection, one line each, and the session state that its
/// sign-ins see.
const HOOKS: &[(&str, &str)] = &[
    ("a search path", "SET search_path = tenant"),
    ("a role", "SET ROLE tenant_@"),
    (
        "a role whose path differs",
        "SET ROLE tenant_@; SET search_path = tenant, public",
    ),
    (
        "another level",
        "SET default_transaction_isolation = 'serializable'",
    ),
];

/// M08: the pool's hooks apply to lookups, sign-ins and every other statement.
#[tokio::test]
async fn hooks_of_the_pool_hold_for_every_statement() {
    for &(name, hook) in HOOKS {
        let database = database().await;
        let tenant = format!(
            "CREATE SCHEMA tenant;
             CREATE TABLE tenant.users (LIKE public.users INCLUDING ALL);
             INSERT INTO tenant.users SELECT * FROM public.users;
             UPDATE tenant.users SET email = 'tenant' WHERE id = 1;
             CREATE TABLE tenant.sessions (LIKE public.sessions INCLUDING ALL);
             CREATE ROLE tenant_{0};
             GRANT USAGE ON SCHEMA tenant TO tenant_{0};
             GRANT ALL ON ALL TABLES IN SCHEMA tenant, public TO tenant_{0}",
            database.name()
        );
        database
            .client()
            .await
            .batch_execute(&tenant)
            .await
            .unwrap();
        let hook = hook.replace('@', database.name());
        let manager = deadpool_postgres::Manager::new(database.config(), tokio_postgres::NoTls);
        let pool = Pool::builder(manager)
            .max_size(2)
            .post_create(deadpool_postgres::Hook::async_fn(move |client, _| {
                let hook = hook.clone();
                Box::pin(async move {
                    let done = client.batch_execute(&hook).await;
                    done.map_err(deadpool_postgres::HookError::Backend)
                })
            }))
            .build()
            .unwrap();
        let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
        sessions.store().check().await.expect(name);
        let signed_in = sessions.sign_in_without_request(1).await.expect(name);
        let in_tenant = number(&database, "SELECT count(*) FROM tenant.sessions").await;
        let elsewhere = number(&database, "SELECT count(*) FROM public.sessions").await;
        assert_eq!(in_tenant + elsewhere, 1, "{name}");
        let user = sessions
            .user(signed_in.token())
            .await
            .expect(name)
            .expect(name);
        assert_eq!(user.email == "tenant", in_tenant == 1, "{name}");
        assert_eq!(
            sessions.sessions_of(&1).await.expect(name).len(),
            1,
            "{name}"
        );
        assert!(sign_out(&sessions, signed_in.token()).await.expect(name));
        database
            .client()
            .await
            .batch_execute(&format!(
                "DROP OWNED BY tenant_{0}; DROP ROLE tenant_{0}",
                database.name()
            ))
            .await
            .unwrap();
    }
}

/// What an application does to connections after they were created, one line each, and the word by
/// which the error names it.
const ALIENATED: &[(&str, &str)] = &[
    ("SET ROLE pg_monitor", "role"),
    ("SET search_path = elsewhere, public", "search_path"),
    (
        "CREATE TEMPORARY TABLE sessions (LIKE public.sessions)",
        "sessions",
    ),
    ("CREATE TEMPORARY TABLE users (LIKE public.users)", "users"),
];

/// M08: `check` rejects a pool whose connections see other data than the store's own connections.
#[tokio::test]
async fn check_compares_the_pools_connections_with_its_own() {
    for &(change, word) in ALIENATED {
        let database = database().await;
        let store = PgSessionStore::<User>::new(pool(&database, 1));
        store.check().await.unwrap();
        let client = store.pool().get().await.unwrap();
        client.batch_execute(change).await.unwrap();
        drop(client);
        let error = store.check().await.expect_err(change);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{change}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(word), "{cause}");
    }
}

/// Changes to the tables that make prepared statements outdated, one line each.
const OUTDATES: &[&str] = &[
    "ALTER TABLE sessions ALTER COLUMN user_agent TYPE varchar(2000)",
    "ALTER TABLE sessions ALTER COLUMN created_at TYPE timestamptz(3)",
    "ALTER TABLE sessions ADD COLUMN note text",
    "ALTER TABLE users ALTER COLUMN email TYPE varchar(2000)",
    "ALTER TABLE sessions ALTER COLUMN remembered SET DEFAULT true",
    "DROP INDEX IF EXISTS sessions_user_id_idx",
];

/// M19: each statement survives a change of the tables that makes its prepared form invalid.
#[tokio::test]
async fn outdated_statements_are_prepared_again() {
    for change in OUTDATES {
        let database = database().await;
        let limit = SessionLimit::end_oldest(2).unwrap();
        let sessions = limited(&database, 2, limit);
        for round in 0..2 {
            let ada = sessions.sign_in_without_request(1).await.expect(change);
            let again = sessions
                .reauthenticate(1, &cookie(&sessions, ada.token()))
                .await;
            let again = again.expect(change);
            assert_eq!(
                sessions.user(again.token()).await.expect(change),
                Some(User::ada())
            );
            assert_eq!(
                sessions.sessions_of(&1).await.expect(change).len(),
                1,
                "{change}"
            );
            let store = sessions.store();
            let id = again.session().id();
            assert_eq!(
                store.remaining_lifetimes(&[id]).await.expect(change).len(),
                1
            );
            let used = SessionUse::new(id, std::time::SystemTime::now());
            store.touch(&[used]).await.expect(change);
            assert!(sign_out(&sessions, again.token()).await.expect(change));
            let _ = sessions.sign_in_without_request(1).await.expect(change);
            assert_eq!(sessions.revoke_all(&1).await.expect(change), 1);
            assert_eq!(sessions.delete_expired().await.expect(change), 0);
            if round == 0 {
                database.client().await.batch_execute(change).await.unwrap();
            }
        }
    }
}

/// A pool that recycles connections with `DISCARD ALL` drops their prepared statements. Sign-ins do
/// not depend on them.
#[tokio::test]
async fn recycling_with_discard_all_changes_nothing() {
    let database = database().await;
    let config = deadpool_postgres::ManagerConfig {
        recycling_method: deadpool_postgres::RecyclingMethod::Custom("DISCARD ALL".to_owned()),
    };
    let manager =
        deadpool_postgres::Manager::from_config(database.config(), tokio_postgres::NoTls, config);
    let pool = Pool::builder(manager).max_size(1).build().unwrap();
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool.clone()));
    for _ in 0..4 {
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        assert!(sign_out(&sessions, ada.token()).await.unwrap());
        drop(pool.get().await.unwrap());
    }
}

/// A connection that the pool has lent before is closed instead of used.
#[tokio::test]
async fn a_used_connection_of_the_pool_is_never_taken() {
    let database = database().await;
    let pool = pool(&database, 3);
    let shadow = "CREATE TEMPORARY TABLE sessions (LIKE public.sessions INCLUDING ALL)";
    let mut lent = Vec::new();
    for _ in 0..3 {
        let client = pool.get().await.unwrap();
        client.batch_execute(shadow).await.unwrap();
        lent.push(client);
    }
    drop(lent);
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    let rows = number(&database, "SELECT count(*) FROM public.sessions").await;
    assert_eq!(rows, 1);
}

/// Signs in with this cookie in a transaction of the application, which waits for locks as long as
/// it must.
async fn sign_in_in_transaction(sessions: &PgSessions, user: i64, cookie: &http::HeaderMap) {
    let mut client = sessions.store().pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let sign_in = sessions.sign_in(user, cookie).in_transaction(&transaction);
    let _ = sign_in.await.unwrap();
    transaction.commit().await.unwrap();
}

/// M20: two users who sign in with each other's cookie, under a limit, never deadlock.
#[tokio::test]
async fn sign_ins_with_each_others_cookie_do_not_deadlock() {
    let database = database().await;
    let sessions = limited(&database, 4, SessionLimit::end_oldest(1).unwrap());
    for _ in 0..60 {
        let ada = cookie(
            &sessions,
            sessions.sign_in_without_request(1).await.unwrap().token(),
        );
        let eve = cookie(
            &sessions,
            sessions.sign_in_without_request(2).await.unwrap().token(),
        );
        let both = async {
            tokio::join!(async { sessions.sign_in(1, &eve).await }, async {
                sessions.sign_in(2, &ada).await
            },)
        };
        let (ada, eve) = timeout(Duration::from_secs(20), both).await.unwrap();
        let (ada, eve) = (ada.unwrap(), eve.unwrap());
        let (ada, eve) = (
            cookie(&sessions, ada.token()),
            cookie(&sessions, eve.token()),
        );
        let both = async {
            tokio::join!(
                sign_in_in_transaction(&sessions, 1, &eve),
                sign_in_in_transaction(&sessions, 2, &ada),
            )
        };
        timeout(Duration::from_secs(20), both).await.unwrap();
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(number(&database, deadlocks).await, 0);
}

#[derive(Clone)]
struct Named;
impl tower_user_session::PgUser for Named {
    type Id = String;
    const COLUMNS: &'static str = "u.email";
    fn from_row(
        _: &tower_user_session::LookupRow<'_>,
    ) -> Result<Self, tower_user_session::BoxError> {
        Ok(Self)
    }
}

/// M14: spellings that a nondeterministic collation treats as equal are one user.
#[tokio::test]
async fn nondeterministic_collations_are_copied_from_the_key() {
    let setup = "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE users (id text COLLATE nocase PRIMARY KEY, email text);
        INSERT INTO users VALUES ('ada', 'ada@example.com')";
    let database = TestDatabase::create("SELECT").await;
    let client = database.client().await;
    if let Err(error) = client.batch_execute(setup).await {
        ephemeral_postgres::skip(
            "nondeterministic_collations_are_copied_from_the_key",
            &error.to_string(),
        );
        return;
    }
    let store = PgSessionStore::<Named>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    let sessions = SessionService::new(store);
    let signed_in = sessions
        .sign_in_without_request("ADA".to_owned())
        .await
        .unwrap();
    assert_eq!(
        sessions.sessions_of(&"Ada".to_owned()).await.unwrap().len(),
        1
    );
    assert_eq!(sessions.revoke_all(&"ADA".to_owned()).await.unwrap(), 1);
    assert!(sessions.user(signed_in.token()).await.unwrap().is_none());
}
