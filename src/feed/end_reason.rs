//! The reasons why a wait for the end of a session ends.

/// The reason why a session ended, or why the wait for its end was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The session was signed out, revoked or replaced, or its user was deleted or is no longer
    /// allowed to be signed in.
    Revoked,
    /// One of the session's limits has passed.
    Expired,
    /// The store cannot decide whether the session is live, because the rows of the session make
    /// the query fail. For example, a condition that divides by a column of the user's row fails if
    /// that column is zero. A lookup of the session fails too.
    Undecidable,
    /// The service was closed, its runtime is shutting down, or the call was made outside of a
    /// runtime. The session may be live.
    ServiceClosed,
}
