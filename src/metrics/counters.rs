//! The counters and histograms that requests and operations update.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::metrics::{SessionMetrics, histogram::Recorder};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    Authenticated,
    Anonymous,
    Rejected,
    RejectedMalformed,
    RejectedAmbiguous,
    Unavailable,
    Lookups,
    FromCache,
    LookupsLive,
    LookupsAbsent,
    LookupsFailed,
    Statements,
    StatementsFailed,
    SignIns,
    SignInsNotAllowed,
    SignInsTooMany,
    SignInsFailed,
    Reauthentications,
    ReauthenticationsNotFound,
    ReauthenticationsFailed,
    SignOuts,
    SignOutsWithoutSession,
    SignOutsFailed,
    Updates,
    UpdatesNotFound,
    UpdatesFailed,
    Revocations,
    RevocationsFailed,
    SessionsRevoked,
    UsesRecorded,
    UsesFailed,
    ExpiredDeleted,
    DeletionsFailed,
    EventsDropped,
}

const COUNTERS: usize = Counter::EventsDropped as usize + 1;

/// Separate atomics: no reader needs a consistent snapshot of all counters.
#[derive(Debug)]
pub(crate) struct Counters {
    totals: [AtomicU64; COUNTERS],
    query_time: Recorder,
    queue_wait: Recorder,
    sign_in_time: Recorder,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            totals: array::from_fn(|_| AtomicU64::new(0)),
            query_time: Recorder::default(),
            queue_wait: Recorder::default(),
            sign_in_time: Recorder::default(),
        }
    }
}

impl Counters {
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        self.totals[counter as usize].fetch_add(n, Relaxed);
    }

    /// Counts one operation by its outcome.
    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Records how long a batch waited before it was sent.
    pub(crate) fn waited(&self, time: Duration) {
        self.queue_wait.record(time);
    }

    /// Records a statement and its time.
    pub(crate) fn queried(&self, time: Duration, failed: bool) {
        self.query_time.record(time);
        if failed {
            self.count(Counter::StatementsFailed);
        }
    }

    /// Records the time of a sign-in.
    pub(crate) fn signed_in(&self, time: Duration) {
        self.sign_in_time.record(time);
    }

    /// Returns the counters and histograms. The gauges and the store's metrics are not set.
    pub(crate) fn read(&self) -> SessionMetrics {
        use Counter as C;
        let read = |counter: Counter| self.totals[counter as usize].load(Relaxed);
        SessionMetrics {
            authenticated: read(C::Authenticated),
            anonymous: read(C::Anonymous),
            rejected: read(C::Rejected),
            rejected_malformed: read(C::RejectedMalformed),
            rejected_ambiguous: read(C::RejectedAmbiguous),
            unavailable: read(C::Unavailable),
            lookups: read(C::Lookups),
            from_cache: read(C::FromCache),
            lookups_live: read(C::LookupsLive),
            lookups_absent: read(C::LookupsAbsent),
            lookups_failed: read(C::LookupsFailed),
            statements: read(C::Statements),
            statements_failed: read(C::StatementsFailed),
            query_time: self.query_time.read(),
            queue_wait: self.queue_wait.read(),
            sign_ins: read(C::SignIns),
            sign_ins_not_allowed: read(C::SignInsNotAllowed),
            sign_ins_too_many: read(C::SignInsTooMany),
            sign_ins_failed: read(C::SignInsFailed),
            sign_in_time: self.sign_in_time.read(),
            reauthentications: read(C::Reauthentications),
            reauthentications_not_found: read(C::ReauthenticationsNotFound),
            reauthentications_failed: read(C::ReauthenticationsFailed),
            sign_outs: read(C::SignOuts),
            sign_outs_without_session: read(C::SignOutsWithoutSession),
            sign_outs_failed: read(C::SignOutsFailed),
            updates: read(C::Updates),
            updates_not_found: read(C::UpdatesNotFound),
            updates_failed: read(C::UpdatesFailed),
            revocations: read(C::Revocations),
            revocations_failed: read(C::RevocationsFailed),
            sessions_revoked: read(C::SessionsRevoked),
            uses_recorded: read(C::UsesRecorded),
            uses_failed: read(C::UsesFailed),
            expired_deleted: read(C::ExpiredDeleted),
            deletions_failed: read(C::DeletionsFailed),
            events_dropped: read(C::EventsDropped),
            ..SessionMetrics::default()
        }
    }
}
