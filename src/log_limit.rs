//! Rate limiting for log events that a client can trigger.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Minimum time between two events of one limiter.
const INTERVAL: Duration = Duration::from_secs(10);

/// Allows one log event per interval, and counts the occurrences since the last event.
#[derive(Debug)]
pub(crate) struct LogLimiter {
    start: Instant,
    /// Milliseconds after `start` at which the next event may be logged.
    open_at: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            open_at: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl LogLimiter {
    /// Counts an occurrence. Returns `Some(n)` if the caller must log an event. `n` is the number
    /// of occurrences since the last event, including this occurrence.
    pub(crate) fn count(&self) -> Option<u64> {
        self.count_at(self.start.elapsed())
    }

    fn count_at(&self, elapsed: Duration) -> Option<u64> {
        self.suppressed.fetch_add(1, Relaxed);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, open_at) = (millis(elapsed), self.open_at.load(Relaxed));
        let next = now.saturating_add(millis(INTERVAL));
        let won = now >= open_at
            && self
                .open_at
                .compare_exchange(open_at, next, Relaxed, Relaxed)
                .is_ok();
        won.then(|| self.suppressed.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I12
    #[test]
    fn a_flood_is_one_event_with_a_count() {
        let limiter = LogLimiter::default();
        assert_eq!(limiter.count_at(Duration::ZERO), Some(1));
        for _ in 0..999 {
            assert_eq!(limiter.count_at(INTERVAL / 2), None);
        }
        assert_eq!(limiter.count_at(INTERVAL), Some(1000));
        assert_eq!(limiter.count_at(INTERVAL), None);
    }
}
