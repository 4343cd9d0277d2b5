//! Which user a change was about.

use std::fmt;

/// An opaque stand-in for a user's key: a 64-bit hash that the store computes, with which a
/// [`SessionFeed`](crate::feed::SessionFeed) names users.
///
/// Only equality matters. Two users with the same hash are both looked up again when one of them changes.
/// It is not the user's key, and `Debug` does not print it, because a key that can be guessed can be
/// recognized by its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(u64);

impl UserKey {
    /// A user whose key has this hash. For implementations of
    /// [`SessionLookup`](crate::store::SessionLookup) and [`SessionFeed`](crate::feed::SessionFeed).
    pub const fn from_hash(hash: u64) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserKey").finish_non_exhaustive()
    }
}
