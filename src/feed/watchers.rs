//! The sessions that streams wait for, in the order in which the store must be queried about them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    feed::{by_user::ByUser, end_reason::EndReason},
    log_limit::LogLimiter,
    session::{Session, SessionId, UserKey},
    store::RemainingLifetime,
};

/// Sessions in one query.
pub(crate) const SESSIONS_IN_A_QUERY: usize = 1_000;
/// No timer is set further ahead.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The sessions that streams wait for.
pub(crate) struct Watchers {
    state: Mutex<State>,
    pub(crate) wake: Notify,
    pub(crate) failures: LogLimiter,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sessions: HashMap<SessionId, Watched>,
    /// The sessions that wait for a check, the one that is due first at the front. A check that failed is due again
    /// later, so that the sessions behind it come first.
    queue: BTreeSet<(Instant, SessionId)>,
    by_user: ByUser,
    pub(crate) callers: u64,
    pub(crate) running: bool,
    pub(crate) closed: bool,
}

pub(crate) struct Watched {
    callers: SmallVec<[(u64, oneshot::Sender<EndReason>); 1]>,
    /// Known once the session has been checked.
    user: Option<UserKey>,
    /// When one of its limits passes, unless it is used until then.
    limit: Instant,
    /// When the absolute limit passes.
    expires: Instant,
    /// When the last check was sent.
    checked: Instant,
    check: Check,
}

enum Check {
    Due(Instant),
    /// Whether the session was announced after the check had been sent.
    InFlight {
        announced: bool,
    },
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            failures: LogLimiter::default(),
        }
    }
}

impl Watchers {
    /// The caller waits no longer.
    pub(crate) fn leave(&self, session: SessionId, caller: u64) {
        let mut state = self.state();
        if let Some(watched) = state.sessions.get_mut(&session) {
            watched.callers.retain(|(other, _)| *other != caller);
            if watched.callers.is_empty() {
                state.remove(session);
            }
        }
    }

    /// These sessions may have ended.
    pub(crate) fn mark_suspect(&self, sessions: &[SessionId]) {
        let now = Instant::now();
        let mut state = self.state();
        for session in sessions {
            state.mark_suspect(*session, now);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The sessions of these users may have ended.
    pub(crate) fn doubt_users(&self, users: &[UserKey]) {
        let now = Instant::now();
        let mut state = self.state();
        for user in users {
            for session in state.by_user.of(*user) {
                state.mark_suspect(session, now);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Any session may have ended.
    pub(crate) fn mark_all_suspect(&self) {
        self.state().hasten(Instant::now(), Duration::ZERO);
        self.wake.notify_one();
    }

    /// Ends every wait, and lets none begin.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.clear();
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn add(
        &mut self,
        session: &Session,
        idle_limit: Option<Duration>,
        caller: (u64, oneshot::Sender<EndReason>),
    ) {
        let now = Instant::now();
        let id = session.id();
        let watched = self.sessions.entry(id).or_insert_with(|| {
            // The lookup may lie any time back, so that the session is checked at once.
            self.queue.insert((now, id));
            self.by_user.insert(None, id);
            Watched {
                callers: SmallVec::new(),
                user: None,
                limit: now + session.limit_in(idle_limit).min(FAR),
                expires: now + session.remaining().min(FAR),
                checked: now,
                check: Check::Due(now),
            }
        });
        watched.callers.push(caller);
    }

    fn mark_suspect(&mut self, session: SessionId, now: Instant) {
        let Some(watched) = self.sessions.get_mut(&session) else {
            return;
        };
        match &mut watched.check {
            Check::Due(at) if *at > now => {
                self.queue.remove(&(*at, session));
                self.queue.insert((now, session));
                *at = now;
            }
            Check::Due(_) => {}
            Check::InFlight { announced } => *announced = true,
        }
    }

    /// Makes every session due this long after its last check, or now if that has passed. With no time at all, checks
    /// that are in flight are repeated.
    pub(crate) fn hasten(&mut self, now: Instant, after: Duration) {
        self.queue.clear();
        for (session, watched) in &mut self.sessions {
            match &mut watched.check {
                Check::Due(at) => {
                    *at = (*at).min(now.max(watched.checked + after));
                    self.queue.insert((*at, *session));
                }
                Check::InFlight { announced } => *announced |= after.is_zero(),
            }
        }
    }

    /// Takes the sessions of one query, if one is due. Sessions that are due within `slack` go with it, so that one
    /// query serves many.
    pub(crate) fn take_due(&mut self, now: Instant, slack: Duration) -> Vec<SessionId> {
        let mut due = Vec::new();
        if self.next_due().is_none_or(|at| at > now) {
            return due;
        }
        while due.len() < SESSIONS_IN_A_QUERY
            && let Some((at, session)) = self.queue.pop_first()
        {
            if at > now + slack {
                self.queue.insert((at, session));
                break;
            }
            if let Some(watched) = self.sessions.get_mut(&session) {
                watched.checked = now;
                watched.check = Check::InFlight { announced: false };
                due.push(session);
            }
        }
        due
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Resolves the sessions that the store does not find any more, and sets when the others are due again.
    pub(crate) fn checked(
        &mut self,
        due: &[SessionId],
        live: &[RemainingLifetime],
        period: Duration,
    ) {
        let now = Instant::now();
        let live: HashMap<_, _> = live.iter().map(|live| (live.id, live)).collect();
        for session in due {
            let Some(watched) = self.sessions.get_mut(session) else {
                continue;
            };
            let Some(live) = live.get(session) else {
                let expired = now >= watched.limit;
                self.resolve(
                    *session,
                    if expired {
                        EndReason::Expired
                    } else {
                        EndReason::Revoked
                    },
                );
                continue;
            };
            watched.limit = watched.checked + live.remaining.min(FAR);
            self.by_user.remove(watched.user, *session);
            watched.user = live.user_key;
            self.by_user.insert(watched.user, *session);
            let next = watched.limit.min(watched.checked + period);
            self.schedule(*session, next, now);
        }
    }

    /// Makes these sessions due again at this time, because the store could not be queried. If the absolute limit of
    /// one has passed, it is over.
    pub(crate) fn failed(&mut self, due: &[SessionId], again: Instant) {
        let now = Instant::now();
        for session in due {
            let Some(watched) = self.sessions.get(session) else {
                continue;
            };
            if now >= watched.expires {
                self.resolve(*session, EndReason::Expired);
            } else {
                let again = again.min(watched.expires);
                self.schedule(*session, again, again);
            }
        }
    }

    /// Ends the check in flight. An announcement that has overtaken it makes the session due at `announced_at`.
    fn schedule(&mut self, session: SessionId, next: Instant, announced_at: Instant) {
        if let Some(watched) = self.sessions.get_mut(&session)
            && let Check::InFlight { announced } = watched.check
        {
            let next = if announced { announced_at } else { next };
            watched.check = Check::Due(next);
            self.queue.insert((next, session));
        }
    }

    pub(crate) fn resolve(&mut self, session: SessionId, because: EndReason) {
        let callers = self.remove(session).into_iter().flat_map(|w| w.callers);
        for (_, caller) in callers {
            // The receiver was dropped: the caller waits no longer.
            let _ = caller.send(because);
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Watched> {
        let watched = self.sessions.remove(&session)?;
        self.by_user.remove(watched.user, session);
        if let Check::Due(at) = watched.check {
            self.queue.remove(&(at, session));
        }
        Some(watched)
    }

    pub(crate) fn clear(&mut self) {
        self.sessions.clear();
        self.queue.clear();
        self.by_user.clear();
    }
}
