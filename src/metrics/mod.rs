//! Metrics of a session service: a snapshot of counters, gauges and latencies.
//!
//! [`SessionService::metrics`](crate::service::SessionService::metrics) returns a
//! [`SessionMetrics`], at the cost of some hundred atomic reads. An exporter takes one for each
//! scrape. [`SessionMetrics::samples`] lists the values with their names, for an exporter that does
//! not name each field.
//!
//! # Metrics
//!
//! Names follow Prometheus: a counter ends in `_total`, and times are in seconds.
//!
#![doc = include_str!("names.md")]
//!
//! No metric is per user or per session. A hit in the cache is counted and not timed. A request
//! that a [`RequireUserLayer`](crate::RequireUserLayer) rejects is in no counter of this crate: the
//! metrics of the HTTP server count its status.

pub(crate) mod counters;
#[cfg(feature = "metrics")]
mod exporter;
mod histogram;
mod samples;
mod store;

use std::time::Duration;

#[cfg(feature = "metrics")]
pub use self::exporter::MetricsExporter;
pub use self::{
    histogram::LatencyHistogram,
    samples::{Sample, SampleValue},
    store::StoreMetrics,
};

/// Counters, gauges and latencies of a [`SessionService`](crate::service::SessionService).
///
/// Counters and histograms are totals since the service was built. A gauge is the value at the time
/// of the call. No value is per user or per session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionMetrics {
    /// Requests with a live session. This field and the next three are the outcomes of requests
    /// that passed through [`LoadUserLayer`](crate::load_user::LoadUserLayer). Requests that are
    /// [exempt](crate::load_user::LoadUserLayer::exempt) are not counted.
    pub authenticated: u64,
    /// Requests without a token: no session cookie and, if bearer tokens are enabled, no bearer
    /// token.
    pub anonymous: u64,
    /// Requests whose token was malformed or ambiguous, or belonged to no live session.
    pub rejected: u64,
    /// Requests whose lookup failed. The response is 503 by default.
    pub unavailable: u64,
    /// Requests with a malformed token. They are part of `rejected`.
    pub rejected_malformed: u64,
    /// Requests with several tokens, of which it is not clear which one counts. They are part of
    /// `rejected`.
    pub rejected_ambiguous: u64,

    /// Tokens looked up, by the layer and by calls of the service.
    pub lookups: u64,
    /// Lookups that the cache answered. These lookups are also counted in `lookups`.
    pub from_cache: u64,
    /// Lookups for which the store found a live session. They are part of `lookups`, and so are
    /// `lookups_absent` and `lookups_failed`. A lookup that is in progress, or whose caller was
    /// cancelled before the batch was sent, is part of `lookups` only.
    pub lookups_live: u64,
    /// Lookups for which the store found no live session.
    pub lookups_absent: u64,
    /// Lookups that failed.
    pub lookups_failed: u64,

    /// Queries sent to the store. One query contains all lookups of a batch.
    pub statements: u64,
    /// Queries that failed. They are part of `statements`.
    pub statements_failed: u64,
    /// Time of a query, from its dispatch to its results. It includes the time to acquire a
    /// connection.
    pub query_time: LatencyHistogram,
    /// Time of a batch in the queue, from its first lookup to its dispatch.
    pub queue_wait: LatencyHistogram,

    /// Sign-ins that began a session.
    pub sign_ins: u64,
    /// Sign-ins of a user who does not exist or must not be signed in.
    pub sign_ins_not_allowed: u64,
    /// Sign-ins beyond the limit of sessions.
    pub sign_ins_too_many: u64,
    /// Sign-ins that failed for another reason. A failed sign-in in a transaction of the
    /// application is not counted.
    pub sign_ins_failed: u64,
    /// Time of a sign-in, whatever its outcome. Sign-ins in a transaction of the application are
    /// not included.
    pub sign_in_time: LatencyHistogram,

    /// Re-authentications that issued a new token.
    pub reauthentications: u64,
    /// Re-authentications without a live session of the user.
    pub reauthentications_not_found: u64,
    /// Re-authentications that failed for another reason.
    pub reauthentications_failed: u64,

    /// Sign-outs that ended a session.
    pub sign_outs: u64,
    /// Sign-outs without a live session.
    pub sign_outs_without_session: u64,
    /// Sign-outs that failed. The session may still be valid.
    pub sign_outs_failed: u64,

    /// Updates of session columns that succeeded.
    pub updates: u64,
    /// Updates of a session that is not live.
    pub updates_not_found: u64,
    /// Updates that failed for another reason.
    pub updates_failed: u64,

    /// Calls that revoke sessions, such as `revoke_all`, and that succeeded. Revocations in a
    /// transaction of the application are not counted.
    pub revocations: u64,
    /// Revocations that failed.
    pub revocations_failed: u64,
    /// Sessions that revocations ended.
    pub sessions_revoked: u64,

    /// Uses of sessions that were written to `last_seen_at`.
    pub uses_recorded: u64,
    /// Uses of sessions whose write failed.
    pub uses_failed: u64,
    /// Expired sessions that were deleted.
    pub expired_deleted: u64,
    /// Calls of `delete_expired` that failed.
    pub deletions_failed: u64,

    /// Session events that were dropped, because the
    /// [observer](crate::service::SessionServiceBuilder::on_event) was slower than the events.
    pub events_dropped: u64,

    /// Whether the feed is connected. `None` without a feed.
    pub feed_connected: Option<bool>,
    /// Time since the last heartbeat that came back was sent. `None` without a feed.
    pub feed_last_proof: Option<Duration>,
    /// Failures of the feed: lost connections, failed attempts to reconnect, and late heartbeats.
    pub feed_disconnects: u64,
    /// Sessions in the cache. `None` without a cache.
    pub cached_sessions: Option<u64>,
    /// Most sessions in the cache. `None` without a cache.
    pub cache_capacity: Option<u64>,

    /// Lookups in batches that were not sent.
    pub lookups_waiting: u64,
    /// Queries in progress.
    pub statements_in_flight: u64,
    /// Streams and other waits for the end of a session.
    pub watched_streams: u64,

    /// Metrics of the store.
    pub store: StoreMetrics,
}
