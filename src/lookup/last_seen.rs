//! Writer of `last_seen_at`: records in the background that sessions were used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::Notify, time::timeout};

use crate::{
    error::{Chain, Error, ErrorKind},
    metrics::counters::{Counter, Counters},
    outage::Outage,
    session::{Session, SessionId},
    store::{SessionLookup, SessionUse},
};

/// Time for which uses are collected before one write.
///
/// If the touch interval is shorter, it applies instead. Otherwise a session in constant use could
/// reach a short idle limit before its use is written.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// Maximum number of sessions in one statement.
const MAX_SESSIONS_PER_STATEMENT: usize = 1_000;
/// Maximum number of sessions that wait for a write. Further uses are dropped. A later request of
/// the same session records its use.
const MAX_WAITING_SESSIONS: usize = 100_000;

/// Collects uses of sessions, and runs at most one task that writes them.
pub(crate) struct LastSeenWriter<L> {
    store: Arc<L>,
    deadline: Duration,
    state: Mutex<State>,
    idle: Notify,
    flush_now: Notify,
    metrics: Arc<Counters>,
    outage: Outage,
}

#[derive(Default)]
struct State {
    waiting: HashMap<SessionId, SystemTime>,
    writing: bool,
    /// Whether the task skips the delay because the service is closing.
    flushing: bool,
}

impl<L: SessionLookup> LastSeenWriter<L> {
    pub(crate) fn new(store: Arc<L>, metrics: Arc<Counters>, deadline: Duration) -> Self {
        Self {
            store,
            deadline,
            state: Mutex::default(),
            idle: Notify::new(),
            flush_now: Notify::new(),
            metrics,
            outage: Outage::new(
                Duration::ZERO,
                "last_use_recovered",
                "recording the last use of sessions recovered",
            ),
        }
    }

    /// Records that this session was used, if the touch interval has passed. Never waits.
    pub(crate) fn used(self: &Arc<Self>, session: &Session) {
        let times = session.times();
        let since = times
            .now
            .duration_since(times.last_seen_at)
            .unwrap_or_default();
        let Some(interval) = self.store.touch_interval() else {
            return;
        };
        if since < interval {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut state = self.state();
        if state.waiting.len() < MAX_WAITING_SESSIONS || state.waiting.contains_key(&session.id()) {
            state.waiting.insert(session.id(), times.now);
        }
        if !state.writing && !state.waiting.is_empty() {
            state.writing = true;
            let writer = Writer {
                last_seen: Arc::clone(self),
                finished: false,
            };
            drop(state);
            runtime.spawn(async move { writer.run().await });
        }
    }

    /// Writes all collected uses without delay. Returns when no write is in flight.
    pub(crate) async fn flush(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let mut state = self.state();
                state.flushing = true;
                if !state.writing {
                    return;
                }
            }
            self.flush_now.notify_waiters();
            idle.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing task. The task ends when no recorded use is waiting to be written. Its `Drop` lets
/// the next task start, even if this task panicked or was aborted.
struct Writer<L: SessionLookup> {
    last_seen: Arc<LastSeenWriter<L>>,
    finished: bool,
}

impl<L: SessionLookup> Writer<L> {
    async fn run(mut self) {
        let last_seen = Arc::clone(&self.last_seen);
        loop {
            let flush_now = last_seen.flush_now.notified();
            let gathering = {
                let state = last_seen.state();
                !state.flushing && state.waiting.len() < MAX_SESSIONS_PER_STATEMENT
            };
            if gathering {
                // A flush ends the delay early.
                let interval = last_seen.store.touch_interval();
                let _ = timeout(BATCH_DELAY.min(interval.unwrap_or(BATCH_DELAY)), flush_now).await;
            }
            let used: Vec<_> = {
                let mut state = last_seen.state();
                if state.waiting.is_empty() {
                    // The lock that was held when no use was found must still be held when the flag
                    // changes. Otherwise a use that is recorded in between would start no task.
                    state.writing = false;
                    self.finished = true;
                    return;
                }
                let first: Vec<_> = state
                    .waiting
                    .keys()
                    .copied()
                    .take(MAX_SESSIONS_PER_STATEMENT)
                    .collect();
                first
                    .iter()
                    .filter_map(|id| Some(SessionUse::new(*id, state.waiting.remove(id)?)))
                    .collect()
            };
            let touch = last_seen.store.touch(&used);
            match timeout(last_seen.deadline, touch).await {
                Ok(Ok(())) => self.report_success(used.len()),
                // A server in recovery accepts no writes. This error is expected and is not
                // reported.
                Ok(Err(error)) if error.kind() == ErrorKind::Recovery => {
                    self.count(Counter::UsesFailed, used.len());
                }
                Ok(Err(error)) => self.report(&error, used.len()),
                Err(_) => self.report(&Error::from_kind(ErrorKind::Deadline), used.len()),
            }
        }
    }

    fn count(&self, counter: Counter, sessions: usize) {
        self.last_seen.metrics.add(counter, sessions as u64);
    }

    fn report_success(&self, sessions: usize) {
        self.count(Counter::UsesRecorded, sessions);
        self.last_seen.outage.succeeded();
    }

    fn report(&self, error: &Error, sessions: usize) {
        self.count(Counter::UsesFailed, sessions);
        if let Some(times) = self.last_seen.outage.failed() {
            tracing::warn!(
                target: "tower_user_session",
                event = "last_use_failed",
                kind = ?error.kind(),
                outcome = error.outcome(),
                error = %Chain(error),
                sessions,
                times,
                "failed to record the last use of sessions"
            );
        }
    }
}

impl<L: SessionLookup> Drop for Writer<L> {
    fn drop(&mut self) {
        let last_seen = &self.last_seen;
        if !self.finished {
            last_seen.state().writing = false;
        }
        last_seen.idle.notify_waiters();
    }
}
