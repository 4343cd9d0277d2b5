//! The hash that identifies a user in invalidations.

use std::fmt;

/// A 64-bit hash of a user's key, which the store computes. A
/// [`SessionFeed`](crate::feed::SessionFeed) uses it to identify users.
///
/// Only equality matters. If two users have the same hash, a change of one user invalidates the
/// sessions of both. `Debug` does not print the hash. If a user's key can be guessed, the hash
/// would confirm the guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(u64);

impl UserKey {
    /// Creates a key from a hash.
    ///
    /// For implementations of [`SessionLookup`](crate::store::SessionLookup) and
    /// [`SessionFeed`](crate::feed::SessionFeed).
    pub const fn from_hash(hash: u64) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserKey").finish_non_exhaustive()
    }
}
