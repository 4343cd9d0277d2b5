//! The task that queries the store about the sessions that streams wait for.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    backoff::jittered,
    error::{Chain, Error, ErrorKind},
    feed::{EndReason, watchers::Watchers},
    lookup::batcher::LookupBatcher,
    session::SessionId,
    store::{RemainingLifetime, SessionStore},
};

/// Checks sessions that may have ended, until no stream waits.
pub(crate) struct Recheck<S: SessionStore> {
    batcher: Arc<LookupBatcher<S>>,
    /// Whether the task has ended of itself. Another one may run by the time this one is dropped.
    finished: bool,
}

impl<S: SessionStore> Recheck<S> {
    pub(crate) fn new(batcher: &Arc<LookupBatcher<S>>) -> Self {
        Self {
            batcher: Arc::clone(batcher),
            finished: false,
        }
    }

    /// Only borrows the task, so that its end and its drop are two steps.
    pub(crate) async fn run(&mut self) {
        let batcher = Arc::clone(&self.batcher);
        let (watchers, lease) = (&*batcher.watchers, batcher.lease);
        let mut connected = false;
        loop {
            let was_connected = std::mem::replace(&mut connected, batcher.is_fresh());
            let period = if connected {
                batcher.recheck_interval()
            } else {
                lease / 2
            };
            let now = Instant::now();
            let (due, next) = {
                let mut state = watchers.state();
                if state.sessions.is_empty() {
                    // Under the same lock, so that the next caller starts another task.
                    state.running = false;
                    self.finished = true;
                    return;
                }
                if was_connected && !connected {
                    state.hasten(now, period);
                }
                (state.take_due(now, period / 8), state.next_due())
            };
            if due.is_empty() {
                // The feed may lose its connection without notice.
                let latest = now + lease / 4;
                let wakes_at = next.map_or(latest, |at| at.min(latest));
                tokio::select! {
                    () = sleep_until(wakes_at) => {}
                    () = watchers.wake.notified() => {}
                }
            } else {
                // Processes that began together must not query together.
                let next = period * 3 / 4 + jittered(period / 8);
                self.check(watchers, due, next).await;
            }
        }
    }

    /// Checks these sessions. If the rows of one make the query fail, the sessions are divided until that one is
    /// alone. Its streams end.
    async fn check(&self, watchers: &Watchers, due: Vec<SessionId>, period: Duration) {
        let mut parts = vec![due];
        while let Some(mut part) = parts.pop() {
            let error = match self.query(&part).await {
                Ok(live) => {
                    watchers.state().checked(&part, &live, period);
                    continue;
                }
                Err(error) => error,
            };
            if let (ErrorKind::Decode, [session]) = (error.kind(), &*part) {
                tracing::error!(%session, error = %Chain(&error), "re-check of a session failed: its streams end");
                watchers.state().resolve(*session, EndReason::Undecidable);
            } else if error.kind() == ErrorKind::Decode {
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            } else {
                if let Some(times) = watchers.failures.count() {
                    tracing::error!(error = %Chain(&error), times, "re-check of sessions failed");
                }
                let pause = self.batcher.lease / 4;
                parts.push(part);
                watchers
                    .state()
                    .failed(&parts.concat(), Instant::now() + pause);
                return sleep(pause).await;
            }
        }
    }

    async fn query(&self, sessions: &[SessionId]) -> Result<Vec<RemainingLifetime>, Error> {
        let query = self.batcher.lookup.remaining_lifetimes(sessions);
        timeout(self.batcher.deadline, query)
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

impl<S: SessionStore> Drop for Recheck<S> {
    fn drop(&mut self) {
        if !self.finished {
            // The runtime is shutting down, or the store panicked.
            let mut state = self.batcher.watchers.state();
            state.clear();
            state.running = false;
        }
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        service::{SessionService, SignedIn},
        store::MemorySessionStore,
    };

    type Sessions = SessionService<MemorySessionStore<u8, &'static str>>;

    async fn signed_in() -> Result<(Sessions, SignedIn), Error> {
        let sessions = SessionService::new(MemorySessionStore::new());
        sessions.store().add_user(1, "Ada");
        let ada = sessions.sign_in_without_request(1).await?;
        Ok((sessions, ada))
    }

    /// The task, as [`Watchers::watch`] starts it.
    fn started<S: SessionStore>(batcher: &Arc<LookupBatcher<S>>) -> Recheck<S> {
        batcher.watchers.state().running = true;
        Recheck::new(batcher)
    }

    /// The clock is paused, so that a stream which no task checks fails at once.
    async fn soon(stream: impl Future<Output = EndReason>) -> Option<EndReason> {
        timeout(Duration::from_secs(60), stream).await.ok()
    }

    /// N06: a stream that starts after the task for the last one has ended, and before that task is dropped, stays
    /// open, and a task of its own checks it.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_ended_closes_no_stream_that_started_since() {
        let (sessions, ada) = signed_in().await.unwrap();
        let batcher = sessions.batcher();
        let mut last = started(batcher);
        last.run().await;
        let mut stream = pin!(Watchers::watch(batcher, &ada.session()));
        drop(last);
        let polled = stream
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Pending);
        sessions.revoke_all(&1).await.unwrap();
        assert_eq!(soon(stream).await, Some(EndReason::Revoked));
    }

    /// A task that is dropped before it has ended closes the streams that wait for it, and the next stream gets a task
    /// of its own.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_aborted_closes_the_streams_that_it_checks() {
        let (sessions, ada) = signed_in().await.unwrap();
        let batcher = sessions.batcher();
        let last = started(batcher);
        let stream = Watchers::watch(batcher, &ada.session());
        drop(last);
        assert_eq!(soon(stream).await, Some(EndReason::ServiceClosed));
        let next = Watchers::watch(batcher, &ada.session());
        sessions.revoke_all(&1).await.unwrap();
        assert_eq!(soon(next).await, Some(EndReason::Revoked));
    }

    /// Checks of one session are between 13/16 and 15/16 of the interval apart, and not always the same.
    #[tokio::test(start_paused = true)]
    async fn checks_are_jittered() {
        let (sessions, ada) = signed_in().await.unwrap();
        let batcher = sessions.batcher();
        let _stream = Watchers::watch(batcher, &ada.session());
        // Without a feed, half a lease is the interval.
        let interval = batcher.lease / 2;
        let mut checks = Vec::new();
        while checks.len() < 20 {
            sleep(Duration::from_millis(1)).await;
            let due = batcher.watchers.state().next_due();
            checks.extend(due.filter(|due| checks.last() != Some(due)));
        }
        let gaps: Vec<_> = checks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let rounding = Duration::from_millis(2);
        let allowed = interval * 13 / 16..=interval * 15 / 16 + rounding;
        assert!(gaps.iter().all(|gap| allowed.contains(gap)), "{gaps:?}");
        let apart = gaps
            .iter()
            .max()
            .unwrap()
            .abs_diff(*gaps.iter().min().unwrap());
        assert!(apart > 2 * rounding, "{gaps:?}");
    }
}
