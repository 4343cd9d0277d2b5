//! Streams end with their session, wherever it was ended.

use std::{
    future::{pending, poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::timeout;
use tower_user_session::{
    Announcement, Ended, EndedBecause, Lifetime, MemorySessionStore, PgSessionStore,
    SessionService, SessionStore as _, SignedIn,
};

use crate::support::{
    PATIENCE, User, WatchedSessions,
    caching::{LEASE, announcing, caching, process},
    cookie, current, database,
    manual_feed::{LONG_LEASE, Told},
    memory, pool, sessions, sign_out, sql, until, watched_with_lease,
};

async fn within(limit: Duration, ended: impl Future<Output = EndedBecause>) -> EndedBecause {
    timeout(limit, ended).await.expect("it does not end")
}

/// H17: with a feed a stream closes at once, without one within the lease, whoever ended the session.
#[tokio::test]
async fn a_stream_closes_when_its_session_ends() {
    let database = announcing().await;
    let elsewhere = sessions(&database);
    let (with_feed, without) = (caching(&database).await, process(&database));
    for way in 0..4 {
        sql(&database, "UPDATE users SET disabled_at = NULL").await;
        let signed_in = elsewhere.sign_in_without_request(1).await.unwrap();
        let other = elsewhere.sign_in_without_request(2).await.unwrap();
        let session = current(&signed_in);
        let told = [with_feed.ended(&session), with_feed.ended(&session)];
        let asking = without.ended(&session);
        let mut others = [
            with_feed.ended(&current(&other)),
            without.ended(&current(&other)),
        ];
        // Until both have been asked about once.
        tokio::time::sleep(LEASE / 2).await;
        let headers = cookie(&elsewhere, signed_in.token());
        let start = Instant::now();
        match way {
            0 => drop(elsewhere.sign_out(&headers).await),
            1 => assert_eq!(elsewhere.revoke_all(&1).await.unwrap(), 1),
            2 => drop(sql(&database, "DELETE FROM sessions WHERE user_id = 1").await),
            _ => drop(
                sql(
                    &database,
                    "UPDATE users SET disabled_at = now() WHERE id = 1",
                )
                .await,
            ),
        }
        for ended in told {
            assert_eq!(
                within(LEASE / 2, ended).await,
                EndedBecause::Revoked,
                "way {way}"
            );
        }
        let limit = LEASE + Duration::from_millis(100);
        assert_eq!(within(limit, asking).await, EndedBecause::Revoked);
        assert!(start.elapsed() < limit, "way {way}: {:?}", start.elapsed());
        for other in &mut others {
            assert!(
                timeout(LEASE, other).await.is_err(),
                "somebody else's stream closed"
            );
        }
    }
}

/// A new token is no end, and neither is being used.
#[tokio::test]
async fn a_stream_outlives_a_new_token() {
    let database = announcing().await;
    let sessions = caching(&database).await;
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.ended(&current(&signed_in));
    let headers = cookie(&sessions, signed_in.token());
    let confirmed = sessions.confirm(1, &headers).await.unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() + interval '1 second'",
    )
    .await;
    let mut ended = Box::pin(ended);
    assert!(timeout(LEASE, &mut ended).await.is_err());
    assert!(sign_out(&sessions, confirmed.token()).await.unwrap());
    assert_eq!(within(LEASE, ended).await, EndedBecause::Revoked);
}

/// D10, D11: a stream closes when a limit passes, and says so; use puts the idle limit off.
#[tokio::test]
async fn a_stream_closes_when_its_session_expires() {
    let second = Duration::from_secs(1);
    let database = database().await;
    let lifetime = Lifetime::absolute(10 * second)
        .unwrap()
        .with_idle(2 * second)
        .unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 4)).with_lifetime(lifetime);
    let sessions = SessionService::new(store);
    let short = sessions
        .sign_in_without_request(1)
        .at_most(second)
        .await
        .unwrap();
    let idle = sessions.sign_in_without_request(1).await.unwrap();
    let used = sessions.sign_in_without_request(1).await.unwrap();
    let start = Instant::now();
    let ended = [&short, &idle, &used].map(|signed_in| sessions.ended(&current(signed_in)));
    let [short, idle, used] = ended;
    assert_eq!(within(2 * second, short).await, EndedBecause::Expired);
    assert!(start.elapsed() > second * 8 / 10 && start.elapsed() < second * 15 / 10);
    let touch = "UPDATE sessions SET last_seen_at = now() WHERE id = (
        SELECT id FROM sessions ORDER BY created_at DESC LIMIT 1)";
    sql(&database, touch).await;
    assert_eq!(within(2 * second, idle).await, EndedBecause::Expired);
    assert!(start.elapsed() > second * 18 / 10 && start.elapsed() < second * 27 / 10);
    assert_eq!(within(2 * second, used).await, EndedBecause::Expired);
    assert!(start.elapsed() > second * 28 / 10, "{:?}", start.elapsed());
}

/// Waiting for a session that is over already ends at once.
#[tokio::test]
async fn a_session_that_is_over_is_noticed_when_the_waiting_begins() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let before = sessions.ended(&current(&signed_in));
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    let after = sessions.ended(&current(&signed_in));
    for ended in [before, after] {
        assert_eq!(within(LEASE, ended).await, EndedBecause::Revoked);
    }
}

/// A store that cannot be asked closes nothing before it can, or before the absolute limit.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_no_stream_early() {
    let hour = Duration::from_secs(60 * 60);
    let store = MemorySessionStore::new().with_lifetime(Lifetime::absolute(hour).unwrap());
    store.add_user(1, "Ada");
    let sessions = SessionService::new(store);
    let [first, second] = [
        sessions.sign_in_without_request(1).await.unwrap(),
        sessions.sign_in_without_request(1).await.unwrap(),
    ];
    let mut ended = Box::pin(sessions.ended(&current(&first)));
    let expired = sessions.ended(&current(&second));
    sessions.store().set_failing(true);
    assert!(timeout(hour / 2, &mut ended).await.is_err());
    sessions.store().set_failing(false);
    assert!(sign_out(&sessions, first.token()).await.unwrap());
    assert_eq!(
        within(Duration::from_secs(2), ended).await,
        EndedBecause::Revoked
    );
    sessions.store().set_failing(true);
    assert_eq!(within(hour, expired).await, EndedBecause::Expired);
}

/// A new session that is waited for, and that the store has been asked about: it is not asked again
/// without a reason.
async fn waited_for(sessions: &WatchedSessions) -> (SignedIn, Ended) {
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.ended(&current(&signed_in));
    until(|| sessions.store().checks() == 1).await;
    (signed_in, ended)
}

/// A call to this service is a reason, also without a feed.
#[tokio::test]
async fn a_stream_closes_at_once_when_its_session_is_ended_here() {
    for revoked in [false, true] {
        let sessions = watched_with_lease(LONG_LEASE);
        let (signed_in, ended) = waited_for(&sessions).await;
        if revoked {
            assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1);
        } else {
            assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
        }
        assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
    }
}

/// So is a feed that says that anything may have ended, and one that was away.
#[tokio::test]
async fn a_stream_closes_when_its_session_may_have_ended_with_others() {
    for away in [false, true] {
        let (sessions, feed) = Told::with_lease(LONG_LEASE).await;
        let (_, ended) = waited_for(&sessions).await;
        assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
        if away {
            feed.come_back();
        } else {
            feed.announce(Announcement::Everything);
        }
        assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
    }
}

/// A feed does not say again what it said before the waiting began.
#[tokio::test]
async fn a_session_that_was_ended_elsewhere_is_noticed_when_the_waiting_begins() {
    let (sessions, _feed) = Told::with_lease(LONG_LEASE).await;
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
    let ended = sessions.ended(&current(&signed_in));
    assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
}

/// Whoever waits for a feed must not go on waiting when that says nothing any more.
#[tokio::test]
async fn a_stream_closes_when_its_session_ends_after_its_feed_fell_silent() {
    let (sessions, feed) = Told::with_lease(LEASE).await;
    let (_, ended) = waited_for(&sessions).await;
    feed.fall_silent();
    assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
    assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
}

/// What a feed that hears has said once is asked about until there is an answer.
#[tokio::test]
async fn a_doubt_outlives_a_store_that_fails() {
    let (sessions, feed) = Told::with_lease(10 * LEASE).await;
    let (signed_in, ended) = waited_for(&sessions).await;
    let store = sessions.store();
    assert_eq!(store.revoke_everyone().await.unwrap(), 1);
    store.set_failing(true);
    feed.announce(Announcement::Sessions(vec![signed_in.session().id()]));
    until(|| store.checks() == 2).await;
    store.set_failing(false);
    assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
}

#[tokio::test]
async fn of_two_who_wait_for_a_session_one_may_go() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let goes = sessions.ended(&current(&signed_in));
    let stays = sessions.ended(&current(&signed_in));
    drop(goes);
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    assert_eq!(within(PATIENCE, stays).await, EndedBecause::Revoked);
}

/// Once it is known that the session is over, what the future has to say is not heard.
#[tokio::test]
async fn a_future_that_is_ready_when_its_session_is_over_comes_too_late() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let session = current(&signed_in);
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    let futures: Vec<_> = (0..100)
        .map(|_| sessions.while_live(&session, ready(())))
        .collect();
    let ended = sessions.ended(&session);
    assert_eq!(within(PATIENCE, ended).await, EndedBecause::Revoked);
    for future in futures {
        assert_eq!(future.await, Err(EndedBecause::Revoked));
    }
}

#[tokio::test]
async fn a_draining_service_ends_its_streams_and_answers_lookups() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let open = sessions.ended(&current(&signed_in));
    sessions.end_streams();
    assert_eq!(within(PATIENCE, open).await, EndedBecause::ServiceClosed);
    let late = sessions.ended(&current(&signed_in));
    assert_eq!(within(PATIENCE, late).await, EndedBecause::ServiceClosed);
    assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    let again = sessions.sign_in_without_request(2).await.unwrap();
    assert!(sessions.user(again.token()).await.unwrap().is_some());
}

#[tokio::test]
async fn closing_the_service_closes_its_streams() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.ended(&current(&signed_in));
    sessions.close().await;
    assert_eq!(within(LEASE, ended).await, EndedBecause::ServiceClosed);
    let ended = sessions.ended(&current(&signed_in));
    assert_eq!(within(LEASE, ended).await, EndedBecause::ServiceClosed);
}

struct Ticks(u32);

impl Stream for Ticks {
    type Item = u32;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        if self.0 == 3 {
            return pin_pending(cx);
        }
        self.0 += 1;
        Poll::Ready(Some(self.0))
    }
}

/// A stream that has nothing to say and says nothing when it has.
fn pin_pending<T>(cx: &mut Context<'_>) -> Poll<T> {
    Pin::new(&mut pending()).poll(cx)
}

async fn all<S: Stream>(stream: S) -> Vec<S::Item> {
    let mut stream = Box::pin(stream);
    let mut items = Vec::new();
    while let Some(item) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        items.push(item);
    }
    items
}

/// H14, H17: streams and bodies end as if they were complete, with a last word where one is given.
#[tokio::test]
async fn streams_and_bodies_end_with_the_session() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = || sessions.ended(&current(&signed_in));
    let silent = tokio::spawn(all(ended().close_stream(Ticks(0))));
    let last = |because| {
        Some(if because == EndedBecause::Revoked {
            99
        } else {
            0
        })
    };
    let speaking = tokio::spawn(all(ended().close_stream_with(Ticks(1), last)));
    let waiting = sessions.while_live(&current(&signed_in), pending::<()>());
    let frames = StreamBody::new(Frames(Ticks(0)));
    let body: UnsyncBoxBody<_, std::convert::Infallible> =
        ended().close_body(frames).boxed_unsync();
    let body = tokio::spawn(body.collect());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!silent.is_finished() && !speaking.is_finished() && !body.is_finished());
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    assert_eq!(silent.await.unwrap(), [1, 2, 3]);
    assert_eq!(speaking.await.unwrap(), [2, 3, 99]);
    assert_eq!(
        body.await.unwrap().unwrap().to_bytes().as_ref(),
        b"\x01\x02\x03"
    );
    assert_eq!(waiting.await, Err(EndedBecause::Revoked));
}

struct Frames(Ticks);

impl Stream for Frames {
    type Item = Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map(|tick| {
            tick.map(|tick| {
                let byte = bytes::Bytes::from(vec![u8::try_from(tick).unwrap()]);
                Ok(http_body::Frame::data(byte))
            })
        })
    }
}
