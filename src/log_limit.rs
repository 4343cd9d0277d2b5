//! Log events that a client can cause, at a rate that it cannot.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// At most one event of a kind in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one event through an interval, and tells it how many there were since the last one.
#[derive(Debug)]
pub(crate) struct LogLimiter {
    start: Instant,
    /// Milliseconds after `start` from which on the next event may pass.
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
    /// `Some(n)` when this event is to be logged, as the n-th since the last one that was.
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
    fn a_flood_is_one_event_that_says_how_many() {
        let notice = LogLimiter::default();
        assert_eq!(notice.count_at(Duration::ZERO), Some(1));
        for _ in 0..999 {
            assert_eq!(notice.count_at(INTERVAL / 2), None);
        }
        assert_eq!(notice.count_at(INTERVAL), Some(1000));
        assert_eq!(notice.count_at(INTERVAL), None);
    }
}
