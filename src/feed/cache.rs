//! The cache: live sessions that no announcement has been about since they were looked up.

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
        invalidation_log::{Asked, InvalidationLog, Subject},
    },
    session::{DigestHashing, SessionId, TokenDigest, UserKey},
    store::lookup::SharedSession,
};

/// Caches lookup results. The number of entries is bounded, and there are no negative entries.
pub(crate) struct Cache<U> {
    entries: Entries<U>,
    state: Mutex<State>,
    idle_limit: Option<Duration>,
    touch_interval: Option<Duration>,
}

/// When a lookup was asked: among the announcements, and by the clock.
pub(crate) type Snapshot = (Asked, Instant);

type Entries<U> = sync::Cache<TokenDigest, Arc<Entry<U>>, UnitWeighter, DigestHashing, Evicted>;

/// Everything but a hit goes through one lock, so that an announcement never falls between the check
/// and the insertion.
#[derive(Default)]
struct State {
    announced: InvalidationLog,
    digests: HashMap<SessionId, (TokenDigest, Option<UserKey>)>,
    by_user: ByUser,
}

struct Entry<U> {
    live: SharedSession<U>,
    /// From here on the store's clock is taken to go as this process's does.
    asked: Instant,
    /// When one of the session's limits passes, or the entry must be looked up again.
    until: Instant,
    /// Milliseconds after `asked` from which on a use is to be written down.
    touch_after: AtomicU64,
}

/// An answer from the cache.
pub(crate) struct Hit<U> {
    pub(crate) live: SharedSession<U>,
    /// Whether the use is to be written down.
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
            Evicted,
        );
        Self {
            entries,
            state: Mutex::default(),
            idle_limit,
            touch_interval,
        }
    }

    /// The session, if it is here, none of its limits has passed, and `hears` says of the present moment
    /// that the feed hears. It is asked last: a process that slept in between must not answer.
    pub(crate) fn get(
        &self,
        digest: &TokenDigest,
        hears: impl FnOnce(Instant) -> bool,
    ) -> Option<Hit<U>> {
        let entry = self.entries.get(digest)?;
        let now = Instant::now();
        if !hears(now) {
            return None;
        }
        if now >= entry.until {
            self.state().remove(entry.live.session.id(), &self.entries);
            return None;
        }
        let since = now.saturating_duration_since(entry.asked);
        let mut live = entry.live.clone();
        live.session = live.session.after(since);
        let touch = self.is_due(&entry, since);
        Some(Hit { live, touch })
    }

    /// True once an interval.
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

    /// To be called before the question is sent.
    pub(crate) fn ask(&self) -> Snapshot {
        (self.state().announced.ask(), Instant::now())
    }

    /// Caches a live session for at most `longest`, unless an announcement about it or its user has overtaken
    /// the lookup.
    pub(crate) fn keep(
        &self,
        asked: Snapshot,
        digest: TokenDigest,
        live: &SharedSession<U>,
        longest: Duration,
    ) {
        let (session, user) = (&live.session, live.user_key);
        let (asked, at) = asked;
        let until = at + session.limit_in(self.idle_limit).min(longest);
        let touch_after = self.touch_interval.map_or(0, |interval| {
            // One that was due has just been handed over.
            let rest = interval
                .checked_sub(session.since_last_seen())
                .filter(|rest| !rest.is_zero());
            millis_up(rest.unwrap_or(interval))
        });
        let entry = Arc::new(Entry {
            live: live.clone(),
            asked: at,
            until,
            touch_after: AtomicU64::new(touch_after),
        });
        let mut state = self.state();
        if !state.announced.may_cache(asked, session.id(), user) {
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
            // The entry that this one replaces is handed over too. As long as there is an entry under a digest, it
            // must be found when its session is announced.
            let gone = !self.entries.contains_key(&digest);
            if gone
                && let Some(&(current, user)) = state.digests.get(&session)
                && current == digest
            {
                state.digests.remove(&session);
                state.by_user.remove(user, session);
            }
        }
    }

    /// Invalidates these sessions.
    pub(crate) fn announce_sessions(&self, sessions: &[SessionId]) {
        let mut state = self.state();
        for session in sessions {
            state.announced.announce(Subject::Session(*session));
            state.remove(*session, &self.entries);
        }
    }

    /// Invalidates all sessions of these users, and those whose user is not known.
    pub(crate) fn announce_users(&self, users: &[UserKey]) {
        let mut state = self.state();
        for user in users {
            state.announced.announce(Subject::User(*user));
            for session in state.by_user.of(*user) {
                state.remove(session, &self.entries);
            }
        }
    }

    /// Invalidates every session.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.announced.announce_everything();
        state.digests.clear();
        state.by_user.clear();
        self.entries.clear();
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

/// Rounded up: the store leaves out a use that comes a part of a millisecond before the interval is over, and the next
/// one would be due an interval later.
fn millis_up(time: Duration) -> u64 {
    millis(time + Duration::from_nanos(999_999))
}

/// Hands over what had to make room, and what was replaced.
#[derive(Clone)]
struct Evicted;

impl<U> Lifecycle<TokenDigest, Arc<Entry<U>>> for Evicted {
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
    const LONGEST: Duration = Duration::from_secs(60);

    fn cache() -> Cache<()> {
        Cache::new(10, None, None)
    }

    /// The session of this number, so old and with so much left, under the digest of its number.
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

    fn is_kept(cache: &Cache<()>, digest: &TokenDigest) -> bool {
        cache.get(digest, |_| true).is_some()
    }

    /// Whether it is kept where it was asked about so long ago.
    fn kept_after(passed: Duration, (digest, live): &(TokenDigest, SharedSession<()>)) -> bool {
        let cache = cache();
        let (asked, now) = cache.ask();
        let at = now.checked_sub(passed).unwrap();
        cache.keep((asked, at), *digest, live, LONGEST);
        is_kept(&cache, digest)
    }

    /// N01: however long the session can still live.
    #[test]
    fn nothing_is_cached_for_longer_than_it_may_be() {
        let session = session(1, HOUR, HOUR);
        assert!(kept_after(59 * SECOND, &session));
        assert!(!kept_after(LONGEST, &session));
    }

    /// When the answer came does not matter: it may have been under way for long.
    #[test]
    fn a_limit_counts_from_the_question() {
        assert!(!kept_after(SECOND, &session(1, HOUR, SECOND / 2)));
        assert!(kept_after(SECOND, &session(1, HOUR, 10 * SECOND)));
    }

    #[test]
    fn what_was_announced_while_it_was_asked_about_is_not_kept() {
        let cache = cache();
        let (digest, live) = session(1, HOUR, HOUR);
        let user = live.user_key.unwrap();
        let announcements: [&dyn Fn(); 3] = [
            &|| cache.announce_sessions(&[live.session.id()]),
            &|| cache.announce_users(&[user]),
            &|| cache.clear(),
        ];
        for announce in announcements {
            let before = cache.ask();
            announce();
            cache.keep(before, digest, &live, LONGEST);
            assert!(!is_kept(&cache, &digest));
            cache.keep(cache.ask(), digest, &live, LONGEST);
            assert!(is_kept(&cache, &digest));
        }
    }

    /// A use is due when the whole interval has passed, and no part of a millisecond earlier.
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
            cache.keep(cache.ask(), digest, &live, LONGEST);
            let entry = cache.entries.get(&digest).unwrap();
            let is_due = |millis| cache.is_due(&entry, Duration::from_millis(millis));
            assert!(!is_due(not_due), "{last_used:?}");
            assert!(is_due(due), "{last_used:?}");
            assert!(!is_due(due + 66), "{last_used:?}");
            assert!(is_due(due + 67), "{last_used:?}");
        }
    }

    /// N02: all sessions of the user, those whose user is not known, and no others.
    #[test]
    fn a_user_is_announced_with_all_sessions() {
        let cache = cache();
        let (user, other) = (UserKey::from_hash(70), UserKey::from_hash(71));
        let sessions = [Some(user), Some(user), None, Some(other)];
        let digests: Vec<_> = (1..)
            .zip(sessions)
            .map(|(number, user)| {
                let (digest, mut live) = session(number, HOUR, HOUR);
                live.user_key = user;
                cache.keep(cache.ask(), digest, &live, LONGEST);
                digest
            })
            .collect();
        cache.announce_users(&[user]);
        let kept: Vec<_> = digests
            .iter()
            .map(|digest| is_kept(&cache, digest))
            .collect();
        assert_eq!(kept, [false, false, false, true]);
        assert_eq!(cache.state().by_user.len(), 1);
    }

    #[test]
    fn what_made_room_leaves_nothing_behind() {
        let cache = cache();
        for number in 0..1_000 {
            let (digest, live) = session(number, HOUR, HOUR);
            cache.keep(cache.ask(), digest, &live, LONGEST);
        }
        let names = cache.state().digests.len();
        assert_eq!(names, cache.entries.len());
        assert_eq!(names, cache.state().by_user.len());
        assert!((1..=20).contains(&names), "{names}");
    }
}
