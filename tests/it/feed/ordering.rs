//! With a manual feed: leases, lookups overtaken by invalidations, and a feed without heartbeats.

use std::{future::pending, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tower_user_session::{
    Error, ErrorKind, SessionService, SignedIn,
    feed::{FeedScope, FeedSink, Invalidation, SessionFeed},
    service::DEFAULT_DEADLINE,
    session::SessionToken,
    store::LiveSession,
};

use crate::support::{
    Logs, User, WatchedSessions,
    manual_feed::{LONG_LEASE, ManualFeed},
    memory, patiently,
    scripted_store::PendingStore,
    until,
};

/// Signs in sessions that are old enough to be cached.
async fn signed_in(sessions: &WatchedSessions, count: usize) -> Vec<SignedIn> {
    let mut signed_in = Vec::new();
    for _ in 0..count {
        signed_in.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    sessions.store().advance(Duration::from_secs(60 * 60));
    signed_in
}

/// A session that was looked up once and is then answered from the cache.
async fn cached_session(sessions: &WatchedSessions) -> SignedIn {
    let signed_in = signed_in(sessions, 1).await.remove(0);
    for _ in 0..2 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert_eq!(
        (sessions.store().finds(), sessions.metrics().from_cache),
        (1, 1)
    );
    signed_in
}

fn ask(
    sessions: &WatchedSessions,
    token: &SessionToken,
) -> JoinHandle<Result<Option<LiveSession<User>>, Error>> {
    let (sessions, digest) = (sessions.clone(), token.digest());
    tokio::spawn(async move { sessions.resolve_digest(digest).await })
}

/// A cached result is used as long as a heartbeat returned within the last lease, and no longer.
#[tokio::test]
async fn the_cache_is_bypassed_one_lease_after_the_last_heartbeat() {
    let lease = Duration::from_secs(2);
    let (sessions, feed) = ManualFeed::with_lease(lease).await;
    let signed_in = cached_session(&sessions).await;
    feed.stop_heartbeats();
    let silent = Instant::now();
    while sessions.store().finds() == 1 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
        assert!(
            silent.elapsed() < 4 * lease,
            "the cached result is used without end"
        );
        tokio::task::yield_now().await;
    }
}

/// Q03: a heartbeat that comes back after its lease is reported if the feed is disconnected, and not
/// if a later heartbeat has come back before.
#[tokio::test]
async fn a_late_heartbeat_is_reported_while_the_feed_is_disconnected() {
    let lease = Duration::from_secs(1);
    let (sessions, feed) = ManualFeed::with_lease(lease).await;
    let logs = Logs::capture();
    feed.stop_heartbeats();
    feed.late_heartbeat(Duration::ZERO);
    feed.late_heartbeat(2 * lease);
    assert_eq!(sessions.metrics().feed_disconnects, 0);
    until(|| sessions.metrics().feed_connected == Some(false)).await;
    feed.late_heartbeat(2 * lease);
    assert_eq!(sessions.metrics().feed_disconnects, 1);
    feed.late_heartbeat(Duration::ZERO);
    assert_eq!(sessions.metrics().feed_connected, Some(true));
    let events = logs.events();
    let [disconnected, recovered] = &events[..] else {
        panic!("{events:#?}")
    };
    assert!(disconnected.contains("event=\"feed_disconnected\" kind=Deadline"));
    assert!(recovered.contains("event=\"feed_recovered\""));
}

/// The lease is configurable, within bounds.
#[test]
fn the_lease_is_configurable_within_bounds() {
    let build = |lease| SessionService::builder(PendingStore).lease(lease).build();
    for taken in [Duration::from_millis(100), Duration::from_secs(60)] {
        assert!(build(taken).is_ok());
    }
    for refused in [
        Duration::ZERO,
        Duration::from_millis(99),
        Duration::from_secs(61),
        Duration::MAX,
    ] {
        let error = build(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("lease"), "{error}");
    }
}

/// Sessions that any event may have ended are looked up again.
#[tokio::test]
async fn the_cache_is_cleared_when_invalidations_may_be_lost() {
    for away in [false, true] {
        let (sessions, feed) = ManualFeed::with_lease(LONG_LEASE).await;
        let signed_in = cached_session(&sessions).await;
        if away {
            feed.reconnect();
        } else {
            feed.announce(Invalidation::All);
        }
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
        assert_eq!(sessions.store().finds(), 2, "away: {away}");
    }
}

/// E05: a lookup that started before an invalidation is not cached, whenever it returns.
#[tokio::test]
async fn a_lookup_overtaken_by_an_invalidation_is_not_cached() {
    for way in 0..3 {
        let (sessions, feed) = ManualFeed::with_lease(LONG_LEASE).await;
        let signed_in = &signed_in(&sessions, 1).await[0];
        let store = sessions.store();
        store.answer(false);
        let asking = ask(&sessions, signed_in.token());
        until(|| store.finds() == 1).await;
        match way {
            0 => feed.announce(Invalidation::Sessions(vec![signed_in.session().id()])),
            1 => feed.announce(Invalidation::All),
            _ => feed.reconnect(),
        }
        store.answer(true);
        assert!(asking.await.unwrap().unwrap().is_some());
        for finds in [2, 2] {
            assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
            assert_eq!(store.finds(), finds, "way {way}");
        }
        assert_eq!(sessions.metrics().from_cache, 1, "way {way}");
    }
}

/// E05: the same for a lookup that is retried alone because its batch had an unreadable row.
#[tokio::test]
async fn a_retried_lookup_overtaken_by_an_invalidation_is_not_cached() {
    let (sessions, feed) = ManualFeed::with_lease(LONG_LEASE).await;
    let signed_in = signed_in(&sessions, 4).await;
    let store = sessions.store();
    store.fail_batches();
    store.answer(false);
    let first = ask(&sessions, &SessionToken::generate().unwrap());
    until(|| store.finds() == 1).await;
    let asking: Vec<_> = signed_in
        .iter()
        .map(|signed_in| ask(&sessions, signed_in.token()))
        .collect();
    // All in one batch, and then one alone.
    until(|| store.finds() == 3).await;
    let all = signed_in.iter().map(|signed_in| signed_in.session().id());
    feed.announce(Invalidation::Sessions(all.collect()));
    store.answer(true);
    assert!(first.await.unwrap().unwrap().is_none());
    for asking in asking {
        assert!(asking.await.unwrap().unwrap().is_some());
    }
    // Three lookups started after the invalidation.
    assert_eq!(store.finds(), 6);
    for signed_in in &signed_in {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert_eq!((store.finds(), sessions.metrics().from_cache), (7, 3));
}

/// Connects, and sends a heartbeat if it should.
struct Feed {
    proves: bool,
}

impl SessionFeed for Feed {
    async fn listen(&self, hearing: &FeedSink) -> Error {
        hearing.subscribed(FeedScope::SessionsAndUsers);
        if self.proves {
            hearing.heartbeat_received(Instant::now());
        }
        pending().await
    }
}

/// A feed without a heartbeat fails at the deadline and leaves nothing behind: another feed can
/// subscribe.
#[tokio::test(start_paused = true)]
async fn a_feed_without_a_first_heartbeat_fails_at_the_deadline() {
    let sessions = memory();
    let (silent, proving) = (Feed { proves: false }, Feed { proves: true });
    let start = Instant::now();
    let error = patiently(sessions.enable_cache(silent, 10))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("feed"), "{error}");
    let took = start.elapsed();
    assert!(
        took >= DEFAULT_DEADLINE && took < 2 * DEFAULT_DEADLINE,
        "{took:?}"
    );
    patiently(sessions.subscribe(proving)).await.unwrap();
}
