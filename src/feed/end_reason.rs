//! The reasons for which a wait for the end of a session ends.

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It was ended: signed out, revoked, replaced, or its user is gone or may not be signed in.
    Revoked,
    /// One of its limits has passed.
    Expired,
    /// The store cannot decide whether the session is live, because of what its own rows contain. A condition that
    /// divides by a column of the user's row, for example, fails if that column is zero. A lookup of the session
    /// fails too.
    Undecidable,
    /// The service was closed, or its runtime is shutting down, or there is none. Nothing is known about the
    /// session.
    ServiceClosed,
}
