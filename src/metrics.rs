//! Request and lookup counters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a [`SessionService`](crate::service::SessionService) since it was built, for an
/// application's metrics. No counter is per user or per session.
///
/// The first four fields are the outcomes of requests that passed through
/// [`LoadUserLayer`](crate::load_user::LoadUserLayer). Requests that are
/// [exempt](crate::load_user::LoadUserLayer::exempt) are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionMetrics {
    /// Requests with a live session.
    pub authenticated: u64,
    /// Requests without a token: no session cookie and, if bearer tokens are enabled, no bearer
    /// token.
    pub anonymous: u64,
    /// Requests whose token was malformed or ambiguous, or belonged to no live session.
    pub rejected: u64,
    /// Requests whose lookup failed. The response is 503 by default.
    pub unavailable: u64,
    /// Tokens looked up, by the layer and by calls of the service.
    pub lookups: u64,
    /// Lookups that the cache answered. These lookups are also counted in `lookups`.
    pub from_cache: u64,
    /// Queries sent to the store. One query contains all lookups of a batch.
    pub statements: u64,
    /// Session events that were dropped, because the
    /// [observer](crate::service::SessionServiceBuilder::on_event) was slower than the events.
    pub events_dropped: u64,
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
    EventsDropped,
}

/// The counters are separate atomics, because no reader needs a consistent snapshot of all
/// counters.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; 8]);

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
            events_dropped: read(Counter::EventsDropped),
        }
    }
}
