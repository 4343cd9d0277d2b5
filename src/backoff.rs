//! Pauses that processes do not share.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};

/// The pauses between attempts: each twice as long as the one before, up to the longest.
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

    /// How long to wait after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = (2 * self.next).min(self.longest);
        pause
    }
}

/// Between half and one and a half times as long, so that processes that started together, or that lost
/// the same server, do not stay together.
pub(crate) fn jittered(time: Duration) -> Duration {
    // Where there is no randomness there is no jitter; sign-in reports that.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}
