//! The watched sessions, in the order in which they must be checked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    feed::{by_user::ByUser, end_reason::EndReason},
    outage::Outage,
    session::{Session, SessionId, UserKey},
    store::RemainingLifetime,
};

/// Maximum number of sessions in one query.
pub(crate) const MAX_SESSIONS_PER_QUERY: usize = 1_000;
/// Longest time for which a timer is set: 365 days.
const MAX_TIMER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The watched sessions. Each watched session has at least one waiter for its end.
pub(crate) struct Watchers {
    state: Mutex<State>,
    /// The number of [`Ended`](crate::feed::Ended).
    pub(crate) waits: AtomicU64,
    pub(crate) wake: Notify,
    pub(crate) outage: Outage,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sessions: HashMap<SessionId, Watched>,
    /// The sessions that wait for a check, in the order of the times at which their checks are due.
    /// A failed check becomes due again later. The sessions behind it are therefore checked first.
    queue: BTreeSet<(Instant, SessionId)>,
    by_user: ByUser,
    pub(crate) last_waiter: u64,
    pub(crate) running: bool,
    pub(crate) closed: bool,
}

pub(crate) struct Watched {
    waiters: SmallVec<[(u64, oneshot::Sender<EndReason>); 1]>,
    /// The session's user, which is known after the first check.
    user: Option<UserKey>,
    /// When one of the session's limits passes, unless the session is used before.
    limit: Instant,
    /// When the session's absolute limit passes.
    expires: Instant,
    /// When the last check was sent.
    checked: Instant,
    check: Check,
}

enum Check {
    Due(Instant),
    /// Whether the session was invalidated after the check was sent.
    InFlight {
        suspect: bool,
    },
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            waits: AtomicU64::new(0),
            wake: Notify::new(),
            outage: Outage::new(
                Duration::ZERO,
                "recheck_recovered",
                "re-checks of watched sessions recovered",
            ),
        }
    }
}

impl Watchers {
    /// Removes a waiter. If it was the last waiter, the session is no longer watched.
    pub(crate) fn remove_waiter(&self, session: SessionId, waiter: u64) {
        self.waits.fetch_sub(1, Relaxed);
        let mut state = self.state();
        if let Some(watched) = state.sessions.get_mut(&session) {
            watched.waiters.retain(|(other, _)| *other != waiter);
            if watched.waiters.is_empty() {
                state.remove(session);
            }
        }
    }

    /// Marks these sessions for a check at once, because they may have ended.
    pub(crate) fn mark_suspect(&self, sessions: &[SessionId]) {
        let now = Instant::now();
        let mut state = self.state();
        for session in sessions {
            state.mark_suspect(*session, now);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Marks the sessions of these users for a check at once.
    pub(crate) fn mark_users_suspect(&self, users: &[UserKey]) {
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

    /// Marks all sessions for a check at once.
    pub(crate) fn mark_all_suspect(&self) {
        self.state().bring_forward(Instant::now(), Duration::ZERO);
        self.wake.notify_one();
    }

    /// Ends all waits, and rejects later waits.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// Returns the number of waits that were not dropped.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Relaxed)
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
        waiter: (u64, oneshot::Sender<EndReason>),
    ) {
        let now = Instant::now();
        let id = session.id();
        let watched = self.sessions.entry(id).or_insert_with(|| {
            // The lookup may have been long ago. Therefore the session is checked at once.
            self.queue.insert((now, id));
            self.by_user.insert(None, id);
            Watched {
                waiters: SmallVec::new(),
                user: None,
                limit: now + session.limit_in(idle_limit).min(MAX_TIMER),
                expires: now + session.remaining().min(MAX_TIMER),
                checked: now,
                check: Check::Due(now),
            }
        });
        watched.waiters.push(waiter);
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
            Check::InFlight { suspect } => *suspect = true,
        }
    }

    /// Makes every session due `after` its last check, or now if that time has passed. If `after`
    /// is zero, checks in flight are repeated.
    pub(crate) fn bring_forward(&mut self, now: Instant, after: Duration) {
        self.queue.clear();
        for (session, watched) in &mut self.sessions {
            match &mut watched.check {
                Check::Due(at) => {
                    *at = (*at).min(now.max(watched.checked + after));
                    self.queue.insert((*at, *session));
                }
                Check::InFlight { suspect } => *suspect |= after.is_zero(),
            }
        }
    }

    /// Takes the sessions of one query, if a session is due. Sessions that are due within `slack`
    /// are included. This saves queries.
    pub(crate) fn take_due(&mut self, now: Instant, slack: Duration) -> Vec<SessionId> {
        let mut due = Vec::new();
        if self.next_due().is_none_or(|at| at > now) {
            return due;
        }
        while due.len() < MAX_SESSIONS_PER_QUERY
            && let Some((at, session)) = self.queue.pop_first()
        {
            if at > now + slack {
                self.queue.insert((at, session));
                break;
            }
            if let Some(watched) = self.sessions.get_mut(&session) {
                watched.checked = now;
                watched.check = Check::InFlight { suspect: false };
                due.push(session);
            }
        }
        due
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Resolves the waits for sessions that the store no longer finds. Schedules the next check of
    /// the other sessions.
    pub(crate) fn apply_check(
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
            watched.limit = watched.checked + live.remaining.min(MAX_TIMER);
            self.by_user.remove(watched.user, *session);
            watched.user = live.user_key;
            self.by_user.insert(watched.user, *session);
            let next = watched.limit.min(watched.checked + period);
            self.schedule(*session, next, now);
        }
    }

    /// Schedules these sessions again, because the query failed. A session whose absolute limit has
    /// passed is resolved as expired.
    pub(crate) fn apply_failure(&mut self, due: &[SessionId], retry_at: Instant) {
        let now = Instant::now();
        for session in due {
            let Some(watched) = self.sessions.get(session) else {
                continue;
            };
            if now >= watched.expires {
                self.resolve(*session, EndReason::Expired);
            } else {
                let retry_at = retry_at.min(watched.expires);
                self.schedule(*session, retry_at, retry_at);
            }
        }
    }

    /// Ends the check in flight and schedules the next check. If the session was invalidated during
    /// the check, the next check is due at `suspect_at`.
    fn schedule(&mut self, session: SessionId, next: Instant, suspect_at: Instant) {
        if let Some(watched) = self.sessions.get_mut(&session)
            && let Check::InFlight { suspect } = watched.check
        {
            let next = if suspect { suspect_at } else { next };
            watched.check = Check::Due(next);
            self.queue.insert((next, session));
        }
    }

    pub(crate) fn resolve(&mut self, session: SessionId, reason: EndReason) {
        let waiters = self.remove(session).into_iter().flat_map(|w| w.waiters);
        for (_, waiter) in waiters {
            // The send fails if the waiter was cancelled.
            let _ = waiter.send(reason);
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
