//! The task that keeps one feed connected, and the sink for its events.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::{Duration, Instant as StdInstant},
};

use futures_core::future::BoxFuture;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    backoff::Backoff,
    error::{Error, ErrorKind},
    feed::{
        session_feed::{FeedHandler, FeedScope, FeedSink, Invalidation, SessionFeed},
        subscription_state::{LastHeartbeat, SubscriptionState},
    },
};

/// With four heartbeats per lease, one late heartbeat does not end the lease.
const HEARTBEATS_PER_LEASE: u32 = 4;
/// Delay before the first reconnect. The delay doubles with each failure, up to the maximum.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(50);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);

/// Runs a feed, and reconnects the feed after each failure with a growing delay.
pub(crate) async fn run<U: Clone + Send + Sync + 'static>(
    connection: Arc<Connection<U>>,
    feed: impl SessionFeed,
    failed: oneshot::Sender<Error>,
) {
    let sink = FeedSink::new(Arc::clone(&connection) as Arc<dyn FeedHandler>);
    let state = &connection.state;
    let mut failed = Some(failed);
    let new_backoff = || Backoff::new(MIN_RECONNECT_DELAY, MAX_RECONNECT_DELAY);
    let mut backoff = new_backoff();
    loop {
        let error = listen(&feed, &sink).await;
        {
            let connections = state.connections();
            if connections.current == connection.number {
                if state.last_heartbeat.borrow().sent.is_some() {
                    backoff = new_backoff();
                }
                state.disconnect(&connections);
            }
        }
        state.report_failure(&error);
        if let Some(failed) = failed.take() {
            // The send fails if the feed was connected before, because the receiver was then
            // dropped.
            let _ = failed.send(error);
        }
        sleep(backoff.pause()).await;
    }
}

/// Runs the feed until it fails. A panic counts as a failure.
async fn listen(feed: &impl SessionFeed, sink: &FeedSink) -> Error {
    let mut listening = pin!(feed.listen(sink));
    std::future::poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| listening.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            Poll::Ready(
                Error::from_kind(ErrorKind::Store).with_message("the session feed panicked"),
            )
        })
    })
    .await
}

/// The handle by which one feed updates the subscription.
pub(crate) struct Connection<U> {
    pub(crate) number: u64,
    pub(crate) state: Arc<SubscriptionState<U>>,
    pub(crate) heartbeat_request: Arc<Notify>,
    pub(crate) covers_users: AtomicBool,
}

impl<U: Clone + Send + Sync + 'static> FeedHandler for Connection<U> {
    fn subscribed(&self, scope: FeedScope) {
        let users = scope == FeedScope::SessionsAndUsers;
        self.covers_users.store(users, SeqCst);
        let connections = self.state.connections();
        if connections.current == self.number {
            self.state.covers_users.store(users, SeqCst);
            self.state.disconnect(&connections);
        }
    }

    fn invalidate(&self, invalidation: Invalidation) {
        let connections = self.state.connections();
        if connections.current == self.number {
            self.state.apply(invalidation);
        }
    }

    fn heartbeat_received(&self, sent: Instant) {
        let state = &self.state;
        let until = state.nanos((sent + state.settings.lease).into_std());
        let now = state.nanos(StdInstant::now());
        let mut connections = state.connections();
        // A heartbeat of a feed that was replaced is ignored.
        if connections.stopped || self.number < connections.current {
            return;
        }
        // A heartbeat that is received after the end of its lease is ignored, too.
        if now >= until {
            let is_disconnected = now >= state.fresh_until.load(SeqCst);
            if is_disconnected && self.number == connections.current {
                drop(connections);
                let late = "a heartbeat of the session feed came back after the end of its lease";
                state.report_failure(&Error::from_kind(ErrorKind::Deadline).with_message(late));
            }
            return;
        }
        if self.number > connections.current {
            connections.current = self.number;
            connections.heartbeat_request = Arc::clone(&self.heartbeat_request);
            connections.task = None;
            let users = self.covers_users.load(SeqCst);
            state.covers_users.store(users, SeqCst);
            state.disconnect(&connections);
        }
        if now >= state.fresh_until.load(SeqCst) {
            // The lease had ended. Therefore invalidations may have been missed.
            state.clear_cache();
        }
        // Heartbeats may be in flight together, and be reported in another order.
        state.fresh_until.fetch_max(until, SeqCst);
        let proven_at = state.nanos(sent.into_std());
        state.proven_at.fetch_max(proven_at, SeqCst);
        state.outage.succeeded();
        state.last_heartbeat.send_if_modified(|last| {
            let is_newest = last.connection != self.number || last.sent < Some(sent);
            if is_newest {
                *last = LastHeartbeat {
                    connection: self.number,
                    sent: Some(sent),
                };
            }
            is_newest
        });
    }

    fn next_heartbeat(&self) -> BoxFuture<'_, ()> {
        let next = Instant::now() + self.state.settings.lease / HEARTBEATS_PER_LEASE;
        Box::pin(async move {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.heartbeat_request.notified() => {}
            }
        })
    }
}
