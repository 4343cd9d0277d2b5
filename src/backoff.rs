//! Pauses that processes do not share.

use std::time::Duration;

use rand::{TryRng, rngs::SysRng};

/// Between half and one and a half times as long, so that processes that started together, or that lost
/// the same server, do not stay together.
pub(crate) fn jittered(time: Duration) -> Duration {
    // Where there is no randomness there is no jitter; sign-in reports that.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}
