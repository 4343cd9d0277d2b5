//! Changes without a notification: how long they stay unnoticed, with the cache, for streams, and
//! without a feed.

use std::time::{Duration, Instant};

use ephemeral_postgres::TestDatabase;
use tokio::time::timeout;
use tower_user_session::{
    BoxError, CurrentSession, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    feed::{DEFAULT_RECHECK_INTERVAL, DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS, EndReason},
    session::{Session, SessionTimestamps, SessionToken},
    tokio_postgres::NoTls,
};

use crate::support::{
    PATIENCE, caching::until_cached, cookie, pool, scripted_store::PendingStore, sql,
};

const LEASE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(3);
/// Allows for the query that detects the change, on a slow machine.
const QUERY: Duration = Duration::from_millis(300);

/// A user is valid depending on the user's row, on a joined row, on the time, and on a division.
#[derive(Clone)]
struct Member;

impl PgUser for Member {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const FROM: &'static str = "users AS u JOIN tenants AS t ON t.id = u.tenant_id";
    const CONDITION: &'static str = "u.disabled_at IS NULL AND t.suspended_at IS NULL
        AND t.paid_until > now() AND 100 / u.quota > 0";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

type Members = SessionService<PgSessionStore<Member>>;

/// Inserts this many tenants and users: user n of tenant n.
async fn members(count: u32, announce_users: bool) -> TestDatabase {
    let setup = format!(
        "CREATE TABLE tenants (id bigint PRIMARY KEY, suspended_at timestamptz,
             paid_until timestamptz NOT NULL DEFAULT 'infinity');
         CREATE TABLE users (id bigint PRIMARY KEY, tenant_id bigint NOT NULL, disabled_at timestamptz,
             quota int NOT NULL DEFAULT 1);
         INSERT INTO tenants SELECT n FROM generate_series(1, {count}) AS n;
         INSERT INTO users SELECT n, n FROM generate_series(1, {count}) AS n"
    );
    let database = TestDatabase::create(&setup).await;
    let migrate = PgSessionStore::<Member>::new(pool(&database, 1)).migrate();
    if announce_users {
        migrate.notify_on_user_change().await.unwrap();
    } else {
        migrate.notify_on_revocation().await.unwrap();
    }
    database
}

fn process(database: &TestDatabase) -> Members {
    let store = PgSessionStore::new(pool(database, 4));
    let builder = SessionService::builder(store).lease(LEASE);
    builder.recheck_interval(INTERVAL).build().unwrap()
}

async fn caching(database: &TestDatabase) -> Members {
    let sessions = process(database);
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 10_000).await.unwrap();
    sessions
}

/// The time from the change until a request is rejected.
async fn rejected(sessions: &Members, token: &SessionToken, changed: Instant) -> Duration {
    // A condition that fails with an error rejects the request too.
    while matches!(sessions.user(token).await, Ok(Some(_))) {
        assert!(
            changed.elapsed() < PATIENCE,
            "the session is accepted for too long"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    changed.elapsed()
}

/// How long a change may stay unnoticed.
#[derive(Clone, Copy)]
enum Bound {
    /// Until the notification arrives, far below the lease.
    Notification,
    RecheckInterval,
}

impl Bound {
    fn limit(self) -> Duration {
        match self {
            Self::Notification => LEASE / 2,
            Self::RecheckInterval => INTERVAL + QUERY,
        }
    }
}

/// N01, H17: each change ends the cached result, a stream with a feed, a stream without one, and a
/// request without the cache, within its documented bound.
#[tokio::test]
async fn each_change_ends_requests_and_streams_within_its_bound() {
    use Bound::{Notification, RecheckInterval};
    let disable = "UPDATE users SET disabled_at = now() WHERE id = 1";
    let mut rows = tokio::task::JoinSet::new();
    for (announce_users, change, bound) in [
        (true, disable, Notification),
        (false, disable, RecheckInterval),
        (
            true,
            "UPDATE tenants SET suspended_at = now() WHERE id = 1",
            RecheckInterval,
        ),
        (
            true,
            "UPDATE tenants SET paid_until = now() WHERE id = 1",
            RecheckInterval,
        ),
        (true, "DELETE FROM tenants WHERE id = 1", RecheckInterval),
        (
            true,
            "UPDATE users SET tenant_id = 99 WHERE id = 1",
            Notification,
        ),
        (false, "DELETE FROM users WHERE id = 1", Notification),
        (
            false,
            "UPDATE sessions SET user_id = 99 WHERE user_id = 1",
            Notification,
        ),
    ] {
        rows.spawn(change_ends_what_it_must(announce_users, change, bound));
    }
    while let Some(row) = rows.join_next().await {
        row.unwrap();
    }
}

async fn change_ends_what_it_must(announce_users: bool, change: &str, bound: Bound) {
    let database = members(2, announce_users).await;
    let drop = "ALTER TABLE sessions DROP CONSTRAINT sessions_user_id_fkey";
    if change.contains("99 WHERE user_id") {
        sql(&database, drop).await;
    }
    let (with_feed, without) = (caching(&database).await, process(&database));
    let [ada, eve] = [1, 2].map(|user| without.sign_in_without_request(user));
    let (ada, eve) = (ada.await.unwrap(), eve.await.unwrap());
    let streams = [
        with_feed.ended(&CurrentSession::new(ada.session())),
        without.ended(&CurrentSession::new(ada.session())),
    ];
    let mut others = [
        with_feed.ended(&CurrentSession::new(eve.session())),
        without.ended(&CurrentSession::new(eve.session())),
    ];
    // All are checked once, so that only the interval makes them due again.
    tokio::time::sleep(LEASE / 2).await;
    until_cached(&with_feed, ada.token()).await;
    until_cached(&with_feed, eve.token()).await;

    assert_eq!(sql(&database, change).await, 1);
    let changed = Instant::now();
    assert!(
        without.user(ada.token()).await.unwrap().is_none(),
        "{change}"
    );
    let (limit, without_feed) = (bound.limit(), LEASE / 2 + QUERY);
    let [with, alone] = streams;
    let (request, with, alone) = tokio::join!(
        rejected(&with_feed, ada.token(), changed),
        timeout(limit, with),
        timeout(without_feed, alone),
    );
    assert_eq!(with, Ok(EndReason::Revoked), "{change}: with a feed");
    assert_eq!(alone, Ok(EndReason::Revoked), "{change}: without");
    assert!(request < limit, "{change}: {request:?}");
    for other in &mut others {
        let other = timeout(INTERVAL + QUERY, other).await;
        assert!(other.is_err(), "{change}: a stream of another user closed");
    }
    assert!(with_feed.user(eve.token()).await.unwrap().is_some());
}

/// N01: no notification reports the passing of time.
#[tokio::test]
async fn a_time_condition_ends_requests_and_streams_within_the_interval() {
    let database = members(1, true).await;
    let sessions = caching(&database).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let stream = sessions.ended(&CurrentSession::new(ada.session()));
    let soon = "UPDATE tenants SET paid_until = now() + interval '500 ms'";
    sql(&database, soon).await;
    let passes = Instant::now() + Duration::from_millis(500);
    until_cached(&sessions, ada.token()).await;
    tokio::time::sleep_until(passes.into()).await;
    let (request, stream) = tokio::join!(
        rejected(&sessions, ada.token(), passes),
        timeout(INTERVAL + QUERY, stream)
    );
    assert_eq!(stream.unwrap(), EndReason::Revoked);
    assert!(request < INTERVAL + QUERY, "{request:?}");
}

/// N02: a user is disabled in a transaction that stays open longer than any result is cached.
/// Sessions that were cached before or began meanwhile end with the commit.
#[tokio::test]
async fn a_long_transaction_ends_requests_and_streams_with_its_commit() {
    let database = members(1, true).await;
    let sessions = caching(&database).await;
    let before = sessions.sign_in_without_request(1).await.unwrap();
    let mut streams = vec![sessions.ended(&CurrentSession::new(before.session()))];
    until_cached(&sessions, before.token()).await;

    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let disable = "UPDATE users SET disabled_at = now() WHERE id = 1";
    transaction.execute(disable, &[]).await.unwrap();
    tokio::time::sleep(2 * INTERVAL).await;
    let meanwhile = sessions.sign_in_without_request(1).await.unwrap();
    streams.push(sessions.ended(&CurrentSession::new(meanwhile.session())));
    tokio::time::sleep(LEASE / 2).await;
    for signed_in in [&before, &meanwhile] {
        until_cached(&sessions, signed_in.token()).await;
    }
    transaction.commit().await.unwrap();
    let committed = Instant::now();
    for stream in streams {
        let ended = timeout(LEASE / 2, stream)
            .await
            .expect("a stream stays open");
        assert_eq!(ended, EndReason::Revoked);
    }
    for signed_in in [&before, &meanwhile] {
        let took = rejected(&sessions, signed_in.token(), committed).await;
        assert!(took < LEASE / 2, "{took:?}");
    }
}

/// N03: a condition that divides by zero for one user ends that user's streams. Those of 1,499
/// other users stay open and are still checked.
#[tokio::test]
async fn a_condition_that_fails_for_one_user_ends_the_streams_of_that_user() {
    const USERS: u32 = 1_500;
    let database = members(USERS, true).await;
    let sessions = caching(&database).await;
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at)
        SELECT sha256(n::text::bytea), n, now() + interval '1 day' FROM generate_series(1, 1500) AS n";
    assert_eq!(sql(&database, insert).await, u64::from(USERS));
    sql(&database, "UPDATE users SET quota = 0 WHERE id = 7").await;
    let mut streams = Vec::new();
    for user in 1..=i64::from(USERS) {
        let device = sessions.sessions_of(&user).await.unwrap().remove(0);
        let mut times = SessionTimestamps::at(device.last_seen_at);
        times.expires_at = device.expires_at;
        let session = CurrentSession::new(Session::new(device.id, times));
        streams.push(Box::pin(sessions.ended(&session)));
    }
    let bad = timeout(PATIENCE, &mut streams[6]).await;
    assert_eq!(bad.unwrap(), EndReason::Undecidable);
    drop(streams.remove(6));
    // When all are checked at once, no other user delays the check.
    for _ in 0..3 {
        let oid =
            "SELECT pg_notify('tower_user_session_' || 'sessions'::regclass::oid, 'everything')";
        database.client().await.execute(oid, &[]).await.unwrap();
        for user in [USERS, 3] {
            let suspend = format!("UPDATE tenants SET suspended_at = now() WHERE id = {user}");
            sql(&database, &suspend).await;
        }
        tokio::time::sleep(INTERVAL / 4).await;
    }
    let last = timeout(INTERVAL + PATIENCE, streams.pop().unwrap());
    assert_eq!(last.await.unwrap(), EndReason::Revoked);
    let third = timeout(INTERVAL + PATIENCE, streams.remove(2));
    assert_eq!(third.await.unwrap(), EndReason::Revoked);
    let open = streams.iter_mut().all(|stream| {
        let polled = crate::support::poll_once(stream.as_mut());
        polled.is_pending()
    });
    assert!(open, "a stream of another user closed");
}

/// N03: such a condition is an error for requests of that user, with the cache, without it, and
/// behind a transaction pooler. It never makes them anonymous. Requests, sign-ins and streams of
/// other users are not affected, even if the server reads the whole users table.
#[tokio::test]
async fn a_condition_that_fails_for_one_user_affects_no_other_user() {
    let database = members(2, true).await;
    let (with_cache, without) = (caching(&database).await, process(&database));
    let store = PgSessionStore::new(pool(&database, 4)).with_transaction_pooling();
    let builder = SessionService::builder(store).lease(LEASE);
    let pooled: Members = builder.build().unwrap();
    let [ada, eve] = [1, 2].map(|user| without.sign_in_without_request(user));
    let (ada, eve) = (ada.await.unwrap(), eve.await.unwrap());
    until_cached(&with_cache, ada.token()).await;
    let fail = "UPDATE users SET quota = 0 WHERE id = 1";
    assert_eq!(sql(&database, fail).await, 1);
    let changed = Instant::now();
    while with_cache
        .user(ada.token())
        .await
        .is_ok_and(|user| user.is_some())
    {
        assert!(changed.elapsed() < LEASE / 2, "the session is accepted");
        tokio::task::yield_now().await;
    }
    // The failing row comes first, and the statistics show that the table is small.
    let client = database.client().await;
    let last = "UPDATE users SET quota = 1 WHERE id = 2; ANALYZE";
    client.batch_execute(last).await.unwrap();
    for (name, sessions) in [
        ("cache", with_cache),
        ("no cache", without),
        ("pooled", pooled),
    ] {
        for _ in 0..2 {
            let failed = sessions.user(ada.token()).await.err();
            let kind = failed.map(|error| error.kind());
            assert_eq!(kind, Some(ErrorKind::Decode), "{name}");
            let eve = sessions.user(eve.token()).await;
            assert!(eve.unwrap().is_some(), "{name}");
        }
        let again = sessions.sign_in_without_request(2).await.unwrap();
        let headers = cookie(&sessions, again.token());
        let confirmed = sessions.reauthenticate(2, &headers).await.unwrap();
        let stream = sessions.ended(&CurrentSession::new(confirmed.session()));
        let ended = timeout(LEASE, stream).await;
        assert!(ended.is_err(), "{name}: {ended:?}");
    }
}

/// The interval is configurable, within bounds, and shorter by default if changes of users are not
/// announced.
#[test]
fn the_recheck_interval_is_configurable_within_bounds() {
    let build = |interval| {
        SessionService::builder(PendingStore)
            .recheck_interval(interval)
            .build()
    };
    for taken in [Duration::from_millis(100), Duration::from_secs(60 * 60)] {
        assert!(build(taken).is_ok());
    }
    for rejected in [
        Duration::ZERO,
        Duration::from_millis(99),
        Duration::from_secs(3601),
    ] {
        let error: Error = build(rejected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("re-check interval"), "{error}");
    }
    assert!(DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS < DEFAULT_RECHECK_INTERVAL);
}
