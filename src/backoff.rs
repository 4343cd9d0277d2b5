//! Exponential backoff with jitter.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};

/// Pauses between attempts. Each pause is twice as long as the previous pause, up to `longest`.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) const fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            next: shortest,
            longest,
        }
    }

    /// Returns how long to wait after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = (2 * self.next).min(self.longest);
        pause
    }
}

/// Returns a random duration of 0.5 to 1.5 times `time`.
///
/// Without this jitter, processes that started together or lost the same server would retry at the
/// same time.
pub(crate) fn jittered(time: Duration) -> Duration {
    // If the random number generator fails, there is no jitter. A sign-in reports that failure.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}
