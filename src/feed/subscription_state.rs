//! The state of a subscription: until when it is connected, and what it applies announcements to.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use crate::{
    feed::{
        cache::{Cache, Hit, Snapshot},
        session_feed::Invalidation,
        watchers::Watchers,
    },
    log_limit::LogLimiter,
    session::{SessionId, TokenDigest},
    store::lookup::SharedSession,
};

/// How long a feed counts as connected after it sent a heartbeat that came back, unless the application sets
/// another time: one second.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(1);
/// After this time a cached result is looked up again, and a session that a stream waits for is checked again, while
/// the feed is connected and announces changed users: one minute.
pub const DEFAULT_RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The same while the feed is connected and does not announce changed users: 15 seconds.
pub const DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS: Duration = Duration::from_secs(15);

/// A subscription to a feed, which can be replaced by another one.
pub(crate) struct SubscriptionState<U> {
    cache: Option<Cache<U>>,
    watchers: Arc<Watchers>,
    pub(crate) settings: Settings,
    start: StdInstant,
    /// Nanoseconds after `start`. Until then everything that was announced has arrived.
    pub(crate) fresh_until: AtomicU64,
    pub(crate) announces_users: AtomicBool,
    lines: Mutex<Lines>,
    pub(crate) proof: watch::Sender<Proof>,
    pub(crate) failures: LogLimiter,
}

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) lease: Duration,
    /// `None`: the default, which depends on what the feed announces.
    pub(crate) recheck_interval: Option<Duration>,
    pub(crate) deadline: Duration,
}

/// The feeds, of which only the current one has a say. A feed becomes the current one when it proves that it is
/// connected.
#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) current: u64,
    pub(crate) newest: u64,
    pub(crate) heartbeat: Arc<Notify>,
    pub(crate) task: Option<Task>,
    pub(crate) stopped: bool,
}

/// Which feed has proved last that it is connected, and when the heartbeat was sent. `None` if the connection has
/// been lost since.
#[derive(Clone, Copy, Default)]
pub(crate) struct Proof {
    pub(crate) line: u64,
    pub(crate) sent: Option<Instant>,
}

/// Aborts a feed's task when it is dropped.
pub(crate) struct Task(pub(crate) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<U: Clone + Send + Sync + 'static> SubscriptionState<U> {
    pub(crate) fn new(
        cache: Option<Cache<U>>,
        watchers: Arc<Watchers>,
        settings: Settings,
    ) -> Self {
        Self {
            cache,
            watchers,
            settings,
            start: StdInstant::now(),
            fresh_until: AtomicU64::new(0),
            announces_users: AtomicBool::new(false),
            lines: Mutex::default(),
            proof: watch::Sender::default(),
            failures: LogLimiter::default(),
        }
    }

    /// The live session, if it is cached.
    pub(crate) fn hit(&self, digest: &TokenDigest) -> Option<Hit<U>> {
        let cache = self.cache.as_ref()?;
        cache.get(digest, |now| self.hears_at(now))
    }

    /// Must be called before a lookup is sent.
    pub(crate) fn ask(&self) -> Option<Snapshot> {
        let cache = self.cache.as_ref()?;
        self.is_fresh().then(|| cache.ask())
    }

    /// Caches what a lookup found.
    pub(crate) fn keep(&self, asked: Snapshot, digest: TokenDigest, live: &SharedSession<U>) {
        if let Some(cache) = &self.cache
            && self.is_fresh()
        {
            cache.keep(asked, digest, live, self.recheck_interval());
        }
    }

    /// Whether everything that was announced has arrived.
    pub(crate) fn is_fresh(&self) -> bool {
        self.hears_at(StdInstant::now())
    }

    fn hears_at(&self, now: StdInstant) -> bool {
        self.nanos(now) < self.fresh_until.load(SeqCst)
    }

    pub(crate) fn nanos(&self, at: StdInstant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn recheck_interval(&self) -> Duration {
        let default = if self.announces_users.load(SeqCst) {
            DEFAULT_RECHECK_INTERVAL
        } else {
            DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS
        };
        self.settings.recheck_interval.unwrap_or(default)
    }

    /// Invalidates sessions that have ended.
    pub(crate) fn end(&self, sessions: Vec<SessionId>) {
        self.apply(Invalidation::Sessions(sessions));
    }

    /// Any session may have ended.
    pub(crate) fn end_everything(&self) {
        self.apply(Invalidation::All);
    }

    /// Waits until the announcements of everything that has happened so far have arrived. If they do not arrive
    /// within the lease or the deadline, or if the feed loses its connection, nothing is answered from the cache any
    /// more.
    pub(crate) async fn sync(&self) {
        if self.cache.is_none() || !self.is_fresh() {
            return;
        }
        let now = Instant::now();
        let mut proof = self.proof.subscribe();
        self.lines().heartbeat.notify_one();
        let caught_up = proof.wait_for(|proof| proof.sent.is_none_or(|sent| sent >= now));
        let patience = self.settings.lease.min(self.settings.deadline);
        if timeout(patience, caught_up).await.is_err() {
            self.fresh_until.store(0, SeqCst);
        }
    }

    /// Ends the subscription.
    pub(crate) fn stop(&self) {
        let mut lines = self.lines();
        lines.stopped = true;
        lines.task = None;
        self.lose(&lines);
    }

    /// The current feed has lost its connection.
    pub(crate) fn lose(&self, lines: &Lines) {
        self.fresh_until.store(0, SeqCst);
        self.apply(Invalidation::All);
        self.proof.send_replace(Proof {
            line: lines.current,
            sent: None,
        });
    }

    pub(crate) fn apply(&self, announcement: Invalidation) {
        match announcement {
            Invalidation::Sessions(sessions) => {
                if let Some(cache) = &self.cache {
                    cache.announce_sessions(&sessions);
                }
                self.watchers.mark_suspect(&sessions);
            }
            Invalidation::Users(users) => {
                if let Some(cache) = &self.cache {
                    cache.announce_users(&users);
                }
                self.watchers.doubt_users(&users);
            }
            Invalidation::All => {
                self.clear_cache();
                self.watchers.mark_all_suspect();
            }
        }
    }

    pub(crate) fn clear_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.clear();
        }
    }
}

impl<U> SubscriptionState<U> {
    pub(crate) fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
