//! Writes down, in the background, that sessions are used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::Notify, time::timeout};

use crate::{
    error::{Chain, ErrorKind},
    log_limit::LogLimiter,
    session::{Session, SessionId},
    store::{SessionLookup, SessionUse},
};

/// Uses are gathered for this long before they are written together, or for the touch interval if that is shorter: a
/// session in constant use must not reach a short idle limit before its use is written.
const GATHER: Duration = Duration::from_secs(1);
/// Sessions in one statement.
const SESSIONS_IN_A_STATEMENT: usize = 1_000;
/// Sessions that wait to be written down. Beyond it uses go unrecorded until there is room: the
/// sessions are touched by a later request.
const SESSIONS_WAITING: usize = 100_000;

/// Gathers uses, and keeps at most one task that writes them.
pub(crate) struct LastSeenWriter<L> {
    store: Arc<L>,
    deadline: Duration,
    state: Mutex<State>,
    idle: Notify,
    hurry: Notify,
    failures: LogLimiter,
}

#[derive(Default)]
struct State {
    waiting: HashMap<SessionId, SystemTime>,
    writing: bool,
    /// Whether uses are written without gathering first, because the service is being closed.
    hurried: bool,
}

impl<L: SessionLookup> LastSeenWriter<L> {
    pub(crate) fn new(store: Arc<L>, deadline: Duration) -> Self {
        Self {
            store,
            deadline,
            state: Mutex::default(),
            idle: Notify::new(),
            hurry: Notify::new(),
            failures: LogLimiter::default(),
        }
    }

    /// Takes down that this session was used, if it is time to. Never waits.
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
        if state.waiting.len() < SESSIONS_WAITING || state.waiting.contains_key(&session.id()) {
            state.waiting.insert(session.id(), times.now);
        }
        if !state.writing && !state.waiting.is_empty() {
            state.writing = true;
            let writer = Writer {
                last_seen: Arc::clone(self),
                ended: false,
            };
            drop(state);
            runtime.spawn(async move { writer.run().await });
        }
    }

    /// Writes what has gathered, at once.
    pub(crate) async fn flush(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let mut state = self.state();
                state.hurried = true;
                if !state.writing {
                    return;
                }
            }
            self.hurry.notify_waiters();
            idle.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task. It ends when nothing is left to write; its `Drop` lets the next one start, however it
/// ends.
struct Writer<L: SessionLookup> {
    last_seen: Arc<LastSeenWriter<L>>,
    ended: bool,
}

impl<L: SessionLookup> Writer<L> {
    async fn run(mut self) {
        let last_seen = Arc::clone(&self.last_seen);
        loop {
            let hurry = last_seen.hurry.notified();
            let gathering = {
                let state = last_seen.state();
                !state.hurried && state.waiting.len() < SESSIONS_IN_A_STATEMENT
            };
            if gathering {
                // Whichever comes first.
                let interval = last_seen.store.touch_interval();
                let _ = timeout(GATHER.min(interval.unwrap_or(GATHER)), hurry).await;
            }
            let used: Vec<_> = {
                let mut state = last_seen.state();
                if state.waiting.is_empty() {
                    // Under the same lock, so that what comes next finds no writer.
                    state.writing = false;
                    self.ended = true;
                    return;
                }
                let first: Vec<_> = state
                    .waiting
                    .keys()
                    .copied()
                    .take(SESSIONS_IN_A_STATEMENT)
                    .collect();
                first
                    .iter()
                    .filter_map(|id| Some(SessionUse::new(*id, state.waiting.remove(id)?)))
                    .collect()
            };
            let touch = last_seen.store.touch(&used);
            match timeout(last_seen.deadline, touch).await {
                Ok(Ok(())) => {}
                // A server that accepts no writes is as it should be: somebody else's to write.
                Ok(Err(error)) if error.kind() == ErrorKind::Recovery => {}
                Ok(Err(error)) => self.report(&error, used.len()),
                Err(elapsed) => self.report(&elapsed, used.len()),
            }
        }
    }

    fn report(&self, error: &(dyn std::error::Error + 'static), sessions: usize) {
        if self.last_seen.failures.count().is_some() {
            tracing::warn!(error = %Chain(error), sessions, "the use of sessions was not recorded");
        }
    }
}

impl<L: SessionLookup> Drop for Writer<L> {
    fn drop(&mut self) {
        let last_seen = &self.last_seen;
        if !self.ended {
            last_seen.state().writing = false;
        }
        last_seen.idle.notify_waiters();
    }
}
