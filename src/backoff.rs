//! Exponential backoff with jitter.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};

/// Pauses between attempts. Each is twice as long as the one before, up to `longest`.
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

/// Returns a random time from half to one and a half times as long.
///
/// Processes that started together, or lost the same server, then do not retry at the same time.
pub(crate) fn jittered(time: Duration) -> Duration {
    // Without randomness there is no jitter. A sign-in reports the failure of the generator.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}
