//! The invalidation log: which lookups in flight were overtaken by an announcement. It has no clock, no lock and
//! no runtime, so that it can be checked by itself.

use std::collections::VecDeque;

use crate::session::{SessionId, UserKey};

/// The log remembers this many announcements one by one. A lookup that was overtaken by more is not cached.
const REMEMBERED: usize = 1_024;

/// The announcements so far, in their order.
#[derive(Debug, Default)]
pub(crate) struct InvalidationLog {
    /// The number of announcements.
    count: u64,
    /// A lookup that was sent when there were fewer is not cached.
    complete_from: u64,
    recent: VecDeque<(u64, Subject)>,
}

/// What one announcement was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Session(SessionId),
    User(UserKey),
}

/// The moment at which a lookup was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl InvalidationLog {
    /// Must be called before the query is sent.
    pub(crate) const fn ask(&self) -> Asked {
        Asked(self.count)
    }

    /// Whether no announcement about this session or its user has overtaken the lookup. An announcement of any
    /// user is about a session whose user is not known.
    pub(crate) fn may_cache(
        &self,
        asked: Asked,
        session: SessionId,
        user: Option<UserKey>,
    ) -> bool {
        let since = self.recent.iter().rev();
        asked.0 >= self.complete_from
            && since
                .take_while(|(count, _)| *count > asked.0)
                .all(|(_, subject)| match *subject {
                    Subject::Session(announced) => announced != session,
                    Subject::User(announced) => user.is_some_and(|user| announced != user),
                })
    }

    pub(crate) fn announce(&mut self, subject: Subject) {
        self.count += 1;
        if self.recent.len() == REMEMBERED
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.complete_from = forgotten;
        }
        self.recent.push_back((self.count, subject));
    }

    /// Any session may have changed: no lookup in flight is cached.
    pub(crate) fn announce_everything(&mut self) {
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
    fn a_lookup_is_kept_unless_its_session_was_announced_meanwhile() {
        let mut announced = InvalidationLog::default();
        announced.announce(Subject::Session(id(1)));
        let asked = announced.ask();
        assert!(announced.may_cache(asked, id(1), USER));
        announced.announce(Subject::Session(id(2)));
        assert!(announced.may_cache(asked, id(1), USER));
        assert!(!announced.may_cache(asked, id(2), USER));
        assert!(announced.may_cache(announced.ask(), id(2), USER));
        announced.announce_everything();
        assert!(!announced.may_cache(asked, id(1), USER));
        assert!(announced.may_cache(announced.ask(), id(1), USER));
    }

    /// N02
    #[test]
    fn a_lookup_is_kept_unless_its_user_was_announced_meanwhile() {
        let mut announced = InvalidationLog::default();
        let before = announced.ask();
        announced.announce(Subject::User(UserKey::from_hash(8)));
        assert!(announced.may_cache(before, id(1), USER));
        assert!(!announced.may_cache(before, id(1), None));
        announced.announce(Subject::User(UserKey::from_hash(7)));
        assert!(!announced.may_cache(before, id(1), USER));
        assert!(announced.may_cache(announced.ask(), id(1), USER));
        assert!(announced.may_cache(announced.ask(), id(1), None));
    }

    /// The log is bounded. A forgotten announcement counts as one about every session.
    #[test]
    fn what_is_forgotten_counts_as_announced() {
        let mut announced = InvalidationLog::default();
        let before = announced.ask();
        for _ in 0..REMEMBERED {
            announced.announce(Subject::Session(id(1)));
        }
        assert!(announced.may_cache(before, id(2), USER));
        announced.announce(Subject::Session(id(1)));
        assert!(!announced.may_cache(before, id(2), USER));
        assert_eq!(announced.recent.len(), REMEMBERED);
    }
}
