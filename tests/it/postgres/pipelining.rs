//! Lookups at a distance from the server: several statements are in flight on one connection.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService,
    session::{SessionToken, TokenDigest},
};

use crate::support::{
    User, database,
    fault::ObservedFault,
    kill_lookups, number, patiently,
    proxy::{Line, Proxy},
    sql,
};

const MS: Duration = Duration::from_millis(1);

/// Opens the connections, prepares the lookup on each, and lets the service learn the round trip.
async fn warm<U: PgUser>(sessions: &SessionService<PgSessionStore<U>>) {
    // A query for which a connection was opened took longer than the way.
    for at_once in [20, 20, 20].into_iter().chain([1; 24]) {
        let mut calls = JoinSet::new();
        for _ in 0..at_once {
            let sessions = sessions.clone();
            calls.spawn(async move { sessions.resolve_digest(unknown()).await });
        }
        for found in patiently(calls.join_all()).await {
            assert!(found.unwrap().is_none());
        }
    }
}

fn unknown() -> TokenDigest {
    SessionToken::generate().unwrap().digest()
}

/// J10: at a distance, lookups are sent before the earlier ones return, and no lookup waits for a
/// batch. One line for each pool: its size, and how many lookups are sent before the first returns.
#[tokio::test]
async fn at_a_distance_lookups_follow_one_another_at_once() {
    for (pool_size, expected) in [(1, 4), (4, 4), (10, 10)] {
        let database = database().await;
        let proxy = Proxy::before(&database).await;
        let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(pool_size)));
        proxy.set(Line::Delayed(80 * MS));
        warm(&sessions).await;
        // On a busy machine, the queries seem to wait at the server for a while.
        let mut most = 0;
        for _ in 0..10 {
            let sent = patiently(sent_before_a_response(&sessions, &proxy, expected)).await;
            most = most.max(sent);
            if most == expected {
                break;
            }
        }
        assert_eq!(most, expected, "pool of {pool_size}");
    }
}

/// Starts lookups one after the other, each when the one before it was sent, and returns how many
/// were sent before the first response.
async fn sent_before_a_response(
    sessions: &SessionService<PgSessionStore<User>>,
    proxy: &Proxy,
    lookups: u64,
) -> u64 {
    proxy.sent();
    let mut calls = JoinSet::new();
    let mut sent = 0;
    'sending: for n in 1..=lookups {
        let sessions = sessions.clone();
        calls.spawn(async move { sessions.resolve_digest(unknown()).await });
        while sent < n {
            if let Some(response) = calls.try_join_next() {
                assert!(response.unwrap().unwrap().is_none());
                break 'sending;
            }
            sent += proxy.sent().get(&'B').copied().unwrap_or(0);
            tokio::task::yield_now().await;
        }
    }
    for result in calls.join_all().await {
        assert!(result.unwrap().is_none());
    }
    sent
}

/// A user whose lookup takes as long as the table `nap` says.
#[derive(Clone, Debug)]
struct Sleeper(i64);

impl PgUser for Sleeper {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const CONDITION: &'static str =
        "(SELECT count(pg_sleep(seconds)) FROM nap WHERE nap.user_id = u.id) = 1";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self(row.user().get("id")?))
    }
}

/// M06: a statement that waits behind a slow one is moved to another connection, and gets its own
/// user. The slow one gets its user too.
#[tokio::test]
async fn a_statement_behind_a_slow_one_is_moved() {
    let database = database().await;
    sql(
        &database,
        "CREATE TABLE nap AS SELECT id AS user_id, 0::float8 AS seconds FROM users",
    )
    .await;
    let proxy = Proxy::before(&database).await;
    let store = PgSessionStore::<Sleeper>::new(proxy.pool(6));
    let sessions = SessionService::builder(store)
        .deadline(Duration::from_secs(10))
        .build()
        .unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut of_eve = Vec::new();
    for _ in 0..7 {
        of_eve.push(sessions.sign_in_without_request(2).await.unwrap());
    }
    proxy.set(Line::Delayed(5 * MS));
    warm(&sessions).await;
    sql(&database, "UPDATE nap SET seconds = 3 WHERE user_id = 1").await;
    let slower = "a lookup is much slower than usual, at a distance from the server";
    let fault = ObservedFault::begin(slower, &sessions);
    for _ in 0..3 {
        let slow = tokio::spawn({
            let (sessions, digest) = (sessions.clone(), ada.token().digest());
            async move { sessions.resolve_digest(digest).await }
        });
        tokio::task::yield_now().await;
        let mut others = JoinSet::new();
        for eve in &of_eve {
            let (sessions, digest) = (sessions.clone(), eve.token().digest());
            others.spawn(async move {
                let start = Instant::now();
                (sessions.resolve_digest(digest).await, start.elapsed())
            });
            tokio::task::yield_now().await;
        }
        for (found, took) in patiently(others.join_all()).await {
            assert_eq!(found.unwrap().unwrap().user.0, 2);
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let slow = patiently(slow).await.unwrap();
        assert_eq!(slow.unwrap().unwrap().user.0, 1);
    }
    fault.becomes_visible(async || ()).await;
    sql(&database, "UPDATE nap SET seconds = 0").await;
    let look_up = async || assert!(sessions.user(ada.token()).await.unwrap().is_some());
    fault.ends(look_up).await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%asked_digest%'
        AND pid <> pg_backend_pid() AND datname = current_database()";
    assert!(number(&database, open).await <= 3);
}

/// F04, F25: if a connection is lost with several statements in flight, each is repeated once on a
/// new connection, and gets its own user.
#[tokio::test]
async fn each_statement_of_a_lost_connection_is_repeated() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(4)));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    proxy.set(Line::Delayed(20 * MS));
    warm(&sessions).await;
    let mut killed = 0;
    for _ in 0..5 {
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let sessions = sessions.clone();
                let signed_in = if n % 2 == 0 { &ada } else { &eve };
                let digest = signed_in.token().digest();
                tokio::spawn(async move { sessions.resolve_digest(digest).await })
            })
            .collect();
        tokio::task::yield_now().await;
        killed += kill_lookups(&database).await;
        for (n, call) in calls.into_iter().enumerate() {
            let user = patiently(call).await.unwrap().unwrap().unwrap().user;
            assert_eq!(user, if n % 2 == 0 { User::ada() } else { User::eve() });
        }
    }
    assert!(killed >= 5, "{killed} connections were lost");
}
