//! Waits for sessions to end.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Error, ErrorKind, Session, SessionId, SessionStore, StillLive,
    error::Chain,
    session::{notice::Notice, resolver::Resolver},
};

/// Sessions in one question.
const SESSIONS_IN_A_QUESTION: usize = 1_000;
/// No limit is looked at from further away.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Resolves when a session is over. See [`SessionService::ended`](crate::SessionService::ended).
///
/// Dropped, it waits no more and leaves nothing behind.
#[must_use = "nothing waits until this is polled"]
pub struct Ended {
    over: oneshot::Receiver<EndedBecause>,
    watchers: Arc<Watchers>,
    session: SessionId,
    caller: u64,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndedBecause {
    /// It was ended: signed out, revoked, replaced, or its user is gone or may not be signed in.
    Revoked,
    /// One of its limits has passed.
    Expired,
    /// The service was closed, or its runtime is shutting down. Nothing is known about the session.
    ServiceClosed,
}

/// The sessions that somebody waits for, and the task that asks about them.
pub(crate) struct Watchers {
    state: Mutex<State>,
    wake: Notify,
    failures: Notice,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Watched>,
    callers: u64,
    running: bool,
    closed: bool,
    /// Counts doubts. What was asked about before the last one is asked about again.
    doubts: u64,
    all_doubted: u64,
}

struct Watched {
    callers: SmallVec<[(u64, oneshot::Sender<EndedBecause>); 1]>,
    /// When one of its limits passes, unless it is used until then.
    limit: Instant,
    /// When the absolute limit passes.
    expires: Instant,
    /// The number of doubts when it was last asked about, and when that was.
    asked: (u64, Instant),
    doubted: u64,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            failures: Notice::default(),
        }
    }
}

impl Watchers {
    /// Waits for a session that was live when it was looked up.
    pub(crate) fn watch<S: SessionStore>(resolver: &Arc<Resolver<S>>, session: &Session) -> Ended {
        let watchers = Arc::clone(&resolver.watchers);
        let (sender, over) = oneshot::channel();
        let now = Instant::now();
        let limit = now
            + session
                .limit_in(resolver.lookup.lifetime().idle_limit())
                .min(FAR);
        let mut state = watchers.state();
        state.callers += 1;
        let (caller, doubts) = (state.callers, state.doubts);
        // The request's lookup may lie any time back: nothing is known from now on until it is asked.
        let watched = state
            .sessions
            .entry(session.id())
            .or_insert_with(|| Watched {
                callers: SmallVec::new(),
                limit,
                expires: now + session.remaining().min(FAR),
                asked: (doubts, now),
                doubted: doubts + 1,
            });
        watched.callers.push((caller, sender));
        state.doubts += 1;
        match Handle::try_current() {
            Ok(runtime) if !state.closed => {
                if !state.running {
                    state.running = true;
                    let task = Task {
                        resolver: Arc::clone(resolver),
                    };
                    runtime.spawn(task.run());
                }
            }
            _ => drop(state.sessions.remove(&session.id())),
        }
        drop(state);
        watchers.wake.notify_one();
        Ended {
            over,
            watchers,
            session: session.id(),
            caller,
        }
    }

    /// These may have ended.
    pub(crate) fn doubt(&self, sessions: &[SessionId]) {
        let mut state = self.state();
        state.doubts += 1;
        let doubts = state.doubts;
        let mut any = false;
        for session in sessions {
            if let Some(watched) = state.sessions.get_mut(session) {
                watched.doubted = doubts;
                any = true;
            }
        }
        drop(state);
        if any {
            self.wake.notify_one();
        }
    }

    /// Any of them may have ended.
    pub(crate) fn doubt_all(&self) {
        let mut state = self.state();
        state.doubts += 1;
        state.all_doubted = state.doubts;
        let any = !state.sessions.is_empty();
        drop(state);
        if any {
            self.wake.notify_one();
        }
    }

    /// What the store said of those that were asked about.
    fn told(
        &self,
        due: &[SessionId],
        asked: Instant,
        live: Result<Vec<StillLive>, Error>,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let mut state = self.state();
        match live {
            Ok(live) => {
                let live = live.into_iter().map(|live| (live.id, live.remaining));
                let live: HashMap<SessionId, Duration> = live.collect();
                for session in due {
                    let Some(watched) = state.sessions.get_mut(session) else {
                        continue;
                    };
                    if let Some(remaining) = live.get(session) {
                        watched.limit = asked + (*remaining).min(FAR);
                    } else if now >= watched.limit {
                        state.resolve(*session, EndedBecause::Expired);
                    } else {
                        state.resolve(*session, EndedBecause::Revoked);
                    }
                }
                Ok(())
            }
            Err(error) => {
                for session in due {
                    let Some(watched) = state.sessions.get_mut(session) else {
                        continue;
                    };
                    // Whatever was doubted still is.
                    watched.asked.0 = 0;
                    if now >= watched.expires {
                        state.resolve(*session, EndedBecause::Expired);
                    }
                }
                Err(error)
            }
        }
    }

    /// Nobody will be told anything any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.sessions.clear();
        drop(state);
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn resolve(&mut self, session: SessionId, because: EndedBecause) {
        for (_, caller) in self
            .sessions
            .remove(&session)
            .into_iter()
            .flat_map(|w| w.callers)
        {
            // Whoever does not wait any more need not know.
            let _ = caller.send(because);
        }
    }

    /// Those that are to be asked about now, and when to look again.
    fn due(
        &mut self,
        now: Instant,
        patience: Option<Duration>,
    ) -> (Vec<SessionId>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next = None::<Instant>;
        let (doubts, all_doubted) = (self.doubts, self.all_doubted);
        for (session, watched) in &mut self.sessions {
            let doubtful = watched.doubted.max(all_doubted) > watched.asked.0;
            let mut at = watched.limit;
            if let Some(patience) = patience {
                at = at.min(watched.asked.1 + patience);
            }
            if (doubtful || now >= at) && due.len() < SESSIONS_IN_A_QUESTION {
                watched.asked = (doubts, now);
                due.push(*session);
            } else if doubtful {
                next = Some(now);
            } else {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        (due, next)
    }
}

/// Asks the store about those that may have ended, until nobody waits.
struct Task<S: SessionStore> {
    resolver: Arc<Resolver<S>>,
}

impl<S: SessionStore> Task<S> {
    async fn run(self) {
        let watchers = &self.resolver.watchers;
        loop {
            let lease = self.resolver.lease;
            // Somebody who hears is told; somebody who does not must ask again and again.
            let patience = (!self.resolver.hears()).then_some(lease / 2);
            let now = Instant::now();
            let (due, wakes_at) = {
                let mut state = watchers.state();
                if state.sessions.is_empty() {
                    state.running = false;
                    return;
                }
                state.due(now, patience)
            };
            if due.is_empty() {
                // The feed may turn deaf without a word.
                let latest = now + lease / 4;
                let wakes_at = wakes_at.map_or(latest, |at| at.min(latest));
                tokio::select! {
                    () = sleep_until(wakes_at) => {}
                    () = watchers.wake.notified() => {}
                }
            } else {
                self.ask(&due, now).await;
            }
        }
    }

    async fn ask(&self, due: &[SessionId], now: Instant) {
        let watchers = &self.resolver.watchers;
        let asking = self.resolver.lookup.still_live(due);
        let asked = timeout(self.resolver.deadline, asking).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::bare(ErrorKind::Deadline)));
        let Err(error) = watchers.told(due, now, asked) else {
            return;
        };
        if let Some(times) = watchers.failures.count() {
            tracing::error!(error = %Chain(&error), times, "sessions could not be asked about");
        }
        tokio::time::sleep(self.resolver.lease / 4).await;
    }
}

impl<S: SessionStore> Drop for Task<S> {
    fn drop(&mut self) {
        let mut state = self.resolver.watchers.state();
        if state.running && !state.sessions.is_empty() {
            // The runtime is shutting down, or the store panicked.
            state.sessions.clear();
        }
        state.running = false;
    }
}

impl Future for Ended {
    type Output = EndedBecause;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndedBecause> {
        let over = ready!(Pin::new(&mut self.over).poll(cx));
        Poll::Ready(over.unwrap_or(EndedBecause::ServiceClosed))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.watchers.state();
        if let Some(watched) = state.sessions.get_mut(&self.session) {
            watched.callers.retain(|(caller, _)| *caller != self.caller);
            if watched.callers.is_empty() {
                state.sessions.remove(&self.session);
            }
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").finish_non_exhaustive()
    }
}
