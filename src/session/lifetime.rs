//! How long a session lives.

use std::time::Duration;

use crate::{Error, ErrorKind};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a session lives: an absolute limit, and optionally a limit on the time it may lie idle.
///
/// Both are decided inside the lookup, by the database's clock, strictly: a session is dead at the
/// instant of its limit. A contradictory pair cannot be made.
///
/// The default is 30 days, with no idle limit (OWASP ASVS 5.0, 7.1.1 and 7.3.2; NIST SP 800-63B-4
/// §2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    absolute: Duration,
    idle: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            absolute: 30 * DAY,
            idle: None,
        }
    }
}

impl Lifetime {
    /// The shortest limit that can be set: one second.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// The longest limit that can be set: 400 days, the longest that a browser keeps a cookie
    /// (RFC 6265bis §5.5).
    pub const LONGEST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

    /// Sessions that end this long after they began.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] unless `absolute` lies between [`SHORTEST`](Self::SHORTEST) and
    /// [`LONGEST`](Self::LONGEST).
    pub fn absolute(absolute: Duration) -> Result<Self, Error> {
        Ok(Self {
            absolute: bounded(absolute)?,
            idle: None,
        })
    }

    /// NIST SP 800-63B-4 §2.1.3, AAL1: 30 days, no idle limit.
    pub const fn nist_aal1() -> Self {
        Self {
            absolute: Duration::from_secs(30 * 24 * 60 * 60),
            idle: None,
        }
    }

    /// The absolute limit.
    pub const fn absolute_limit(&self) -> Duration {
        self.absolute
    }

    /// The limit on lying idle, where there is one.
    pub const fn idle_limit(&self) -> Option<Duration> {
        self.idle
    }
}

fn bounded(limit: Duration) -> Result<Duration, Error> {
    if (Lifetime::SHORTEST..=Lifetime::LONGEST).contains(&limit) {
        Ok(limit)
    } else {
        let context = "a session's limit must lie between one second and 400 days";
        Err(Error::bare(ErrorKind::Configuration).saying(context))
    }
}
