//! The records of a run.

use std::time::{Duration, SystemTime};

/// The operation that a process invoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    SignIn,
    /// Ends one session, by signing out, by its public id, or by a sign-in that replaces it.
    Revoke,
    RevokeAll,
    /// A user's row changes, and the change is announced.
    Disable,
    /// The same in a transaction that stays open for a while.
    DisableSlowly,
    /// A row changes that lookups join to the user's. No notification announces it.
    Suspend,
    /// Sets a session column.
    Update,
    Lookup,
    /// A reading of the database's clock.
    Clock,
}

/// The subject of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    User(i64),
    /// A session's number in this run.
    Session(u32),
    Nothing,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A sign-in of this user that succeeded, and when the session ends by the database's clock.
    Began {
        user: i64,
        expires: SystemTime,
    },
    /// Another write that succeeded.
    Done,
    /// The user may not sign in, or the session to update is not live.
    Refused,
    /// A lookup that found this user.
    Found(i64),
    /// A lookup that found no user.
    Absent,
    /// An error that reports that nothing happened. For a lookup, any error.
    Unavailable,
    /// An error that leaves the outcome unknown. The operation may still happen at any later time.
    Unknown,
    /// The client disconnected. The outcome is unknown, but this is no error.
    Abandoned,
    Time(SystemTime),
}

impl Operation {
    /// Whether an operator does it, outside of the library.
    pub fn is_an_operators(self) -> bool {
        matches!(self, Self::Disable | Self::DisableSlowly | Self::Suspend)
    }
}

impl Outcome {
    /// Whether a client got an error.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Unavailable | Self::Unknown)
    }

    /// Whether a write with this outcome may have taken effect.
    pub fn may_have_happened(self) -> bool {
        matches!(self, Self::Done | Self::Unknown | Self::Abandoned)
    }
}

/// One operation, by one monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The process that invoked it; `None` for an operation outside of the library.
    pub process: Option<usize>,
    pub operation: Operation,
    pub key: Key,
    pub invoked: Duration,
    pub returned: Duration,
    pub result: Outcome,
    /// The value that an update wrote or a lookup found. No two updates write the same value, and
    /// zero is the value of a new session.
    pub value: i64,
}

/// A period with a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub name: &'static str,
    pub from: Duration,
    pub to: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub records: Vec<Record>,
    pub faults: Vec<Fault>,
    /// How long after the end of a session other processes may still return it: zero unless they
    /// have a cache.
    pub bound: Duration,
    /// The same for a change without a notification.
    pub unannounced: Duration,
}
