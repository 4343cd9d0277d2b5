//! How often what happened.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often what happened since a [`SessionService`](crate::service::SessionService) was built, for an
/// application's metrics. No count is per user or per session.
///
/// The four outcomes count requests that went through [`LoadUserLayer`](crate::load_user::LoadUserLayer);
/// requests that it was told to leave alone are counted nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionMetrics {
    /// Requests with a live session.
    pub authenticated: u64,
    /// Requests without our cookie.
    pub anonymous: u64,
    /// Requests whose cookie was malformed, ambiguous, or of no live session.
    pub rejected: u64,
    /// Requests that were answered with 503.
    pub unavailable: u64,
    /// Tokens asked about, by the layer and by calls to the service.
    pub lookups: u64,
    /// Of these, those that were answered from the cache.
    pub from_cache: u64,
    /// Questions sent to the store. One carries the lookups of many requests.
    pub statements: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Authenticated,
    Anonymous,
    Rejected,
    Unavailable,
    Lookups,
    FromCache,
    Statements,
}

/// Separate words: they are only ever read together for a person.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; 7]);

impl Counters {
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.0[counter as usize].fetch_add(n, Relaxed);
    }

    pub(crate) fn read(&self) -> SessionMetrics {
        let read = |counter: Counter| self.0[counter as usize].load(Relaxed);
        SessionMetrics {
            authenticated: read(Counter::Authenticated),
            anonymous: read(Counter::Anonymous),
            rejected: read(Counter::Rejected),
            unavailable: read(Counter::Unavailable),
            lookups: read(Counter::Lookups),
            from_cache: read(Counter::FromCache),
            statements: read(Counter::Statements),
        }
    }
}
