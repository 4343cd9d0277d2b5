//! One feed of a subscription: its task, and what it may do.

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
    error::{Chain, Error, ErrorKind},
    feed::{
        session_feed::{FeedScope, FeedSink, Hears, Invalidation, SessionFeed},
        subscription_state::{Proof, SubscriptionState},
    },
};

/// One heartbeat may be late.
const HEARTBEATS_IN_A_LEASE: u32 = 4;
/// The pause before a second attempt to connect. It doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps a feed connected, with a pause after each failure.
pub(crate) async fn run<U: Clone + Send + Sync + 'static>(
    line: Arc<Line<U>>,
    feed: impl SessionFeed,
    failed: oneshot::Sender<Error>,
) {
    let hearing = FeedSink::new(Arc::clone(&line) as Arc<dyn Hears>);
    let state = &line.state;
    let mut failed = Some(failed);
    let fresh = || Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut backoff = fresh();
    loop {
        let error = hear(&feed, &hearing).await;
        {
            let lines = state.lines();
            if lines.current == line.number {
                if state.proof.borrow().sent.is_some() {
                    backoff = fresh();
                }
                state.lose(&lines);
            }
        }
        if let Some(times) = state.failures.count() {
            let error = Chain(&error);
            tracing::warn!(%error, times, "session feed disconnected: the cache is bypassed until it is connected again");
        }
        if let Some(failed) = failed.take() {
            // The receiver was dropped if the feed has been connected before.
            let _ = failed.send(error);
        }
        sleep(backoff.pause()).await;
    }
}

/// Runs the feed until it fails. A panic is a failure too.
async fn hear(feed: &impl SessionFeed, hearing: &FeedSink) -> Error {
    let mut hear = pin!(feed.listen(hearing));
    std::future::poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| hear.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            Poll::Ready(
                Error::from_kind(ErrorKind::Store).with_message("the session feed panicked"),
            )
        })
    })
    .await
}

/// What one feed may do to the subscription.
pub(crate) struct Line<U> {
    pub(crate) number: u64,
    pub(crate) state: Arc<SubscriptionState<U>>,
    pub(crate) heartbeat: Arc<Notify>,
    pub(crate) announces_users: AtomicBool,
}

impl<U: Clone + Send + Sync + 'static> Hears for Line<U> {
    fn subscribed(&self, announces: FeedScope) {
        let users = announces == FeedScope::SessionsAndUsers;
        self.announces_users.store(users, SeqCst);
        let lines = self.state.lines();
        if lines.current == self.number {
            self.state.announces_users.store(users, SeqCst);
            self.state.lose(&lines);
        }
    }

    fn invalidate(&self, announcement: Invalidation) {
        let lines = self.state.lines();
        if lines.current == self.number {
            self.state.apply(announcement);
        }
    }

    fn heartbeat_received(&self, sent: Instant) {
        let state = &self.state;
        let until = state.nanos((sent + state.settings.lease).into_std());
        let now = state.nanos(StdInstant::now());
        let mut lines = state.lines();
        // A proof that comes too late proves nothing, and so does one of a feed that was replaced.
        if now >= until || lines.stopped || self.number < lines.current {
            return;
        }
        if self.number > lines.current {
            lines.current = self.number;
            lines.heartbeat = Arc::clone(&self.heartbeat);
            lines.task = None;
            let users = self.announces_users.load(SeqCst);
            state.announces_users.store(users, SeqCst);
            state.lose(&lines);
        }
        if now >= state.fresh_until.load(SeqCst) {
            // It was not connected until now.
            state.clear_cache();
        }
        state.fresh_until.store(until, SeqCst);
        state.proof.send_replace(Proof {
            line: self.number,
            sent: Some(sent),
        });
    }

    fn next_heartbeat(&self) -> BoxFuture<'_, ()> {
        let next = Instant::now() + self.state.settings.lease / HEARTBEATS_IN_A_LEASE;
        Box::pin(async move {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.heartbeat.notified() => {}
            }
        })
    }
}
