//! Feeds that say what a test wants when the test wants it: leases, lookups that are overtaken, and a feed
//! that proves nothing.

use std::{future::pending, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tower_user_session::{
    Announcement, Announces, DEFAULT_DEADLINE, Error, ErrorKind, Hearing, LiveSession, SessionFeed,
    SessionService, SessionToken, SignedIn,
};

use crate::support::{
    User, WatchedSessions,
    manual_feed::{LONG_LEASE, Told},
    memory, patiently,
    scripted_store::Hung,
    until,
};

/// Sessions that are old enough to be kept.
async fn signed_in(sessions: &WatchedSessions, count: usize) -> Vec<SignedIn> {
    let mut signed_in = Vec::new();
    for _ in 0..count {
        signed_in.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    sessions.store().advance(Duration::from_secs(60 * 60));
    signed_in
}

/// One that has been asked about once and is answered from memory since.
async fn kept(sessions: &WatchedSessions) -> SignedIn {
    let signed_in = signed_in(sessions, 1).await.remove(0);
    for _ in 0..2 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert_eq!(
        (sessions.store().finds(), sessions.counts().from_cache),
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

/// What is kept is given as long as the feed has proved within a lease that it hears, and no longer.
#[tokio::test]
async fn nothing_is_answered_from_memory_longer_than_a_lease_after_the_last_proof() {
    let lease = Duration::from_secs(2);
    let (sessions, feed) = Told::with_lease(lease).await;
    let signed_in = kept(&sessions).await;
    feed.fall_silent();
    let silent = Instant::now();
    while sessions.store().finds() == 1 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
        assert!(silent.elapsed() < 4 * lease, "it is given for ever");
        tokio::task::yield_now().await;
    }
}

/// The lease is the application's, within bounds.
#[test]
fn the_lease_is_a_setting() {
    let build = |lease| SessionService::builder(Hung).lease(lease).build();
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

/// What anything may have happened to is asked about again.
#[tokio::test]
async fn what_is_kept_is_forgotten_when_anything_may_have_happened() {
    for away in [false, true] {
        let (sessions, feed) = Told::with_lease(LONG_LEASE).await;
        let signed_in = kept(&sessions).await;
        if away {
            feed.come_back();
        } else {
            feed.announce(Announcement::Everything);
        }
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
        assert_eq!(sessions.store().finds(), 2, "away: {away}");
    }
}

/// E05: what was asked about before something was announced is not kept, whenever the answer comes.
#[tokio::test]
async fn a_lookup_that_was_overtaken_is_not_kept() {
    for way in 0..3 {
        let (sessions, feed) = Told::with_lease(LONG_LEASE).await;
        let signed_in = &signed_in(&sessions, 1).await[0];
        let store = sessions.store();
        store.answer(false);
        let asking = ask(&sessions, signed_in.token());
        until(|| store.finds() == 1).await;
        match way {
            0 => feed.announce(Announcement::Sessions(vec![signed_in.session().id()])),
            1 => feed.announce(Announcement::Everything),
            _ => feed.come_back(),
        }
        store.answer(true);
        assert!(asking.await.unwrap().unwrap().is_some());
        for finds in [2, 2] {
            assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
            assert_eq!(store.finds(), finds, "way {way}");
        }
        assert_eq!(sessions.counts().from_cache, 1, "way {way}");
    }
}

/// E05: so it is with who is asked about alone, because a batch met a row that cannot be read.
#[tokio::test]
async fn a_lookup_that_was_overtaken_alone_is_not_kept() {
    let (sessions, feed) = Told::with_lease(LONG_LEASE).await;
    let signed_in = signed_in(&sessions, 4).await;
    let store = sessions.store();
    store.meet_a_bad_row();
    store.answer(false);
    let first = ask(&sessions, &SessionToken::generate().unwrap());
    until(|| store.finds() == 1).await;
    let asking: Vec<_> = signed_in
        .iter()
        .map(|signed_in| ask(&sessions, signed_in.token()))
        .collect();
    // All of them at once, and then one alone.
    until(|| store.finds() == 3).await;
    let all = signed_in.iter().map(|signed_in| signed_in.session().id());
    feed.announce(Announcement::Sessions(all.collect()));
    store.answer(true);
    assert!(first.await.unwrap().unwrap().is_none());
    for asking in asking {
        assert!(asking.await.unwrap().unwrap().is_some());
    }
    // Three were asked about afterwards.
    assert_eq!(store.finds(), 6);
    for signed_in in &signed_in {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert_eq!((store.finds(), sessions.counts().from_cache), (7, 3));
}

/// Connects, and proves that it hears if it is to.
struct Feed {
    proves: bool,
}

impl SessionFeed for Feed {
    async fn hear(&self, hearing: &Hearing) -> Error {
        hearing.connected(Announces::SessionsAndUsers);
        if self.proves {
            hearing.proved(Instant::now());
        }
        pending().await
    }
}

/// A feed that proves nothing is an error at the deadline, and leaves nothing behind: another one can be
/// followed.
#[tokio::test(start_paused = true)]
async fn a_feed_that_never_proves_that_it_hears_is_an_error_at_the_deadline() {
    let sessions = memory();
    let (deaf, hears) = (Feed { proves: false }, Feed { proves: true });
    let start = Instant::now();
    let error = patiently(sessions.cache(deaf, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("feed"), "{error}");
    let took = start.elapsed();
    assert!(
        took >= DEFAULT_DEADLINE && took < 2 * DEFAULT_DEADLINE,
        "{took:?}"
    );
    patiently(sessions.follow(hears)).await.unwrap();
}
