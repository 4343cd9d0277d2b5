//! Outages of one part of the service: the first failure begins one, and a later success ends it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::log_limit::LogLimiter;

/// Decides which failures of one operation are logged, and when the operation has recovered.
///
/// A recovery is reported only if a failure of the same outage was. Therefore there are at most as
/// many events about recoveries as about failures, which are limited.
#[derive(Debug)]
pub(crate) struct Outage {
    limiter: LogLimiter,
    /// Time without a failure after which a success ends the outage.
    ///
    /// It is above zero if one operation can fail while another one succeeds, such as lookups of
    /// different users. Each success between two failures would otherwise be a recovery.
    quiet: Duration,
    /// Whether an outage was reported. A success reads nothing else while there is none.
    reported: AtomicBool,
    failures: Mutex<Option<Failures>>,
    /// The name and the message of the event that reports the recovery.
    recovered: (&'static str, &'static str),
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    first: Instant,
    last: Instant,
    count: u64,
}

/// The end of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recovery {
    /// The time from the first failure to the success.
    after: Duration,
    failures: u64,
}

impl Outage {
    /// Creates the state, with the name and the message of the event that reports a recovery.
    pub(crate) fn new(quiet: Duration, event: &'static str, message: &'static str) -> Self {
        Self {
            limiter: LogLimiter::default(),
            quiet,
            reported: AtomicBool::new(false),
            failures: Mutex::new(None),
            recovered: (event, message),
        }
    }

    /// Counts a failure. Returns `Some(n)` if it must be logged: it is the n-th since the last
    /// event that was logged.
    pub(crate) fn failed(&self) -> Option<u64> {
        self.failed_at(Instant::now())
    }

    /// Counts a success. Logs the end of the outage, if it is one.
    pub(crate) fn succeeded(&self) {
        if let Some(Recovery { after, failures }) = self.recovery() {
            let (event, message) = self.recovered;
            tracing::info!(
                target: "tower_user_session",
                event,
                ?after,
                failures,
                "{message}"
            );
        }
    }

    fn recovery(&self) -> Option<Recovery> {
        if !self.reported.load(Relaxed) {
            return None;
        }
        self.succeeded_at(Instant::now())
    }

    fn failed_at(&self, now: Instant) -> Option<u64> {
        let mut failures = self.failures();
        // A failure of which no event was logged belongs to no outage once the operation is quiet.
        let current = failures
            .filter(|failures| self.reported.load(Relaxed) || now - failures.last <= self.quiet);
        *failures = Some(Failures {
            first: current.map_or(now, |failures| failures.first),
            last: now,
            count: current.map_or(0, |failures| failures.count) + 1,
        });
        let logged = self.limiter.count();
        if logged.is_some() {
            self.reported.store(true, Relaxed);
        }
        logged
    }

    fn succeeded_at(&self, now: Instant) -> Option<Recovery> {
        let mut failures = self.failures();
        let Failures { first, last, count } = (*failures)?;
        if now.saturating_duration_since(last) < self.quiet {
            return None;
        }
        *failures = None;
        self.reported.store(false, Relaxed);
        Some(Recovery {
            after: now.saturating_duration_since(first),
            failures: count,
        })
    }

    fn failures(&self) -> MutexGuard<'_, Option<Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn outage(quiet: Duration) -> Outage {
        Outage::new(quiet, "recovered", "recovered")
    }

    /// Q03: a recovery has the time since the first failure, and is reported once.
    #[test]
    fn recovery_is_reported_once_after_a_reported_failure() {
        let outage = outage(Duration::ZERO);
        let start = Instant::now();
        assert_eq!(outage.recovery(), None);
        assert_eq!(outage.failed_at(start), Some(1));
        assert_eq!(outage.failed_at(start + SECOND), None);
        let recovery = Recovery {
            after: 3 * SECOND,
            failures: 2,
        };
        assert_eq!(outage.succeeded_at(start + 3 * SECOND), Some(recovery));
        assert_eq!(outage.recovery(), None);
    }

    /// Q03: a failure that the limit suppressed has no recovery.
    #[test]
    fn recovery_of_a_suppressed_failure_is_not_reported() {
        let outage = outage(Duration::ZERO);
        let start = Instant::now();
        for _ in 0..3 {
            let reported = outage.failed_at(start).is_some();
            assert_eq!(outage.recovery().is_some(), reported);
        }
    }

    /// Q03: while some operations fail and others succeed, the outage continues.
    #[test]
    fn success_between_failures_is_no_recovery() {
        let outage = outage(SECOND);
        let start = Instant::now();
        for tenth in 0..100 {
            let now = start + tenth * SECOND / 10;
            let _ = outage.failed_at(now);
            assert_eq!(outage.succeeded_at(now + SECOND / 20), None);
        }
        let recovery = outage.succeeded_at(start + 11 * SECOND);
        assert_eq!(recovery.map(|recovery| recovery.failures), Some(100));
    }
}
