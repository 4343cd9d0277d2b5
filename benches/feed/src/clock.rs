//! A clock shared by all processes, and processor time.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use tower_user_session::BoxError;

/// Nanoseconds, by one clock for all processes of the machine.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(crate) fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// Seconds that this process was on a processor.
pub(crate) fn on_cpu(pid: i32) -> Result<f64, BoxError> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanos: f64 = schedstat.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanos / 1e9)
}

/// Bytes of this process's memory that are in use.
pub(crate) fn resident() -> Result<u64, BoxError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line
        .and_then(|line| line.trim().split(' ').next())
        .ok_or("no VmRSS in /proc/self/status")?
        .parse()?;
    Ok(kibibytes * 1024)
}
