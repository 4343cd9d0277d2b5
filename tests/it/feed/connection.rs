//! The feed's connection: which database it leads to, how it is verified and replaced, and what its
//! loss costs.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::{Duration, Instant},
};

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool};
use tokio::{sync::mpsc, task::JoinHandle};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService, SignedIn,
    feed::{EndReason, FeedScope, FeedSink, Invalidation, SessionFeed},
    postgres::SignInConditions,
    session::SessionLimit,
    store::{NewSession, SessionStore as _},
    tokio_postgres::{self, AsyncMessage, Client, Config, NoTls},
};

use crate::support::{
    Logs, PATIENCE, PgSessions, WatchedSessions,
    caching::{LEASE, announced_database, caching, process, signed_in, until_cached},
    cookie, current, database,
    fault::ObservedFault,
    manual_feed::{LONG_LEASE, ManualFeed},
    memory, number, patiently, poll_once, pool,
    proxy::{Line, Proxy},
    sign_out, sql, until, watched_with_lease,
};

/// N04: a feed on another database is rejected when the service subscribes, and when the feed is
/// replaced.
#[tokio::test]
async fn a_feed_on_another_database_is_rejected() {
    let (ours, other) = (announced_database().await, announced_database().await);
    let sessions = process(&ours);
    let feed = || sessions.store().feed(other.config(), NoTls);
    for error in [
        sessions.enable_cache(feed(), 10).await.unwrap_err(),
        sessions.subscribe(feed()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.to_string().contains("another database"), "{error}");
    }
    // The failed attempts leave nothing behind.
    let ours = sessions.store().feed(ours.config(), NoTls);
    sessions.enable_cache(ours, 10).await.unwrap();
    // Nor does such a feed replace the right one.
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let error = sessions.replace_feed(feed()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    until_cached(&sessions, ada.token()).await;
    assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1);
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
}

/// Connects to the database that it currently points to.
#[derive(Clone)]
struct Switch(Arc<Mutex<Config>>);

type Connecting<'a> = Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>,
>;

impl Connect for Switch {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        let config = self.0.lock().unwrap().clone();
        Box::pin(async move {
            let (client, connection) = config.connect(NoTls).await?;
            Ok((client, tokio::spawn(async move { drop(connection.await) })))
        })
    }
}

/// N04: a pool that later leads to another database, as after a failover, is detected within half a
/// minute. The feed disconnects, and nothing is cached any more.
#[tokio::test]
async fn a_pool_that_moves_to_another_database_disconnects_the_feed() {
    let (old, new) = (announced_database().await, announced_database().await);
    let switch = Switch(Arc::new(Mutex::new(old.config())));
    let manager = Manager::from_connect(old.config(), switch.clone(), ManagerConfig::default());
    let pool = Pool::builder(manager).max_size(2).build().unwrap();
    let builder = SessionService::builder(PgSessionStore::new(pool.clone())).lease(LEASE);
    let sessions: PgSessions = builder.build().unwrap();
    let feed = sessions.store().feed(old.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    let ada = signed_in(&old, &sessions).await;
    until_cached(&sessions, ada.token()).await;
    // The session exists there too, so that a feed which misses the change caches it again after a
    // late heartbeat.
    let conditions = SignInConditions::default();
    let copy = NewSession::new(ada.token().digest(), &1, &conditions, LONG_LEASE);
    let there = process(&new);
    there.store().insert(copy).await.unwrap();
    there.close().await;

    let fault = ObservedFault::begin(
        "the feed is connected to another database than the pool",
        &sessions,
    );
    *switch.0.lock().unwrap() = new.config();
    pool.retain(|_, _| false);
    let store = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query !~ 'announce' AND pid <> pg_backend_pid()";
    assert!(number(&old, store).await > 0);
    let moved = Instant::now();
    let mut uncached = 0;
    // For several leases in a row.
    while uncached < 40 {
        let before = sessions.metrics().from_cache;
        let _ = sessions.user(ada.token()).await;
        let cached = sessions.metrics().from_cache > before;
        uncached = if cached { 0 } else { uncached + 1 };
        assert!(
            !cached || moved.elapsed() < Duration::from_secs(32),
            "the change is not detected"
        );
        tokio::time::sleep(LEASE / 8).await;
    }
    let pause = async || tokio::time::sleep(LEASE / 8).await;
    fault.becomes_visible(pause).await;
    *switch.0.lock().unwrap() = old.config();
    pool.retain(|_, _| false);
    assert!(number(&new, store).await > 0);
    fault.ends(pause).await;
}

/// N04, E05: the process that ends a session never answers it from the cache, even if the feed
/// sends no notification.
#[tokio::test]
async fn a_session_ended_by_this_process_is_rejected_without_a_notification() {
    for way in 0..7 {
        let (sessions, _silent) = ManualFeed::with_lease(LONG_LEASE).await;
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let other = sessions.sign_in_without_request(1).await.unwrap();
        for _ in 0..2 {
            assert!(sessions.user(ada.token()).await.unwrap().is_some());
        }
        assert_eq!(sessions.metrics().from_cache, 1);
        let headers = cookie(&sessions, ada.token());
        match way {
            0 => assert!(sign_out(&sessions, ada.token()).await.unwrap()),
            1 => drop(sessions.reauthenticate(1, &headers).await.unwrap()),
            2 => drop(sessions.sign_in(2, &headers).await.unwrap()),
            3 => assert!(sessions.revoke(&1, ada.session().id()).await.unwrap()),
            4 => assert_eq!(
                sessions.revoke_others(&1, &current(&other)).await.unwrap(),
                1
            ),
            5 => assert_eq!(sessions.revoke_all(&1).await.unwrap(), 2),
            _ => assert_eq!(sessions.revoke_everyone().await.unwrap(), 2),
        }
        assert_eq!(sessions.user(ada.token()).await.unwrap(), None, "way {way}");
    }
}

/// The same for a session that the limit evicts, in PostgreSQL.
#[tokio::test]
async fn a_session_evicted_by_the_limit_is_rejected_without_a_notification() {
    let database = database().await;
    let limit = SessionLimit::end_oldest(1).unwrap();
    let store = PgSessionStore::new(pool(&database, 2)).with_session_limit(limit);
    let builder = SessionService::builder(store).lease(LONG_LEASE);
    let sessions: PgSessions = builder.build().unwrap();
    sessions
        .enable_cache(ManualFeed::default(), 10)
        .await
        .unwrap();
    for replaces in [false, true] {
        let old = sessions.sign_in_without_request(1).await.unwrap();
        until_cached(&sessions, old.token()).await;
        let user = if replaces { 2 } else { 1 };
        let headers = cookie(&sessions, old.token());
        let sign_in = if replaces {
            sessions.sign_in(user, &headers)
        } else {
            sessions.sign_in_without_request(user)
        };
        let _ = sign_in.await.unwrap();
        assert_eq!(sessions.user(old.token()).await.unwrap(), None);
    }
}

/// N12: after a query on a listening connection has returned, the notifications of each transaction
/// that committed before the query was sent have arrived. Heartbeats rely on this. PostgreSQL
/// behaves so without documenting it, so this test runs on every version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_on_a_listening_connection_is_a_barrier() {
    let database = database().await;
    let (client, mut connection) = database.config().connect(NoTls).await.unwrap();
    let (send, mut arrived) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = send.send(notification.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN barrier").await.unwrap();
    let query = client.prepare("SELECT 1").await.unwrap();
    // Other connections send notifications at the same time, and one transaction stays open.
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let noise = database.client().await;
        tasks.push(tokio::spawn(async move {
            loop {
                let _ = noise.batch_execute("NOTIFY barrier, 'noise'").await;
            }
        }));
    }
    let mut open = database.client().await;
    let transaction = open.transaction().await.unwrap();
    transaction
        .batch_execute("NOTIFY barrier, 'never'")
        .await
        .unwrap();
    let writer = database.client().await;
    for number in 0..2_000 {
        let notify = format!("NOTIFY barrier, '{number}'");
        writer.batch_execute(&notify).await.unwrap();
        client.query(&query, &[]).await.unwrap();
        let mut found = false;
        while let Ok(payload) = arrived.try_recv() {
            found |= payload == number.to_string();
        }
        assert!(found, "notification {number} was overtaken by the query");
    }
    for task in tasks {
        task.abort();
    }
}

/// N12: heartbeats send no notification, so they wake no other process. Only a new connection is
/// verified by one.
#[tokio::test]
async fn heartbeats_send_no_notification() {
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = process(&database);
    let feed = sessions.store().feed(proxy.config(), NoTls);
    sessions.subscribe(feed).await.unwrap();
    let notifications = "SELECT pg_notification_queue_usage()";
    let client = database.client().await;
    proxy.sent();
    tokio::time::sleep(5 * LEASE).await;
    let sent = proxy.sent();
    // Each heartbeat binds and executes a prepared statement.
    assert!((10..=24).contains(&sent[&'B']), "{sent:?}");
    assert_eq!((sent.get(&'Q'), sent.get(&'P')), (None, None), "{sent:?}");
    let usage: f64 = client.query_one(notifications, &[]).await.unwrap().get(0);
    assert!(usage < 0.5);
}

/// A feed that panics or fails once is reconnected.
#[tokio::test]
async fn a_feed_that_panics_is_reconnected() {
    struct Panics(Arc<AtomicUsize>);
    impl SessionFeed for Panics {
        async fn listen(&self, hearing: &FeedSink) -> tower_user_session::Error {
            hearing.subscribed(FeedScope::SessionsAndUsers);
            hearing.heartbeat_received(tokio::time::Instant::now());
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(
                self.0.fetch_add(1, SeqCst) > 0,
                "made up: a panic in the feed"
            );
            pending().await
        }
    }
    let sessions = watched_with_lease(LONG_LEASE);
    let times = Arc::new(AtomicUsize::new(0));
    sessions
        .enable_cache(Panics(Arc::clone(&times)), 10)
        .await
        .unwrap();
    until(|| times.load(SeqCst) == 2).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let patience = Instant::now() + PATIENCE;
    while sessions.metrics().from_cache == 0 {
        assert!(sessions.user(ada.token()).await.unwrap().is_some());
        assert!(Instant::now() < patience, "nothing is cached");
    }
}

/// Connects once, sends a heartbeat, and disconnects.
struct Lost(Mutex<Option<tokio::sync::oneshot::Receiver<()>>>);

impl SessionFeed for Lost {
    async fn listen(&self, hearing: &FeedSink) -> tower_user_session::Error {
        let lost = self.0.lock().unwrap().take();
        if let Some(lost) = lost {
            hearing.subscribed(FeedScope::SessionsAndUsers);
            hearing.heartbeat_received(tokio::time::Instant::now());
            let _ = lost.await;
            return tower_user_session::Error::new(ErrorKind::Connection, "made up");
        }
        pending().await
    }
}

/// No call waits for a disconnected feed, not even one that was waiting when the connection was
/// lost.
#[tokio::test]
async fn calls_do_not_wait_for_a_feed_that_is_disconnected() {
    let sessions = watched_with_lease(LONG_LEASE);
    let (cut, lost) = tokio::sync::oneshot::channel();
    sessions
        .enable_cache(Lost(Mutex::new(Some(lost))), 10)
        .await
        .unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(&sessions, ada.token());
    let mut waiting = Box::pin(sessions.sign_in(2, &headers).into_future());
    assert!(
        poll_once(waiting.as_mut()).is_pending(),
        "the call does not wait for the feed"
    );
    cut.send(()).unwrap();
    let eve = patiently(waiting).await.unwrap();
    let headers = cookie(&sessions, eve.token());
    let start = Instant::now();
    let _ = patiently(sessions.sign_in(1, &headers).into_future())
        .await
        .unwrap();
    assert_eq!(patiently(sessions.revoke_all(&1)).await.unwrap(), 1);
    assert!(start.elapsed() < PATIENCE && PATIENCE < LONG_LEASE);
}

/// A feed that stops responding without a disconnect delays a call no longer than the deadline. The
/// cache is then bypassed.
#[tokio::test(start_paused = true)]
async fn a_silent_feed_delays_a_call_until_the_deadline() {
    struct Silent;
    impl SessionFeed for Silent {
        async fn listen(&self, hearing: &FeedSink) -> tower_user_session::Error {
            hearing.subscribed(FeedScope::SessionsAndUsers);
            hearing.heartbeat_received(tokio::time::Instant::now());
            pending().await
        }
    }
    let deadline = Duration::from_secs(2);
    let store = tower_user_session::store::MemorySessionStore::new();
    store.add_user(1, "Ada");
    let builder = SessionService::builder(store)
        .deadline(deadline)
        .lease(LONG_LEASE);
    let sessions = builder.build().unwrap();
    sessions.enable_cache(Silent, 10).await.unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    // The heartbeat is then older than the call.
    tokio::time::advance(Duration::from_millis(1)).await;
    let start = tokio::time::Instant::now();
    assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1);
    let took = start.elapsed();
    assert!(
        took >= deadline && took <= deadline + Duration::from_millis(10),
        "{took:?}"
    );
    let before = sessions.metrics().from_cache;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert_eq!(sessions.metrics().from_cache, before);
}

async fn cached(sessions: &WatchedSessions) -> SignedIn {
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let before = sessions.metrics().from_cache;
    for _ in 0..2 {
        assert!(sessions.user(ada.token()).await.unwrap().is_some());
    }
    assert_eq!(sessions.metrics().from_cache, before + 1);
    ada
}

/// A feed is replaced at run time: the new one counts from its first heartbeat on, and the old one
/// no longer. If the new one sends no heartbeat, the old one stays.
#[tokio::test]
async fn a_feed_is_replaced_at_run_time() {
    let (sessions, old) = ManualFeed::with_lease(LONG_LEASE).await;
    let asked = |sessions: &WatchedSessions| sessions.store().finds();
    let ada = cached(&sessions).await;
    let failing = Lost(Mutex::new(None));
    let error = tokio::time::timeout(Duration::from_millis(200), sessions.replace_feed(failing));
    assert!(error.await.is_err(), "the feed has sent no heartbeat");
    let before = asked(&sessions);
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(asked(&sessions), before, "the old feed is still there");
    old.announce(Invalidation::All);
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(asked(&sessions), before + 1);

    let new = ManualFeed::default();
    sessions.replace_feed(new.clone()).await.unwrap();
    // Notifications may have been lost between the two.
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(asked(&sessions), before + 2);
    old.announce(Invalidation::All);
    old.reconnect();
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(asked(&sessions), before + 2, "the old feed has a say");
    new.announce(Invalidation::All);
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(asked(&sessions), before + 3);

    let error = memory()
        .replace_feed(ManualFeed::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

/// A replaced feed no longer extends the lease, even if it still sends heartbeats.
#[tokio::test]
async fn a_replaced_feed_extends_no_lease() {
    let lease = Duration::from_millis(400);
    let (sessions, old) = ManualFeed::with_lease(lease).await;
    let new = ManualFeed::default();
    sessions.replace_feed(new.clone()).await.unwrap();
    let ada = cached(&sessions).await;
    new.stop_heartbeats();
    let start = Instant::now();
    while start.elapsed() < 2 * lease {
        old.reconnect();
        tokio::time::sleep(lease / 20).await;
    }
    let before = sessions.metrics().from_cache;
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    assert_eq!(sessions.metrics().from_cache, before);
}

/// N06: a stream that starts while the last one ends stays open. Three callers start and end
/// streams, so that the re-check task ends and starts all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_that_starts_while_the_last_one_ends_stays_open() {
    let sessions = memory();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let sessions = sessions.clone();
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        callers.spawn(async move {
            let session = current(&ada);
            for _ in 0..40_000 {
                let mut stream = Box::pin(sessions.ended(&session));
                for _ in 0..3 {
                    if let Poll::Ready(because) = poll_once(stream.as_mut()) {
                        panic!("a live stream closed: {because:?}");
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
}

/// A caller without a runtime gets an error, and other callers' streams of the session stay open.
#[tokio::test]
async fn a_caller_without_a_runtime_ends_only_its_own_stream() {
    let sessions = memory();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut stream = Box::pin(sessions.ended(&current(&ada)));
    assert!(poll_once(stream.as_mut()).is_pending());
    let (elsewhere, session) = (sessions.clone(), current(&ada));
    let outside = std::thread::spawn(move || Box::pin(elsewhere.ended(&session)));
    let mut outside = tokio::task::spawn_blocking(|| outside.join().unwrap())
        .await
        .unwrap();
    let Poll::Ready(because) = poll_once(outside.as_mut()) else {
        panic!("the call waits without a runtime");
    };
    assert_eq!(because, EndReason::ServiceClosed);
    drop(outside);
    assert!(poll_once(stream.as_mut()).is_pending());
    assert!(sign_out(&sessions, ada.token()).await.unwrap());
    assert_eq!(patiently(stream).await, EndReason::Revoked);
}

/// A payload that only a later version knows invalidates all sessions.
#[tokio::test]
async fn an_unknown_payload_invalidates_everything() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let ada = signed_in(&database, &sessions).await;
    for payload in ["v3 ended 1", "users x", "everything else"] {
        for channel in [
            "'tower_user_session_' || 'sessions'",
            "'tower_user_session_users_' || 'users'",
        ] {
            until_cached(&sessions, ada.token()).await;
            let notify = format!("SELECT pg_notify({channel}::regclass::oid, '{payload}')");
            sql(&database, &notify).await;
            let patience = Instant::now() + LEASE / 2;
            loop {
                let before = sessions.metrics().from_cache;
                assert!(sessions.user(ada.token()).await.unwrap().is_some());
                if sessions.metrics().from_cache == before {
                    break;
                }
                assert!(Instant::now() < patience, "{payload} changes nothing");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A feed reports if it does not receive changes of users.
#[tokio::test]
async fn a_feed_without_announced_users_is_reported() {
    let database = database().await;
    let migrate = PgSessionStore::<crate::support::User>::new(pool(&database, 1)).migrate();
    migrate.notify_on_revocation().await.unwrap();
    let logs = Logs::capture();
    let sessions = process(&database);
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.subscribe(feed).await.unwrap();
    let told = logs.text();
    assert!(told.contains("do not announce changes of users"), "{told}");
    assert!(!told.contains("not encrypted"), "{told}");
}

/// The connection is cut repeatedly while the feed connects. The feed connects as soon as it can.
#[tokio::test]
async fn a_feed_reconnects_after_its_connection_was_cut() {
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = process(&database);
    let feed = sessions.store().feed(proxy.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    let ada = signed_in(&database, &sessions).await;
    for pause in [0, 1, 5, 20] {
        proxy.set(Line::Cut);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        proxy.set(Line::Open);
        until_cached(&sessions, ada.token()).await;
    }
}
