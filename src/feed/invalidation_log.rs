//! The invalidation log, which decides whether the result of a lookup may be cached.
//!
//! The log has no clock, no lock and no runtime. It can therefore be model-checked.

use std::collections::VecDeque;

use crate::session::{SessionId, UserKey};

/// Maximum number of entries in the log. If more invalidations are recorded during a lookup, its
/// result is not cached.
const CAPACITY: usize = 1_024;

/// The most recent invalidations, in their order.
#[derive(Debug, Default)]
pub(crate) struct InvalidationLog {
    /// Number of invalidations so far.
    count: u64,
    /// The results of lookups from before this position are not cached.
    complete_from: u64,
    recent: VecDeque<(u64, Subject)>,
}

/// The subject of one invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Session(SessionId),
    User(UserKey),
}

/// A position in the log: the number of invalidations when a lookup was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogPosition(u64);

impl InvalidationLog {
    /// Returns the current position. The caller must call this before it sends the query.
    pub(crate) const fn position(&self) -> LogPosition {
        LogPosition(self.count)
    }

    /// Returns whether the result of the lookup may be cached. It may not be cached if an
    /// invalidation of this session or of its user was recorded after `position`.
    ///
    /// If the session's user is unknown, an invalidation of any user counts.
    pub(crate) fn may_cache(
        &self,
        position: LogPosition,
        session: SessionId,
        user: Option<UserKey>,
    ) -> bool {
        let since = self.recent.iter().rev();
        position.0 >= self.complete_from
            && since
                .take_while(|(count, _)| *count > position.0)
                .all(|(_, subject)| match *subject {
                    Subject::Session(invalidated) => invalidated != session,
                    Subject::User(invalidated) => user.is_some_and(|user| invalidated != user),
                })
    }

    pub(crate) fn record(&mut self, subject: Subject) {
        self.count += 1;
        if self.recent.len() == CAPACITY
            && let Some((dropped, _)) = self.recent.pop_front()
        {
            self.complete_from = dropped;
        }
        self.recent.push_back((self.count, subject));
    }

    /// Records that any session may have changed. No result of a lookup in flight will be cached.
    pub(crate) fn record_all(&mut self) {
        self.count += 1;
        self.complete_from = self.count;
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> SessionId {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        SessionId::from_bytes(bytes)
    }

    const USER: Option<UserKey> = Some(UserKey::from_hash(7));

    #[test]
    fn a_lookup_is_cached_unless_its_session_was_invalidated_meanwhile() {
        let mut log = InvalidationLog::default();
        log.record(Subject::Session(id(1)));
        let position = log.position();
        assert!(log.may_cache(position, id(1), USER));
        log.record(Subject::Session(id(2)));
        assert!(log.may_cache(position, id(1), USER));
        assert!(!log.may_cache(position, id(2), USER));
        assert!(log.may_cache(log.position(), id(2), USER));
        log.record_all();
        assert!(!log.may_cache(position, id(1), USER));
        assert!(log.may_cache(log.position(), id(1), USER));
    }

    /// N02
    #[test]
    fn a_lookup_is_cached_unless_its_user_was_invalidated_meanwhile() {
        let mut log = InvalidationLog::default();
        let before = log.position();
        log.record(Subject::User(UserKey::from_hash(8)));
        assert!(log.may_cache(before, id(1), USER));
        assert!(!log.may_cache(before, id(1), None));
        log.record(Subject::User(UserKey::from_hash(7)));
        assert!(!log.may_cache(before, id(1), USER));
        assert!(log.may_cache(log.position(), id(1), USER));
        assert!(log.may_cache(log.position(), id(1), None));
    }

    /// The log is bounded. A dropped entry counts as an invalidation of every session.
    #[test]
    fn a_dropped_log_entry_counts_as_an_invalidation_of_all() {
        let mut log = InvalidationLog::default();
        let before = log.position();
        for _ in 0..CAPACITY {
            log.record(Subject::Session(id(1)));
        }
        assert!(log.may_cache(before, id(2), USER));
        log.record(Subject::Session(id(1)));
        assert!(!log.may_cache(before, id(2), USER));
        assert_eq!(log.recent.len(), CAPACITY);
    }
}
