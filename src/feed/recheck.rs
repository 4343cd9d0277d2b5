//! The task that re-checks watched sessions by querying the store.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    backoff::jittered,
    error::{Chain, Error, ErrorKind},
    feed::{end_reason::EndReason, ended::Ended, slot::FeedSlot, watchers::Watchers},
    session::{Session, SessionId},
    store::{RemainingLifetime, SessionStore},
};

/// Watches a session that was live when it was looked up.
pub(crate) fn watch<S: SessionStore>(
    store: &Arc<S>,
    feed: &Arc<FeedSlot<S::User>>,
    session: &Session,
) -> Ended {
    let watchers = Arc::clone(&feed.watchers);
    let (sender, over) = oneshot::channel();
    let mut state = watchers.state();
    state.last_waiter += 1;
    let waiter = state.last_waiter;
    // Without a runtime, or if the watchers are closed, the sender is dropped here. `Ended` then
    // resolves to `EndReason::ServiceClosed`. Other waiters for the session are not affected.
    if let Ok(runtime) = Handle::try_current()
        && !state.closed
    {
        let idle_limit = store.lifetime().idle_limit();
        state.add(session, idle_limit, (waiter, sender));
        if !state.running {
            state.running = true;
            let mut task = Recheck::new(store, feed);
            runtime.spawn(async move { task.run().await });
        }
    }
    drop(state);
    watchers.waits.fetch_add(1, Relaxed);
    watchers.wake.notify_one();
    Ended {
        over,
        watchers,
        session: session.id(),
        waiter,
    }
}

/// Re-checks the watched sessions that are due, until no session is watched.
struct Recheck<S: SessionStore> {
    store: Arc<S>,
    feed: Arc<FeedSlot<S::User>>,
    /// Whether `run` has returned. If so, another task may be running when this value is dropped.
    finished: bool,
}

impl<S: SessionStore> Recheck<S> {
    fn new(store: &Arc<S>, feed: &Arc<FeedSlot<S::User>>) -> Self {
        Self {
            store: Arc::clone(store),
            feed: Arc::clone(feed),
            finished: false,
        }
    }

    /// Runs until no session is watched. The method borrows the task. The end of `run` and the drop
    /// of the task are therefore separate steps.
    async fn run(&mut self) {
        let feed = Arc::clone(&self.feed);
        let (watchers, lease) = (&*feed.watchers, feed.settings.lease);
        let mut connected = false;
        loop {
            let was_connected = std::mem::replace(&mut connected, feed.is_fresh());
            let period = if connected {
                feed.recheck_interval()
            } else {
                lease / 2
            };
            let now = Instant::now();
            let (due, next) = {
                let mut state = watchers.state();
                if state.sessions.is_empty() {
                    // The lock that was held when no session was found must still be held when the
                    // flag changes. Otherwise the next waiter would start no task.
                    state.running = false;
                    self.finished = true;
                    return;
                }
                if was_connected && !connected {
                    state.bring_forward(now, period);
                }
                (state.take_due(now, period / 8), state.next_due())
            };
            if due.is_empty() {
                // The lease of the feed can end without a wake-up.
                let latest = now + lease / 4;
                let wakes_at = next.map_or(latest, |at| at.min(latest));
                tokio::select! {
                    () = sleep_until(wakes_at) => {}
                    () = watchers.wake.notified() => {}
                }
            } else {
                // The jitter keeps processes that started together from querying at the same time.
                let next = period * 3 / 4 + jittered(period / 8);
                self.check(watchers, due, next).await;
            }
        }
    }

    /// Re-checks these sessions. If a row makes the query fail, the sessions are divided among
    /// smaller queries, until the session of that row is alone in a query. The streams of that
    /// session then end.
    async fn check(&self, watchers: &Watchers, due: Vec<SessionId>, period: Duration) {
        let mut parts = vec![due];
        while let Some(mut part) = parts.pop() {
            let error = match self.query(&part).await {
                Ok(live) => {
                    watchers.state().apply_check(&part, &live, period);
                    watchers.outage.succeeded();
                    continue;
                }
                Err(error) => error,
            };
            if let (ErrorKind::Decode, [session]) = (error.kind(), &*part) {
                tracing::error!(
                    target: "tower_user_session",
                    event = "stream_undecidable",
                    kind = ?error.kind(),
                    error = %Chain(&error),
                    %session,
                    "failed to re-check a watched session; its streams end"
                );
                watchers.state().resolve(*session, EndReason::Undecidable);
            } else if error.kind() == ErrorKind::Decode {
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            } else {
                if let Some(times) = watchers.outage.failed() {
                    tracing::error!(
                        target: "tower_user_session",
                        event = "recheck_failed",
                        kind = ?error.kind(),
                        error = %Chain(&error),
                        times,
                        "failed to re-check watched sessions"
                    );
                }
                let pause = self.feed.settings.lease / 4;
                parts.push(part);
                watchers
                    .state()
                    .apply_failure(&parts.concat(), Instant::now() + pause);
                return sleep(pause).await;
            }
        }
    }

    async fn query(&self, sessions: &[SessionId]) -> Result<Vec<RemainingLifetime>, Error> {
        let query = self.store.remaining_lifetimes(sessions);
        timeout(self.feed.settings.deadline, query)
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

impl<S: SessionStore> Drop for Recheck<S> {
    fn drop(&mut self) {
        if !self.finished {
            // The runtime is shutting down, or the store panicked.
            let mut state = self.feed.watchers.state();
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
        feed::subscription_state::{DEFAULT_LEASE, Settings},
        session::{Lifetime, TokenDigest},
        store::{InsertOutcome, MemoryConditions, MemorySessionStore, NewSession, RevokeScope},
    };

    type Store = MemorySessionStore<u8, &'static str>;

    /// A store with one session, and a service without a feed.
    struct Fixture {
        store: Arc<Store>,
        feed: Arc<FeedSlot<&'static str>>,
        session: Session,
    }

    impl Fixture {
        async fn new() -> Result<Self, Error> {
            let store = Arc::new(Store::new());
            store.add_user(1, "Ada");
            let digest = TokenDigest::from_bytes([1; 32]);
            let lifetime = Lifetime::default().absolute_limit();
            let condition = MemoryConditions::default();
            let inserted = store.insert(NewSession::new(digest, &1, &condition, lifetime));
            let InsertOutcome::Inserted { session, .. } = inserted.await? else {
                panic!("no session was inserted");
            };
            let settings = Settings {
                lease: DEFAULT_LEASE,
                recheck_interval: None,
                deadline: Duration::from_secs(2),
            };
            Ok(Self {
                store,
                feed: Arc::new(FeedSlot::new(settings)),
                session,
            })
        }

        fn watch(&self) -> Ended {
            watch(&self.store, &self.feed, &self.session)
        }

        /// Returns the task in the state in which [`watch`] starts it.
        fn started(&self) -> Recheck<Store> {
            self.feed.watchers.state().running = true;
            Recheck::new(&self.store, &self.feed)
        }

        /// Revokes all sessions of the user, as the service does.
        async fn revoke_all(&self) -> Result<(), Error> {
            let ended = self.store.revoke(&1, RevokeScope::All).await?;
            self.feed.invalidate_local(ended);
            Ok(())
        }
    }

    /// Waits for the stream. The clock is paused. If no task checks the stream, the wait therefore
    /// times out at once.
    async fn soon(stream: impl Future<Output = EndReason>) -> Option<EndReason> {
        timeout(Duration::from_secs(60), stream).await.ok()
    }

    /// N06: a stream may start after the previous task has ended and before that task is dropped.
    /// The stream stays open, and a new task checks its session.
    #[tokio::test(start_paused = true)]
    async fn a_finished_task_closes_no_stream_that_started_since() {
        let sessions = Fixture::new().await.unwrap();
        let mut last = sessions.started();
        last.run().await;
        let mut stream = pin!(sessions.watch());
        drop(last);
        let polled = stream
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Pending);
        sessions.revoke_all().await.unwrap();
        assert_eq!(soon(stream).await, Some(EndReason::Revoked));
    }

    /// A task that is dropped early closes the streams of its sessions. The next stream starts a
    /// new task.
    #[tokio::test(start_paused = true)]
    async fn an_aborted_task_closes_the_streams_that_it_checks() {
        let sessions = Fixture::new().await.unwrap();
        let last = sessions.started();
        let stream = sessions.watch();
        drop(last);
        assert_eq!(soon(stream).await, Some(EndReason::ServiceClosed));
        let next = sessions.watch();
        sessions.revoke_all().await.unwrap();
        assert_eq!(soon(next).await, Some(EndReason::Revoked));
    }

    /// If one session is watched, the time from one check to the next varies between 13/16 and 15/16
    /// of the interval.
    #[tokio::test(start_paused = true)]
    async fn checks_are_jittered() {
        let sessions = Fixture::new().await.unwrap();
        let _stream = sessions.watch();
        // Without a feed, the interval is half a lease.
        let interval = sessions.feed.settings.lease / 2;
        let mut checks = Vec::new();
        while checks.len() < 20 {
            sleep(Duration::from_millis(1)).await;
            let due = sessions.feed.watchers.state().next_due();
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
