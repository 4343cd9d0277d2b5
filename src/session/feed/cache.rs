//! Live sessions of which nothing has been announced since they were looked up.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use quick_cache::{Lifecycle, UnitWeighter, sync};
use smallvec::SmallVec;

use super::announced::{Announced, Asked};
use crate::{SessionId, TokenDigest, session::lookup::SharedSession};

/// An answer is kept no longer than this, whatever is announced.
const LONGEST_KEPT: Duration = Duration::from_secs(5 * 60);
/// A session that began while its user was being changed, in a transaction that had not ended, is not
/// named when that change is announced. Sessions are kept from this age on.
const SHORTEST_AGE: Duration = Duration::from_secs(60);

/// Answers from memory. What it holds is bounded; it never holds that a session does not exist.
pub(crate) struct Cache<U> {
    entries: Entries<U>,
    state: Mutex<State>,
    idle_limit: Option<Duration>,
    touch_interval: Option<Duration>,
}

/// When a lookup was asked: among the announcements, and by the clock.
pub(crate) type AskedAt = (Asked, Instant);

type Entries<U> =
    sync::Cache<TokenDigest, Arc<Entry<U>>, UnitWeighter, BuildHasherDefault<ByDigest>, Evicted>;

/// Everything but a hit goes through one lock, so that an announcement never falls between the check
/// and the insertion.
#[derive(Default)]
struct State {
    announced: Announced,
    digests: HashMap<SessionId, TokenDigest>,
}

struct Entry<U> {
    live: SharedSession<U>,
    /// From here on the store's clock is taken to go as this process's does.
    asked: Instant,
    /// When one of the session's limits passes.
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
            BuildHasherDefault::default(),
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
            self.forget(entry.live.session.id());
            return None;
        }
        let since = now.saturating_duration_since(entry.asked);
        let live = SharedSession {
            user: Arc::clone(&entry.live.user),
            session: entry.live.session.after(since),
        };
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
    pub(crate) fn ask(&self) -> AskedAt {
        (self.state().announced.ask(), Instant::now())
    }

    /// Keeps a live session, unless something was announced about it since it was asked about.
    pub(crate) fn keep(&self, asked: AskedAt, digest: TokenDigest, live: &SharedSession<U>) {
        let session = &live.session;
        let (asked, at) = asked;
        if session.age() < SHORTEST_AGE {
            return;
        }
        let until = at + session.limit_in(self.idle_limit).min(LONGEST_KEPT);
        let used = session.since_last_seen();
        let touch_after = self.touch_interval.map_or(0, |interval| {
            // One that was due has just been handed over.
            let rest = interval.checked_sub(used).filter(|rest| !rest.is_zero());
            millis_up(rest.unwrap_or(interval))
        });
        let entry = Arc::new(Entry {
            live: live.clone(),
            asked: at,
            until,
            touch_after: AtomicU64::new(touch_after),
        });
        let mut state = self.state();
        if !state.announced.may_keep(asked, session.id()) {
            return;
        }
        if let Some(old) = state.digests.insert(session.id(), digest)
            && old != digest
        {
            self.entries.remove(&old);
        }
        let mut evicted = SmallVec::new();
        self.entries
            .insert_with_lifecycle(digest, entry, &mut evicted);
        for (digest, session) in evicted {
            // What it replaces is handed over too. As long as something is kept under a digest, it must be
            // found when its session is announced.
            let gone = !self.entries.contains_key(&digest);
            if gone && state.digests.get(&session) == Some(&digest) {
                state.digests.remove(&session);
            }
        }
    }

    /// Something was announced about these.
    pub(crate) fn announce(&self, sessions: &[SessionId]) {
        let mut state = self.state();
        for session in sessions {
            state.announced.announce(*session);
            if let Some(digest) = state.digests.remove(session) {
                self.entries.remove(&digest);
            }
        }
    }

    /// Anything may have changed.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.announced.announce_everything();
        state.digests.clear();
        self.entries.clear();
    }

    fn forget(&self, session: SessionId) {
        let mut state = self.state();
        if let Some(digest) = state.digests.remove(&session) {
            self.entries.remove(&digest);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A digest is uniform already, and nobody can choose the digest of a session that is live. Equality is
/// that of all 32 bytes.
#[derive(Default)]
struct ByDigest(u64);

impl Hasher for ByDigest {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Session, SessionTimes};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(60 * 60);

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
        let times = SessionTimes {
            created_at: now - age,
            authenticated_at: now - age,
            last_seen_at: now,
            expires_at: now + left,
            now,
        };
        let session = Session::new(SessionId::from_bytes(id), times);
        (
            TokenDigest::from_bytes(digest),
            SharedSession {
                user: Arc::new(()),
                session,
            },
        )
    }

    fn is_kept(cache: &Cache<()>, digest: &TokenDigest) -> bool {
        cache.get(digest, |_| true).is_some()
    }

    /// Whether it is kept where it was asked about so long ago.
    fn kept_after(passed: Duration, (digest, live): &(TokenDigest, SharedSession<()>)) -> bool {
        let cache = cache();
        let (asked, now) = cache.ask();
        let at = now.checked_sub(passed).unwrap();
        cache.keep((asked, at), *digest, live);
        is_kept(&cache, digest)
    }

    #[test]
    fn a_session_is_kept_from_the_age_of_a_minute_on() {
        let younger = Duration::from_millis(59_999);
        assert!(!kept_after(Duration::ZERO, &session(1, younger, HOUR)));
        assert!(kept_after(Duration::ZERO, &session(1, 60 * SECOND, HOUR)));
    }

    #[test]
    fn nothing_is_kept_for_longer_than_five_minutes() {
        let session = session(1, HOUR, HOUR);
        assert!(kept_after(240 * SECOND, &session));
        assert!(!kept_after(300 * SECOND, &session));
    }

    /// When the answer came does not matter: it may have been under way for long.
    #[test]
    fn a_limit_counts_from_the_question() {
        assert!(!kept_after(SECOND, &session(1, HOUR, SECOND / 2)));
        assert!(kept_after(SECOND, &session(1, HOUR, 60 * SECOND)));
    }

    #[test]
    fn what_was_announced_while_it_was_asked_about_is_not_kept() {
        let cache = cache();
        let (digest, live) = session(1, HOUR, HOUR);
        let announcements: [&dyn Fn(); 2] =
            [&|| cache.announce(&[live.session.id()]), &|| cache.clear()];
        for announce in announcements {
            let before = cache.ask();
            announce();
            cache.keep(before, digest, &live);
            assert!(!is_kept(&cache, &digest));
            cache.keep(cache.ask(), digest, &live);
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
            let times = SessionTimes {
                last_seen_at: times.now - last_used,
                ..times
            };
            live.session = Session::new(live.session.id(), times);
            cache.keep(cache.ask(), digest, &live);
            let entry = cache.entries.get(&digest).unwrap();
            let is_due = |millis| cache.is_due(&entry, Duration::from_millis(millis));
            assert!(!is_due(not_due), "{last_used:?}");
            assert!(is_due(due), "{last_used:?}");
            assert!(!is_due(due + 66), "{last_used:?}");
            assert!(is_due(due + 67), "{last_used:?}");
        }
    }

    #[test]
    fn what_made_room_leaves_nothing_behind() {
        let cache = cache();
        for number in 0..1_000 {
            let (digest, live) = session(number, HOUR, HOUR);
            cache.keep(cache.ask(), digest, &live);
        }
        let names = cache.state().digests.len();
        assert_eq!(names, cache.entries.len());
        assert!((1..=20).contains(&names), "{names}");
    }
}
