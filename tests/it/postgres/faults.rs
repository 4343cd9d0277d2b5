//! Failures of the server, the connections and the network, and what the next request sees.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{Server, StopMode, TestDatabase};
use tokio::net::TcpListener;
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    session::{SessionId, SessionToken},
    store::SessionStore as _,
    tokio_postgres::{Config, NoTls},
};

use crate::support::{
    COMPATIBLE_CHANGES, PgSessions, USERS, User, database,
    fault::{ObservedFault, send},
    kill_lookups,
    manual_feed::ManualFeed,
    pool,
    proxy::{Line, Proxy},
    sessions, sign_out, sql, until_number, until_waiting,
};

const DEADLINE: Duration = Duration::from_millis(300);

fn impatient(pool: Pool) -> PgSessions {
    let store = PgSessionStore::new(pool);
    SessionService::builder(store)
        .deadline(DEADLINE)
        .build()
        .unwrap()
}

/// A database with the tables, on a server of its own.
async fn private_database() -> (Server, TestDatabase) {
    let server = tokio::task::spawn_blocking(|| Server::start_private(&[]).unwrap());
    let server = server.await.unwrap();
    let database = TestDatabase::create_on(&server, USERS).await.unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 1));
    store.migrate().await.unwrap();
    (server, database)
}

/// F01, F19: an unreachable server, or one that rejects the password, is an error at once, which
/// does not contain the password.
#[tokio::test]
async fn an_unreachable_database_is_an_error_at_once() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    proxy.set(Line::Cut);
    let sessions = impatient(proxy.pool(1));
    let token = SessionToken::generate().unwrap();
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(
            sessions.user(&token).await.unwrap_err().kind(),
            ErrorKind::Connection
        );
    }
    assert!(start.elapsed() < 10 * DEADLINE);
    proxy.set(Line::Open);
    let start = Instant::now();
    while !matches!(sessions.user(&token).await, Ok(None)) {
        assert!(start.elapsed() < Duration::from_millis(500));
    }
}

/// F01, F18: an unreachable server gets few connection attempts, and lookups fail at once
/// meanwhile.
#[tokio::test]
async fn a_server_that_is_down_gets_few_connection_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            drop(connection);
        }
    });
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("nobody");
    let pool = Pool::builder(Manager::new(config, NoTls)).build().unwrap();
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    let token = SessionToken::generate().unwrap();
    let (start, mut asked) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        let asking = Instant::now();
        let error = sessions.user(&token).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(asking.elapsed() < Duration::from_millis(200));
        asked += 1;
    }
    let attempts = attempts.load(SeqCst);
    assert!(
        (5..60).contains(&attempts) && asked > 500,
        "{attempts} of {asked}"
    );
}

/// F03, F04, F05, F25: the lookup connections are killed, idle and busy. The callers still get the
/// user, over a new connection, with one retry at most.
#[tokio::test]
async fn a_lost_connection_is_replaced_without_an_error() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(2)));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    for _ in 0..5 {
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
        assert!(kill_lookups(&database).await >= 1);
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    }

    let fault = ObservedFault::begin("a connection is lost", &sessions);
    let look_up = async || {
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    };
    let kill_and_look_up = async || {
        kill_lookups(&database).await;
        look_up().await;
    };
    fault.becomes_visible(kill_and_look_up).await;
    fault.ends(look_up).await;

    // Busy: waiting for a lock on the users table until it is killed.
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE", &[])
        .await
        .unwrap();
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (sessions, text) = (sessions.clone(), ada.token().expose());
            tokio::spawn(async move {
                let token = SessionToken::parse(text.as_bytes()).unwrap();
                sessions.user(&token).await
            })
        })
        .collect();
    until_waiting(&database, 1).await;
    // On a slow machine, the proxy is a distance at which several statements are in flight.
    assert!(kill_lookups(&database).await >= 1);
    lock.commit().await.unwrap();
    for task in asking {
        assert_eq!(task.await.unwrap().unwrap(), Some(User::ada()));
    }
}

/// F06, F02: an unresponsive connection times out at the deadline and is replaced by a new
/// connection.
#[tokio::test]
async fn a_database_that_does_not_respond_is_an_error_at_the_deadline() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = impatient(proxy.pool(2));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    proxy.set(Line::Silent);
    let start = Instant::now();
    for n in 1..=3 {
        // Idle connections first, then new ones that cannot be opened.
        assert_eq!(
            sessions.user(ada.token()).await.unwrap_err().kind(),
            ErrorKind::Deadline
        );
        let took = start.elapsed();
        assert!(
            took >= n * DEADLINE && took < n * DEADLINE + Duration::from_secs(3),
            "{took:?}"
        );
    }
    proxy.set(Line::Open);
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
}

/// F23: responses take between no time and two seconds. Each lookup completes by the deadline, and
/// none returns a result from before a sign-out.
#[tokio::test]
async fn on_a_bad_network_every_lookup_completes_by_the_deadline() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = impatient(proxy.pool(2));
    let honest = self::sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let (mut answered, mut late) = (0, 0);
    for round in 0..40 {
        if round == 20 {
            assert!(sign_out(&honest, eve.token()).await.unwrap());
        }
        // A fifth of the responses exceed the deadline; some arrive when they are no longer
        // expected.
        let delay = [0, 7, 60, 200, 2_000][round % 5];
        proxy.set(Line::Delayed(Duration::from_millis(delay)));
        let start = Instant::now();
        let (first, second) = tokio::join!(sessions.user(ada.token()), sessions.user(eve.token()));
        assert!(start.elapsed() < DEADLINE + Duration::from_millis(500));
        let expected = (round < 20).then(User::eve);
        for (user, expected) in [(first, Some(User::ada())), (second, expected)] {
            match user {
                Ok(user) => {
                    assert_eq!(user, expected, "round {round}");
                    answered += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Deadline);
                    late += 1;
                }
            }
        }
    }
    assert!(answered >= 20 && late >= 16, "{answered} and {late} late");
    proxy.set(Line::Open);
    // A connection that was being opened on the slow network may cost one more lookup.
    let _ = sessions.user(ada.token()).await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
}

/// F27: a write connection that was lost without notice costs one failed write and is replaced.
#[tokio::test]
async fn a_silently_lost_connection_is_replaced_in_the_pool() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = impatient(proxy.pool(1));
    assert!(sessions.sign_in_without_request(1).await.is_ok());
    for _ in 0..3 {
        proxy.set(Line::Silent);
        let error = sessions.sign_in_without_request(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
        assert!(error.is_outcome_unknown());
        proxy.set(Line::Open);
        assert!(sessions.sign_in_without_request(1).await.is_ok());
    }
}

/// A write whose connection breaks before its response has an unknown outcome, and the error says
/// so. Here the write took effect.
#[tokio::test]
async fn a_write_without_a_response_has_an_unknown_outcome() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(1)));
    let honest = self::sessions(&database);
    let first = sessions.sign_in_without_request(1).await.unwrap();
    let second = sessions.sign_in_without_request(1).await.unwrap();
    let third = sessions.sign_in_without_request(1).await.unwrap();
    // Prepares the statement, so that the next response is to its execution.
    assert!(sign_out(&sessions, first.token()).await.unwrap());

    proxy.set(Line::Unanswered);
    let error = sign_out(&sessions, second.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.is_outcome_unknown());
    assert_eq!(honest.user(second.token()).await.unwrap(), None);

    // If no connection could be opened, nothing happened.
    let error = sign_out(&sessions, third.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(!error.is_outcome_unknown());
    assert!(honest.user(third.token()).await.unwrap().is_some());

    proxy.set(Line::Open);
    assert!(sign_out(&sessions, third.token()).await.unwrap());
}

/// Q03: the synchronous standby does not confirm a `COMMIT`. Writes fail at the deadline, with an
/// unknown outcome. They succeed when the server no longer waits for the standby.
#[tokio::test]
async fn a_standby_that_does_not_confirm_leaves_the_outcome_unknown() {
    let (_server, database) = private_database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 8));
    let sessions = SessionService::builder(store).deadline(DEADLINE);
    let sessions = sessions.build().unwrap();
    let standbys = async |names: &str| {
        let client = database.client().await;
        let change = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        client.batch_execute(&change).await.unwrap();
        sql(&database, "SELECT pg_reload_conf()").await;
        let current = format!(
            "SELECT count(*) FROM pg_settings
             WHERE name = 'synchronous_standby_names' AND setting = '{names}'"
        );
        until_number(&database, &current, 1).await;
    };
    let sign_in_and_out = async || {
        let ada = sessions.sign_in_without_request(1).await;
        let eve = SessionToken::generate().unwrap();
        let token = ada.as_ref().map_or(&eve, |ada| ada.token());
        let _ = sign_out(&sessions, token).await;
    };
    let unconfirmed = sessions.sign_in_without_request(1).await.unwrap();
    let fault = ObservedFault::begin(
        "a synchronous standby does not confirm a `COMMIT`",
        &sessions,
    );
    standbys("missing").await;
    let error = sign_out(&sessions, unconfirmed.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.is_outcome_unknown(), "{error:?}");
    let error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error:?}");
    fault.becomes_visible(sign_in_and_out).await;
    standbys("").await;
    fault.ends(sign_in_and_out).await;
    assert!(sessions.user(unconfirmed.token()).await.unwrap().is_none());
}

/// F09, F08: a locked table, or the server's own timeout, is an error, and recovery needs no
/// restart.
#[tokio::test]
async fn a_locked_table_is_an_error_at_the_deadline() {
    let database = database().await;
    let sessions = impatient(pool(&database, 2));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE", &[])
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(
            sessions.user(ada.token()).await.unwrap_err().kind(),
            ErrorKind::Deadline
        );
    }
    lock.rollback().await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
}

/// F07: a pool exhausted by the application blocks nothing once the store has its connections.
/// Before that, the error names the pool and says that nothing happened.
#[tokio::test]
async fn an_exhausted_pool_delays_no_lookup() {
    let database = database().await;
    let pool = pool(&database, 1);
    let sessions = impatient(pool.clone());
    let all = pool.get().await.unwrap();
    let error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pool);
    assert!(!error.is_outcome_unknown());
    drop(all);

    sessions.store().check().await.unwrap();
    let all = pool.get().await.unwrap();
    for _ in 0..20 {
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
        assert!(sign_out(&sessions, ada.token()).await.unwrap());
    }
    drop(all);
}

/// F10: tables change under prepared statements and load: no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compatible_schema_changes_cause_no_error() {
    let database: TestDatabase = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (sessions, text, stop) = (sessions.clone(), ada.token().expose(), stop.clone());
            tokio::spawn(async move {
                let token = SessionToken::parse(text.as_bytes()).unwrap();
                let mut asked = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let user = sessions.user(&token).await.unwrap().unwrap();
                    assert_eq!((user.id, &*user.email), (1, "ada@example.com"));
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for change in COMPATIBLE_CHANGES
        .into_iter()
        .chain(["CREATE INDEX ON users (role)"])
    {
        sql(&database, change).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for task in tasks {
        assert!(task.await.unwrap() > 0);
    }
}

/// F15, F16, N05: a server in recovery may not have received a sign-out. It is rejected unless
/// stale reads are allowed explicitly. After its promotion lookups recover without a restart.
#[tokio::test]
async fn a_server_in_recovery_is_rejected() {
    let (server, database) = private_database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    let sessions = SessionService::new(store);
    let stale: PgSessions =
        SessionService::new(PgSessionStore::new(pool(&database, 2)).allow_stale_replica_reads());
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));

    let demoted = "the server is a replica, or was demoted under an open connection";
    let fault = ObservedFault::begin(demoted, &sessions);
    // Demoted: the same data, in recovery.
    let server = tokio::task::spawn_blocking(move || {
        server.stop(StopMode::Fast).unwrap();
        let data = server.directory().unwrap().join("data");
        std::fs::File::create(data.join("standby.signal")).unwrap();
        server.restart().unwrap();
        server
    });
    let server = server.await.unwrap();
    for _ in 0..2 {
        let error = sessions.user(ada.token()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Recovery);
    }
    let request = async || {
        send(&sessions, ada.token()).await;
    };
    fault.becomes_visible(request).await;
    let error = sessions.store().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);
    let error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);
    assert!(!error.is_outcome_unknown());
    assert!(stale.store().check().await.unwrap().in_recovery());
    // N05: its results are never cached, because a notification may have arrived before the change
    // was replayed.
    stale.enable_cache(ManualFeed::default(), 10).await.unwrap();
    for _ in 0..3 {
        assert_eq!(stale.user(ada.token()).await.unwrap(), Some(User::ada()));
    }
    assert_eq!(stale.metrics().from_cache, 0);
    // Nor can it prove that a stream's session has not ended, or has not yet begun there.
    let ids = [ada.session().id(), SessionId::from_bytes([7; 16])];
    for ids in [&ids[..1], &ids[1..]] {
        let error = sessions.store().remaining_lifetimes(ids).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Recovery);
    }
    assert_eq!(
        stale.store().remaining_lifetimes(&ids).await.unwrap().len(),
        1
    );

    let promoted: bool = database
        .client()
        .await
        .query_one("SELECT pg_promote()", &[])
        .await
        .unwrap()
        .get(0);
    assert!(promoted);
    fault.ends(request).await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(
        sessions
            .store()
            .remaining_lifetimes(&ids)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(sessions.sign_in_without_request(1).await.is_ok());
    for _ in 0..3 {
        assert!(stale.user(ada.token()).await.unwrap().is_some());
    }
    assert!(stale.metrics().from_cache > 0);
    drop(server);
}
