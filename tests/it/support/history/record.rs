//! What a run writes down.

use std::time::{Duration, SystemTime};

/// What a process asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    SignIn,
    /// One session, by signing out, by its public name, or by a sign-in that replaces it.
    Revoke,
    RevokeAll,
    /// A user's row changes, and the change is announced.
    Disable,
    /// The same in a transaction that stays open for a while.
    DisableSlowly,
    /// A row changes that lookups join to the user's. Nothing announces it.
    Suspend,
    Lookup,
    /// What the database's clock says.
    Clock,
}

/// Whom or what it was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    User(i64),
    /// A session's number in this run.
    Session(u32),
    Nothing,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A sign-in of this user that succeeded, and when the session ends by the database's clock.
    Began {
        user: i64,
        expires: SystemTime,
    },
    /// Another write that succeeded.
    Done,
    /// The user may not sign in.
    Refused,
    /// A lookup that found this user.
    Found(i64),
    /// A lookup that found nobody.
    Nobody,
    /// An error that says that nothing happened; for a lookup, any error.
    Unavailable,
    /// An error that leaves open whether it happened. It may still happen at any later time.
    Unknown,
    /// The client went away. The same, but no error.
    Abandoned,
    Time(SystemTime),
}

impl Operation {
    /// Whether it is done past the library.
    pub fn is_an_operators(self) -> bool {
        matches!(self, Self::Disable | Self::DisableSlowly | Self::Suspend)
    }
}

impl Outcome {
    /// Whether a client that asked for it got an error.
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
    /// Which process asked for it; `None` for what is done past the library.
    pub process: Option<usize>,
    pub operation: Operation,
    pub key: Key,
    pub invoked: Duration,
    pub returned: Duration,
    pub result: Outcome,
}

/// A time in which something was broken on purpose.
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
    /// So long after a session was ended, other processes may answer as if it had not been: zero unless
    /// they keep answers in memory.
    pub bound: Duration,
    /// The same for a change that nothing announces.
    pub unannounced: Duration,
}
