//! The state of a subscription: its lease, its cache and its watchers.

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
    error::{Chain, Error},
    feed::{
        cache::{Cache, Hit, Snapshot},
        session_feed::Invalidation,
        watchers::Watchers,
    },
    outage::Outage,
    session::{SessionId, TokenDigest},
    store::lookup::SharedSession,
};

/// Default lease: one second. A feed counts as connected for this long after it sent the last
/// heartbeat that was received.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(1);
/// Default re-check interval while the feed is connected, if its scope is
/// [`FeedScope::SessionsAndUsers`](crate::feed::FeedScope::SessionsAndUsers): one minute.
///
/// After this time, a cached session is looked up again and a watched session is checked again.
pub const DEFAULT_RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Default re-check interval while the feed is connected, if its scope is
/// [`FeedScope::Sessions`](crate::feed::FeedScope::Sessions): 15 seconds.
pub const DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS: Duration = Duration::from_secs(15);

/// A subscription to a feed, which another feed can replace.
pub(crate) struct SubscriptionState<U> {
    cache: Option<Cache<U>>,
    watchers: Arc<Watchers>,
    pub(crate) settings: Settings,
    start: StdInstant,
    /// End of the lease, in nanoseconds after `start`. Until then, the feed counts as connected,
    /// and all notifications have arrived.
    pub(crate) fresh_until: AtomicU64,
    pub(crate) covers_users: AtomicBool,
    connections: Mutex<Connections>,
    pub(crate) last_heartbeat: watch::Sender<LastHeartbeat>,
    /// When the last heartbeat that came back was sent, in nanoseconds after `start`. Unlike
    /// `last_heartbeat`, it outlasts the connection.
    pub(crate) proven_at: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    pub(crate) outage: Outage,
}

#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) lease: Duration,
    /// `None` selects the default for the feed's scope.
    pub(crate) recheck_interval: Option<Duration>,
    pub(crate) deadline: Duration,
}

/// The feeds of the subscription. Only the events of the current feed count. A feed becomes current
/// when its first heartbeat is received.
#[derive(Default)]
pub(crate) struct Connections {
    pub(crate) current: u64,
    pub(crate) newest: u64,
    pub(crate) heartbeat_request: Arc<Notify>,
    pub(crate) task: Option<AbortOnDrop>,
    pub(crate) stopped: bool,
}

/// The last heartbeat that was received: the feed that sent it, and the time. `sent` is `None` if
/// the connection has been lost since then.
#[derive(Clone, Copy, Default)]
pub(crate) struct LastHeartbeat {
    pub(crate) connection: u64,
    pub(crate) sent: Option<Instant>,
}

/// Aborts the task of a feed when it is dropped.
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
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
            covers_users: AtomicBool::new(false),
            connections: Mutex::default(),
            last_heartbeat: watch::Sender::default(),
            proven_at: AtomicU64::new(0),
            disconnects: AtomicU64::new(0),
            outage: Outage::new(Duration::ZERO, "feed_recovered", "session feed reconnected"),
        }
    }

    /// Returns the session if it is cached and the feed is connected.
    pub(crate) fn hit(&self, digest: &TokenDigest) -> Option<Hit<U>> {
        let cache = self.cache.as_ref()?;
        cache.get(digest, |now| self.is_fresh_at(now))
    }

    /// Returns the start of a lookup, or `None` if its result cannot be cached. The caller must
    /// call this before it sends the query.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let cache = self.cache.as_ref()?;
        self.is_fresh().then(|| cache.snapshot())
    }

    /// Caches the live session that a lookup found, if the feed is connected.
    pub(crate) fn insert(&self, snapshot: Snapshot, digest: TokenDigest, live: &SharedSession<U>) {
        if let Some(cache) = &self.cache
            && self.is_fresh()
        {
            cache.insert(snapshot, digest, live, self.recheck_interval());
        }
    }

    /// Returns whether the feed is connected. If so, all notifications have arrived.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh_at(StdInstant::now())
    }

    /// Returns the time since the last heartbeat that came back was sent.
    pub(crate) fn since_last_proof(&self) -> Duration {
        let proven_at = Duration::from_nanos(self.proven_at.load(SeqCst));
        self.start.elapsed().saturating_sub(proven_at)
    }

    /// Returns how often the feed failed.
    pub(crate) fn disconnects(&self) -> u64 {
        self.disconnects.load(SeqCst)
    }

    /// Returns the number of cached sessions and the capacity, if there is a cache.
    pub(crate) fn cache_size(&self) -> Option<(u64, u64)> {
        let cache = self.cache.as_ref()?;
        Some((cache.len(), cache.capacity()))
    }

    fn is_fresh_at(&self, now: StdInstant) -> bool {
        self.nanos(now) < self.fresh_until.load(SeqCst)
    }

    pub(crate) fn nanos(&self, at: StdInstant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn recheck_interval(&self) -> Duration {
        let default = if self.covers_users.load(SeqCst) {
            DEFAULT_RECHECK_INTERVAL
        } else {
            DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS
        };
        self.settings.recheck_interval.unwrap_or(default)
    }

    /// Invalidates these sessions.
    pub(crate) fn invalidate_sessions(&self, sessions: Vec<SessionId>) {
        self.apply(Invalidation::Sessions(sessions));
    }

    /// Invalidates all sessions.
    pub(crate) fn invalidate_all(&self) {
        self.apply(Invalidation::All);
    }

    /// Waits until the notifications of all earlier changes have arrived.
    ///
    /// The cache is bypassed if they do not arrive within the lease or the deadline, whichever is
    /// shorter. It is also bypassed if the feed disconnects.
    pub(crate) async fn sync(&self) {
        if self.cache.is_none() || !self.is_fresh() {
            return;
        }
        let now = Instant::now();
        let mut last_heartbeat = self.last_heartbeat.subscribe();
        self.connections().heartbeat_request.notify_one();
        let caught_up =
            last_heartbeat.wait_for(|heartbeat| heartbeat.sent.is_none_or(|sent| sent >= now));
        let limit = self.settings.lease.min(self.settings.deadline);
        if timeout(limit, caught_up).await.is_err() {
            self.fresh_until.store(0, SeqCst);
        }
    }

    /// Ends the subscription, and bypasses the cache from then on.
    pub(crate) fn stop(&self) {
        let mut connections = self.connections();
        connections.stopped = true;
        connections.task = None;
        self.disconnect(&connections);
    }

    /// Records that the current feed was disconnected. Invalidates all sessions.
    pub(crate) fn disconnect(&self, connections: &Connections) {
        self.fresh_until.store(0, SeqCst);
        self.apply(Invalidation::All);
        self.last_heartbeat.send_replace(LastHeartbeat {
            connection: connections.current,
            sent: None,
        });
    }

    /// Counts and logs a failure of a feed.
    pub(crate) fn report_failure(&self, error: &Error) {
        self.disconnects.fetch_add(1, SeqCst);
        if let Some(times) = self.outage.failed() {
            tracing::warn!(
                target: "tower_user_session",
                event = "feed_disconnected",
                kind = ?error.kind(),
                error = %Chain(error),
                times,
                "session feed disconnected; cache bypassed until it reconnects"
            );
        }
    }

    pub(crate) fn apply(&self, invalidation: Invalidation) {
        match invalidation {
            Invalidation::Sessions(sessions) => {
                if let Some(cache) = &self.cache {
                    cache.invalidate_sessions(&sessions);
                }
                self.watchers.mark_suspect(&sessions);
            }
            Invalidation::Users(users) => {
                if let Some(cache) = &self.cache {
                    cache.invalidate_users(&users);
                }
                self.watchers.mark_users_suspect(&users);
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
    pub(crate) fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
