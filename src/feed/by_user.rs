//! Index of sessions by user.

use std::collections::BTreeSet;

use crate::session::{SessionId, UserKey};

/// Session ids, ordered by user. A session whose user is unknown belongs to every user.
#[derive(Debug, Default)]
pub(crate) struct ByUser(BTreeSet<(Option<UserKey>, SessionId)>);

const FIRST: SessionId = SessionId::from_bytes([0; 16]);
const LAST: SessionId = SessionId::from_bytes([u8::MAX; 16]);

impl ByUser {
    pub(crate) fn insert(&mut self, user: Option<UserKey>, session: SessionId) {
        self.0.insert((user, session));
    }

    pub(crate) fn remove(&mut self, user: Option<UserKey>, session: SessionId) {
        self.0.remove(&(user, session));
    }

    /// Returns the sessions of this user, and the sessions whose user is unknown.
    pub(crate) fn of(&self, user: UserKey) -> Vec<SessionId> {
        [None, Some(user)]
            .into_iter()
            .flat_map(|user| self.0.range((user, FIRST)..=(user, LAST)))
            .map(|(_, session)| *session)
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_an_unknown_user_belongs_to_every_user() {
        let session = |n| SessionId::from_bytes([n; 16]);
        let (one, other) = (UserKey::from_hash(1), UserKey::from_hash(u64::MAX));
        let mut by_user = ByUser::default();
        by_user.insert(Some(one), session(1));
        by_user.insert(Some(one), session(u8::MAX));
        by_user.insert(Some(other), session(2));
        by_user.insert(None, session(0));
        assert_eq!(by_user.of(one), [session(0), session(1), session(u8::MAX)]);
        assert_eq!(by_user.of(other), [session(0), session(2)]);
        by_user.remove(None, session(0));
        by_user.remove(Some(other), session(2));
        assert_eq!(by_user.of(other), []);
        assert_eq!(by_user.len(), 2);
    }
}
