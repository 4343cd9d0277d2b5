//! Streams end with their session, whichever process ended it.

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
    PgSessionStore, SessionService, SignedIn,
    feed::{EndReason, Ended, Invalidation},
    session::Lifetime,
    store::{MemorySessionStore, SessionStore as _},
};

use crate::support::{
    PATIENCE, User, WatchedSessions,
    caching::{LEASE, announced_database, caching, process},
    cookie, current, database,
    manual_feed::{LONG_LEASE, ManualFeed},
    memory, pool, sessions, sign_out, sql, until, watched_with_lease,
};

async fn within(limit: Duration, ended: impl Future<Output = EndReason>) -> EndReason {
    timeout(limit, ended)
        .await
        .expect("the stream does not end")
}

/// H17: with a feed a stream closes at once, without one within the lease, whatever ended the
/// session.
#[tokio::test]
async fn a_stream_closes_when_its_session_ends() {
    let database = announced_database().await;
    let elsewhere = sessions(&database);
    let (with_feed, without) = (caching(&database).await, process(&database));
    for way in 0..4 {
        sql(&database, "UPDATE users SET disabled_at = NULL").await;
        let signed_in = elsewhere.sign_in_without_request(1).await.unwrap();
        let other = elsewhere.sign_in_without_request(2).await.unwrap();
        let session = current(&signed_in);
        let waits = [with_feed.ended(&session), with_feed.ended(&session)];
        let asking = without.ended(&session);
        let mut others = [
            with_feed.ended(&current(&other)),
            without.ended(&current(&other)),
        ];
        // Until both have been checked once.
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
        for ended in waits {
            assert_eq!(
                within(LEASE / 2, ended).await,
                EndReason::Revoked,
                "way {way}"
            );
        }
        let limit = LEASE + Duration::from_millis(100);
        assert_eq!(within(limit, asking).await, EndReason::Revoked);
        assert!(start.elapsed() < limit, "way {way}: {:?}", start.elapsed());
        for other in &mut others {
            assert!(
                timeout(LEASE, other).await.is_err(),
                "the stream of another session closed"
            );
        }
    }
}

/// Neither a new token nor use ends a stream.
#[tokio::test]
async fn a_stream_survives_token_rotation() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.ended(&current(&signed_in));
    let headers = cookie(&sessions, signed_in.token());
    let confirmed = sessions.reauthenticate(1, &headers).await.unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() + interval '1 second'",
    )
    .await;
    let mut ended = Box::pin(ended);
    assert!(timeout(LEASE, &mut ended).await.is_err());
    assert!(sign_out(&sessions, confirmed.token()).await.unwrap());
    assert_eq!(within(LEASE, ended).await, EndReason::Revoked);
}

/// D10, D11: a stream closes with the reason "expired" when a limit passes. Use extends the idle
/// limit.
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
        .max_lifetime(second)
        .await
        .unwrap();
    let idle = sessions.sign_in_without_request(1).await.unwrap();
    let used = sessions.sign_in_without_request(1).await.unwrap();
    let start = Instant::now();
    let ended = [&short, &idle, &used].map(|signed_in| sessions.ended(&current(signed_in)));
    let [short, idle, used] = ended;
    assert_eq!(within(2 * second, short).await, EndReason::Expired);
    assert!(start.elapsed() > second * 8 / 10 && start.elapsed() < second * 15 / 10);
    let touch = "UPDATE sessions SET last_seen_at = now() WHERE id = (
        SELECT id FROM sessions ORDER BY created_at DESC LIMIT 1)";
    sql(&database, touch).await;
    assert_eq!(within(2 * second, idle).await, EndReason::Expired);
    assert!(start.elapsed() > second * 18 / 10 && start.elapsed() < second * 27 / 10);
    assert_eq!(within(2 * second, used).await, EndReason::Expired);
    assert!(start.elapsed() > second * 28 / 10, "{:?}", start.elapsed());
}

/// Waiting for a session that has already ended returns at once.
#[tokio::test]
async fn an_expired_session_is_detected_when_the_wait_begins() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let before = sessions.ended(&current(&signed_in));
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    let after = sessions.ended(&current(&signed_in));
    for ended in [before, after] {
        assert_eq!(within(LEASE, ended).await, EndReason::Revoked);
    }
}

/// A store that fails closes no stream before it works again or the absolute limit passes.
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
        EndReason::Revoked
    );
    sessions.store().set_failing(true);
    assert_eq!(within(hour, expired).await, EndReason::Expired);
}

/// A new watched session that was checked once is not checked again without a reason.
async fn waited_for(sessions: &WatchedSessions) -> (SignedIn, Ended) {
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.ended(&current(&signed_in));
    until(|| sessions.store().checks() == 1).await;
    (signed_in, ended)
}

/// A call to this service is a reason, also without a feed, and also if another process has ended
/// the session before.
#[tokio::test]
async fn a_stream_closes_at_once_when_its_session_is_ended_here() {
    for (elsewhere, revoked) in [(false, false), (false, true), (true, false), (true, true)] {
        let sessions = watched_with_lease(LONG_LEASE);
        let (signed_in, ended) = waited_for(&sessions).await;
        if elsewhere {
            assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
        }
        if revoked {
            let count = sessions.revoke_all(&1).await.unwrap();
            assert_eq!(count, u64::from(!elsewhere));
        } else {
            let found = sign_out(&sessions, signed_in.token()).await.unwrap();
            assert_eq!(found, !elsewhere);
        }
        assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
    }
}

/// A feed that reports possible loss, or reconnects, is a reason too.
#[tokio::test]
async fn a_stream_closes_when_a_bulk_invalidation_ends_its_session() {
    for away in [false, true] {
        let (sessions, feed) = ManualFeed::with_lease(LONG_LEASE).await;
        let (_, ended) = waited_for(&sessions).await;
        assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
        if away {
            feed.reconnect();
        } else {
            feed.announce(Invalidation::All);
        }
        assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
    }
}

/// A feed does not repeat notifications from before the wait began.
#[tokio::test]
async fn a_session_ended_elsewhere_is_detected_when_the_wait_begins() {
    let (sessions, _feed) = ManualFeed::with_lease(LONG_LEASE).await;
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
    let ended = sessions.ended(&current(&signed_in));
    assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
}

/// A wait must not rely on a feed that has disconnected.
#[tokio::test]
async fn a_stream_closes_when_its_session_ends_while_the_feed_is_silent() {
    let (sessions, feed) = ManualFeed::with_lease(LEASE).await;
    let (_, ended) = waited_for(&sessions).await;
    feed.stop_heartbeats();
    assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
    assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
}

/// After a notification the session is checked until the store answers.
#[tokio::test]
async fn a_pending_recheck_survives_store_failures() {
    let (sessions, feed) = ManualFeed::with_lease(10 * LEASE).await;
    let (signed_in, ended) = waited_for(&sessions).await;
    let store = sessions.store();
    assert_eq!(store.revoke_everyone().await.unwrap(), 1);
    store.set_failing(true);
    feed.announce(Invalidation::Sessions(vec![signed_in.session().id()]));
    until(|| store.checks() == 2).await;
    store.set_failing(false);
    assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
}

#[tokio::test]
async fn one_of_two_watchers_of_a_session_may_be_dropped() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let goes = sessions.ended(&current(&signed_in));
    let stays = sessions.ended(&current(&signed_in));
    drop(goes);
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    assert_eq!(within(PATIENCE, stays).await, EndReason::Revoked);
}

/// After the session has ended, the result of the future is dropped.
#[tokio::test]
async fn a_future_ready_after_the_end_of_its_session_is_dropped() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let session = current(&signed_in);
    assert!(sign_out(&sessions, signed_in.token()).await.unwrap());
    let futures: Vec<_> = (0..100)
        .map(|_| sessions.run_until_ended(&session, ready(())))
        .collect();
    let ended = sessions.ended(&session);
    assert_eq!(within(PATIENCE, ended).await, EndReason::Revoked);
    for future in futures {
        assert_eq!(future.await, Err(EndReason::Revoked));
    }
}

#[tokio::test]
async fn a_draining_service_ends_streams_and_serves_lookups() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let open = sessions.ended(&current(&signed_in));
    sessions.end_streams();
    assert_eq!(within(PATIENCE, open).await, EndReason::ServiceClosed);
    let late = sessions.ended(&current(&signed_in));
    assert_eq!(within(PATIENCE, late).await, EndReason::ServiceClosed);
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
    assert_eq!(within(LEASE, ended).await, EndReason::ServiceClosed);
    let ended = sessions.ended(&current(&signed_in));
    assert_eq!(within(LEASE, ended).await, EndReason::ServiceClosed);
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

/// A stream that panics if it is polled after its end.
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

/// H14, H17: streams and bodies end as if they were complete, with a final item if one is given.
#[tokio::test]
async fn streams_and_bodies_end_with_the_session() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = || sessions.ended(&current(&signed_in));
    let silent = tokio::spawn(all(ended().close_stream(Ticks(0))));
    let last = |because| Some(if because == EndReason::Revoked { 99 } else { 0 });
    let speaking = tokio::spawn(all(ended().close_stream_with(Ticks(1), last)));
    let waiting = sessions.run_until_ended(&current(&signed_in), pending::<()>());
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
    assert_eq!(waiting.await, Err(EndReason::Revoked));
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
