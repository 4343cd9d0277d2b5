//! Locks of other transactions and slow statements: what they delay, and how many connections of
//! the store wait.

use std::{
    future::IntoFuture as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use ephemeral_postgres::TestDatabase;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tower_user_session::{
    BoxError, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    session::SessionToken,
};

use crate::support::{
    PATIENCE, User, cookie, database, has_timers, number, patiently, pool,
    proxy::{Line, Proxy},
    sessions, sign_out, waiting,
};

/// The application name of the connections that are counted.
const COUNTED: &str = "counted";
/// One line for each place of the server: the round trip, the size of the pool, and the most
/// connections. These are those for lookups, two for writes, and as many again while the server
/// detects that one of them was closed.
const PLACES: &[(u64, usize, i64)] = &[(0, 4, 2 * (2 + 2)), (3, 16, 2 * (8 + 2))];

/// A user whose lookup takes as long as the table `nap` says.
#[derive(Clone, Debug)]
struct Slow;

impl PgUser for Slow {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const CONDITION: &'static str = "(SELECT count(pg_sleep(seconds)) FROM nap) = 1";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// Obstacles, one line each: a name, the statement of the other transaction, and how it ends.
const OBSTACLES: &[(&str, &str, &str)] = &[
    (
        "locked sessions",
        "BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE",
        "COMMIT",
    ),
    (
        "locked users",
        "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE",
        "COMMIT",
    ),
    (
        "slow lookups",
        "UPDATE nap SET seconds = 2.5",
        "UPDATE nap SET seconds = 0",
    ),
];

/// Reads the environment variable `name`, for a longer run than usual.
fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// M06: however many requests wait, the store uses only its own connections on the server, and
/// lookups recover soon after the obstacle is gone. `LOCKED_SECONDS` and `LOCKED_RATE` make the run
/// longer and denser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_slow_lookups_occupy_the_stores_connections_only() {
    if !has_timers("postgres::locks::locks_and_slow_lookups_occupy_the_stores_connections_only")
        .await
    {
        return;
    }
    let (seconds, rate) = (setting("LOCKED_SECONDS", 3), setting("LOCKED_RATE", 400));
    let runs = PLACES
        .iter()
        .flat_map(|place| OBSTACLES.iter().map(move |obstacle| (*place, *obstacle)));
    for ((round_trip, pool_size, most_backends), (name, begin, end)) in runs {
        let database = database().await;
        let proxy = Proxy::before(&database).await;
        let admin = database.client().await;
        let nap = "CREATE TABLE nap AS SELECT 0::float8 AS seconds";
        admin.batch_execute(nap).await.unwrap();
        let mut config = database.config();
        if round_trip > 0 {
            proxy.set(Line::Delayed(Duration::from_millis(round_trip)));
            config = proxy.config();
        }
        config.application_name(COUNTED);
        let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(pool_size)
            .build()
            .unwrap();
        let store = PgSessionStore::<Slow>::new(pool);
        let deadline = Duration::from_millis(500);
        let builder = SessionService::builder(store).deadline(deadline);
        let sessions = builder.build().unwrap();
        let mut live = Vec::new();
        for _ in 0..8 {
            let signed_in = sessions.sign_in_without_request(1).await.unwrap();
            assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
            live.push(signed_in);
        }

        admin.batch_execute(begin).await.unwrap();
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let load = {
            let (sessions, stop) = (sessions.clone(), Arc::clone(&stop));
            let live: Vec<_> = live.iter().map(|one| one.token().digest()).collect();
            tokio::spawn(async move {
                let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut calls = JoinSet::new();
                for n in 0_usize.. {
                    ticks.tick().await;
                    if stop.load(SeqCst) {
                        break;
                    }
                    let (sessions, answered) = (sessions.clone(), Arc::clone(&answered));
                    let digest = if n % 4 == 0 {
                        live[n / 4 % live.len()]
                    } else {
                        SessionToken::generate().unwrap().digest()
                    };
                    calls.spawn(async move {
                        if n % 20 == 0 {
                            let _ = sessions.sign_in_without_request(1).await;
                        } else if sessions.resolve_digest(digest).await.is_ok() {
                            answered.fetch_add(1, SeqCst);
                        }
                    });
                }
                calls.join_all().await;
            })
        };
        let ours =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{COUNTED}'");
        let start = Instant::now();
        let mut most = 0;
        while start.elapsed() < Duration::from_secs(seconds) {
            let row = admin.query_one(&ours, &[]).await.unwrap();
            most = most.max(row.get::<_, i64>(0));
            sleep(Duration::from_millis(20)).await;
        }
        assert!(most <= most_backends, "{name}: {most} backends");
        admin.batch_execute(end).await.unwrap();
        let released = Instant::now();
        while sessions.user(live[0].token()).await.is_err() {
            assert!(released.elapsed() < Duration::from_secs(5), "{name}");
        }
        for one in &live {
            patiently(sessions.user(one.token()).into_future())
                .await
                .unwrap();
        }
        assert!(
            released.elapsed() < Duration::from_secs(5),
            "{name}: {:?}",
            released.elapsed()
        );
        stop.store(true, SeqCst);
        patiently(load).await.unwrap();
    }
}

/// How a transaction of the application locks one user, one line each.
const LOCKS_OF_A_USER: &[(&str, &str)] = &[
    (
        "the user's row",
        "SELECT FROM users WHERE id = 1 FOR UPDATE",
    ),
    (
        "the user's sessions",
        "SELECT FROM sessions WHERE user_id = 1 FOR UPDATE",
    ),
    (
        "both, by an update",
        "UPDATE users SET id = id WHERE id = 1; UPDATE sessions SET user_agent = '' WHERE user_id = 1",
    ),
];

/// M21: a locked user's sign-ins and sign-outs wait and delay no other user's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_user_delays_no_other_user() {
    if !has_timers("postgres::locks::a_locked_user_delays_no_other_user").await {
        return;
    }
    for &(name, lock) in LOCKS_OF_A_USER {
        let database = database().await;
        let sessions = sessions(&database);
        sessions.store().check().await.unwrap();
        let mut of_ada = Vec::new();
        for _ in 0..20 {
            of_ada.push(sessions.sign_in_without_request(1).await.unwrap());
        }
        let client = database.client().await;
        client
            .batch_execute(&format!("BEGIN; {lock}"))
            .await
            .unwrap();
        let mut waiting = JoinSet::new();
        for n in 0..200 {
            let sessions = sessions.clone();
            let headers = cookie(&sessions, of_ada[n % of_ada.len()].token());
            waiting.spawn(async move {
                match n % 3 {
                    0 => drop(sessions.sign_in(1, &headers).await),
                    1 => drop(sessions.reauthenticate(1, &headers).await),
                    _ => drop(sessions.sign_out(&headers).await),
                }
            });
        }
        sleep(Duration::from_millis(100)).await;
        let start = Instant::now();
        let mut rounds = 0;
        while start.elapsed() < Duration::from_secs(2) {
            let eve = timeout(
                Duration::from_secs(1),
                sessions.sign_in_without_request(2).into_future(),
            )
            .await;
            let eve = eve.expect(name).unwrap();
            assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
            assert_eq!(sessions.sessions_of(&2).await.unwrap().len(), 1, "{name}");
            assert!(sign_out(&sessions, eve.token()).await.unwrap(), "{name}");
            rounds += 1;
        }
        assert!(rounds >= 5, "{name}: {rounds} rounds");
        client.batch_execute("COMMIT").await.unwrap();
        timeout(PATIENCE, waiting.join_all()).await.unwrap();
        let _ = sessions.sign_in_without_request(1).await.unwrap();
    }
}

/// The server cancels a statement that waits for a lock, also if its client has disconnected.
#[tokio::test]
async fn a_canceled_write_is_canceled_on_the_server() {
    if !has_timers("postgres::locks::a_canceled_write_is_canceled_on_the_server").await {
        return;
    }
    let database = database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    let builder = SessionService::builder(store).deadline(Duration::from_millis(400));
    let sessions = builder.build().unwrap();
    let client = database.client().await;
    let lock = "BEGIN; SELECT FROM users WHERE id = 1 FOR UPDATE";
    client.batch_execute(lock).await.unwrap();
    let error: Error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(waiting(&database.client().await).await, 0);
    client.batch_execute("ROLLBACK").await.unwrap();
    let _ = sessions.sign_in_without_request(1).await.unwrap();
}

/// Returns when the call holds an advisory lock, or when it has ended. A machine that is busy can
/// miss the lock.
async fn is_locked_before_the_end<T>(database: &TestDatabase, call: &JoinHandle<T>) -> bool {
    let locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while !call.is_finished() {
        if number(database, locked).await > 0 {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// A client that is lost between the lock and the commit holds the user's lock no longer than the
/// deadline, although the server does not detect the loss.
#[tokio::test]
async fn a_lost_client_does_not_keep_the_users_lock() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let store = PgSessionStore::<User>::new(proxy.pool(1));
    let builder = SessionService::builder(store).deadline(Duration::from_millis(800));
    let vanishing = builder.build().unwrap();
    let _ = vanishing.sign_in_without_request(1).await.unwrap();
    proxy.set(Line::Delayed(Duration::from_millis(150)));
    let signing_in = || {
        let vanishing = vanishing.clone();
        tokio::spawn(async move { vanishing.sign_in_without_request(1).await })
    };
    let mut call = signing_in();
    patiently(async {
        while !is_locked_before_the_end(&database, &call).await {
            call = signing_in();
        }
    })
    .await;
    proxy.set(Line::Silent);
    assert!(patiently(call).await.unwrap().is_err());
    let start = Instant::now();
    let _ = sessions(&database)
        .sign_in_without_request(1)
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// A migration names the table that it could not lock.
#[tokio::test]
async fn a_migration_that_cannot_lock_a_table_names_it() {
    if !has_timers("postgres::locks::a_migration_that_cannot_lock_a_table_names_it").await {
        return;
    }
    let database = TestDatabase::create(crate::support::USERS).await;
    let client = database.client().await;
    let lock = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 1));
    let error = timeout(Duration::from_secs(20), store.migrate().into_future()).await;
    let error = error.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("users"), "{cause}");
    client.batch_execute("ROLLBACK").await.unwrap();
    store.migrate().await.unwrap();
}
