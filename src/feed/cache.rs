//! Cache of live sessions, which invalidations evict.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use quick_cache::{Lifecycle, UnitWeighter, sync};
use smallvec::SmallVec;

use crate::{
    feed::{
        by_user::ByUser,
        invalidation_log::{InvalidationLog, LogPosition, Subject},
    },
    session::{DigestHashing, SessionId, TokenDigest, UserKey},
    store::lookup::SharedSession,
};

/// Caches live sessions. The number of entries is bounded, and there are no negative entries.
pub(crate) struct Cache<U> {
    entries: Entries<U>,
    state: Mutex<State>,
    idle_limit: Option<Duration>,
    touch_interval: Option<Duration>,
}

/// The start of a lookup: its position among the invalidations, and its time.
pub(crate) type Snapshot = (LogPosition, Instant);

type Entries<U> =
    sync::Cache<TokenDigest, Arc<Entry<U>>, UnitWeighter, DigestHashing, CollectEvicted>;

/// All operations except a hit take one lock. Therefore no invalidation can happen between the
/// check of the log and the insertion.
#[derive(Default)]
struct State {
    log: InvalidationLog,
    digests: HashMap<SessionId, (TokenDigest, Option<UserKey>)>,
    by_user: ByUser,
}

struct Entry<U> {
    live: SharedSession<U>,
    /// When the query was sent. From then on, the session ages by this process's clock.
    queried_at: Instant,
    /// When one of the session's limits passes, or the re-check interval ends.
    valid_until: Instant,
    /// Milliseconds from `queried_at` until a use must be recorded.
    touch_after: AtomicU64,
}

/// A cached session.
pub(crate) struct Hit<U> {
    pub(crate) live: SharedSession<U>,
    /// Whether the caller must record the use.
    pub(crate) touch: bool,
}

impl<U> Cache<U> {
    pub(crate) fn new(
        sessions: usize,
        idle_limit: Option<Duration>,
        touch_interval: Option<Duration>,
    ) -> Self {
        let entries = sync::Cache::with(
            sessions,
            sessions as u64,
            UnitWeighter,
            DigestHashing::default(),
            CollectEvicted,
        );
        Self {
            entries,
            state: Mutex::default(),
            idle_limit,
            touch_interval,
        }
    }

    /// Returns the session if it is cached and none of its limits has passed.
    ///
    /// `is_fresh` receives the current time, and must return whether the feed is connected at that
    /// time. The method first finds the entry and then calls `is_fresh`. In the other order, the
    /// process could be suspended between the two steps, and the lease could end.
    pub(crate) fn get(
        &self,
        digest: &TokenDigest,
        is_fresh: impl FnOnce(Instant) -> bool,
    ) -> Option<Hit<U>> {
        let entry = self.entries.get(digest)?;
        let now = Instant::now();
        if !is_fresh(now) {
            return None;
        }
        if now >= entry.valid_until {
            self.state().remove(entry.live.session.id(), &self.entries);
            return None;
        }
        let since = now.saturating_duration_since(entry.queried_at);
        let mut live = entry.live.clone();
        live.session = live.session.after(since);
        let touch = self.is_due(&entry, since);
        Some(Hit { live, touch })
    }

    /// Returns whether a use must be recorded: true once in each touch interval.
    fn is_due(&self, entry: &Entry<U>, since: Duration) -> bool {
        let Some(interval) = self.touch_interval else {
            return false;
        };
        let (since, due) = (millis(since), entry.touch_after.load(Relaxed));
        since >= due
            && entry
                .touch_after
                .compare_exchange(due, since + millis_up(interval), Relaxed, Relaxed)
                .is_ok()
    }

    /// Returns the start of a lookup. The caller must call this before it sends the query.
    pub(crate) fn snapshot(&self) -> Snapshot {
        (self.state().log.position(), Instant::now())
    }

    /// Caches a live session for at most `max_age`. Does nothing if an invalidation of the session
    /// or of its user was recorded after `snapshot`.
    pub(crate) fn insert(
        &self,
        snapshot: Snapshot,
        digest: TokenDigest,
        live: &SharedSession<U>,
        max_age: Duration,
    ) {
        let (session, user) = (&live.session, live.user_key);
        let (position, queried_at) = snapshot;
        let valid_until = queried_at + session.limit_in(self.idle_limit).min(max_age);
        let touch_after = self.touch_interval.map_or(0, |interval| {
            // If the interval has already passed, the lookup itself has recorded a use.
            let rest = interval
                .checked_sub(session.since_last_seen())
                .filter(|rest| !rest.is_zero());
            millis_up(rest.unwrap_or(interval))
        });
        let entry = Arc::new(Entry {
            live: live.clone(),
            queried_at,
            valid_until,
            touch_after: AtomicU64::new(touch_after),
        });
        let mut state = self.state();
        if !state.log.may_cache(position, session.id(), user) {
            return;
        }
        if let Some((old, old_user)) = state.digests.insert(session.id(), (digest, user)) {
            state.by_user.remove(old_user, session.id());
            if old != digest {
                self.entries.remove(&old);
            }
        }
        state.by_user.insert(user, session.id());
        let mut evicted = SmallVec::new();
        self.entries
            .insert_with_lifecycle(digest, entry, &mut evicted);
        for (digest, session) in evicted {
            // An entry that was replaced is evicted too. While an entry exists for a digest, the
            // index must keep its session. Otherwise an invalidation would not evict the entry.
            let vacant = !self.entries.contains_key(&digest);
            if vacant
                && let Some(&(current, user)) = state.digests.get(&session)
                && current == digest
            {
                state.digests.remove(&session);
                state.by_user.remove(user, session);
            }
        }
    }

    /// Invalidates these sessions.
    pub(crate) fn invalidate_sessions(&self, sessions: &[SessionId]) {
        let mut state = self.state();
        for session in sessions {
            state.log.record(Subject::Session(*session));
            state.remove(*session, &self.entries);
        }
    }

    /// Invalidates all sessions of these users, and all sessions whose user is unknown.
    pub(crate) fn invalidate_users(&self, users: &[UserKey]) {
        let mut state = self.state();
        for user in users {
            state.log.record(Subject::User(*user));
            for session in state.by_user.of(*user) {
                state.remove(session, &self.entries);
            }
        }
    }

    /// Invalidates every session.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.log.record_all();
        state.digests.clear();
        state.by_user.clear();
        self.entries.clear();
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns the largest number of entries.
    pub(crate) fn capacity(&self) -> u64 {
        self.entries.capacity()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove<U>(&mut self, session: SessionId, entries: &Entries<U>) {
        if let Some((digest, user)) = self.digests.remove(&session) {
            self.by_user.remove(user, session);
            entries.remove(&digest);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the duration in milliseconds, rounded up. The store ignores a use that is recorded a
/// fraction of a millisecond early. It would then record no use until one interval later.
fn millis_up(time: Duration) -> u64 {
    millis(time + Duration::from_nanos(999_999))
}

/// Collects the entries that were evicted or replaced.
#[derive(Clone)]
struct CollectEvicted;

impl<U> Lifecycle<TokenDigest, Arc<Entry<U>>> for CollectEvicted {
    type RequestState = SmallVec<[(TokenDigest, SessionId); 1]>;

    fn on_evict(&self, state: &mut Self::RequestState, digest: TokenDigest, entry: Arc<Entry<U>>) {
        state.push((digest, entry.live.session.id()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::session::{Session, SessionTimestamps};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    const MAX_AGE: Duration = Duration::from_secs(60);

    fn cache() -> Cache<()> {
        Cache::new(10, None, None)
    }

    /// Returns a session of this age and remaining lifetime. The id and the digest contain
    /// `number`.
    fn session(number: u16, age: Duration, left: Duration) -> (TokenDigest, SharedSession<()>) {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&number.to_be_bytes());
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let now = SystemTime::UNIX_EPOCH + 2 * HOUR;
        let times = SessionTimestamps {
            created_at: now - age,
            authenticated_at: now - age,
            last_seen_at: now,
            expires_at: now + left,
            now,
        };
        let session = Session::new(SessionId::from_bytes(id), times);
        let live = SharedSession {
            user: Arc::new(()),
            session,
            user_key: Some(UserKey::from_hash(u64::from(number))),
        };
        (TokenDigest::from_bytes(digest), live)
    }

    fn is_cached(cache: &Cache<()>, digest: &TokenDigest) -> bool {
        cache.get(digest, |_| true).is_some()
    }

    /// Returns whether a session is cached if its query was sent this long ago.
    fn cached_after(passed: Duration, (digest, live): &(TokenDigest, SharedSession<()>)) -> bool {
        let cache = cache();
        let (position, now) = cache.snapshot();
        let queried_at = now.checked_sub(passed).unwrap();
        cache.insert((position, queried_at), *digest, live, MAX_AGE);
        is_cached(&cache, digest)
    }

    /// N01: the remaining lifetime of the session does not matter.
    #[test]
    fn an_entry_expires_after_its_maximum_age() {
        let session = session(1, HOUR, HOUR);
        assert!(cached_after(59 * SECOND, &session));
        assert!(!cached_after(MAX_AGE, &session));
    }

    /// The time at which the result arrives does not matter, because the result may arrive late.
    #[test]
    fn a_limit_counts_from_when_the_query_was_sent() {
        assert!(!cached_after(SECOND, &session(1, HOUR, SECOND / 2)));
        assert!(cached_after(SECOND, &session(1, HOUR, 10 * SECOND)));
    }

    #[test]
    fn a_lookup_overtaken_by_an_invalidation_is_not_inserted() {
        let cache = cache();
        let (digest, live) = session(1, HOUR, HOUR);
        let user = live.user_key.unwrap();
        let invalidations: [&dyn Fn(); 3] = [
            &|| cache.invalidate_sessions(&[live.session.id()]),
            &|| cache.invalidate_users(&[user]),
            &|| cache.clear(),
        ];
        for invalidate in invalidations {
            let before = cache.snapshot();
            invalidate();
            cache.insert(before, digest, &live, MAX_AGE);
            assert!(!is_cached(&cache, &digest));
            cache.insert(cache.snapshot(), digest, &live, MAX_AGE);
            assert!(is_cached(&cache, &digest));
        }
    }

    /// A use must be recorded when the whole interval has passed. It must not be recorded a fraction
    /// of a millisecond before that.
    #[test]
    fn use_is_due_when_the_interval_has_passed() {
        let interval = Duration::from_micros(66_666);
        for (last_used, not_due, due) in [
            (Duration::ZERO, 66, 67),
            (Duration::from_millis(30), 36, 37),
            (Duration::from_micros(66_666), 66, 67),
        ] {
            let cache = Cache::new(10, None, Some(interval));
            let (digest, mut live) = session(1, HOUR, HOUR);
            let times = live.session.times();
            let times = SessionTimestamps {
                last_seen_at: times.now - last_used,
                ..times
            };
            live.session = Session::new(live.session.id(), times);
            cache.insert(cache.snapshot(), digest, &live, MAX_AGE);
            let entry = cache.entries.get(&digest).unwrap();
            let is_due = |millis| cache.is_due(&entry, Duration::from_millis(millis));
            assert!(!is_due(not_due), "{last_used:?}");
            assert!(is_due(due), "{last_used:?}");
            assert!(!is_due(due + 66), "{last_used:?}");
            assert!(is_due(due + 67), "{last_used:?}");
        }
    }

    /// N02: only the user's sessions, and the sessions whose user is unknown, are evicted.
    #[test]
    fn invalidating_a_user_evicts_all_sessions_of_the_user() {
        let cache = cache();
        let (user, other) = (UserKey::from_hash(70), UserKey::from_hash(71));
        let sessions = [Some(user), Some(user), None, Some(other)];
        let digests: Vec<_> = (1..)
            .zip(sessions)
            .map(|(number, user)| {
                let (digest, mut live) = session(number, HOUR, HOUR);
                live.user_key = user;
                cache.insert(cache.snapshot(), digest, &live, MAX_AGE);
                digest
            })
            .collect();
        cache.invalidate_users(&[user]);
        let cached: Vec<_> = digests
            .iter()
            .map(|digest| is_cached(&cache, digest))
            .collect();
        assert_eq!(cached, [false, false, false, true]);
        assert_eq!(cache.state().by_user.len(), 1);
    }

    #[test]
    fn eviction_removes_every_index_entry() {
        let cache = cache();
        for number in 0..1_000 {
            let (digest, live) = session(number, HOUR, HOUR);
            cache.insert(cache.snapshot(), digest, &live, MAX_AGE);
        }
        let indexed = cache.state().digests.len();
        assert_eq!(indexed, cache.entries.len());
        assert_eq!(indexed, cache.state().by_user.len());
        assert!((1..=20).contains(&indexed), "{indexed}");
    }
}
