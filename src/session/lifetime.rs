//! How long a session lives.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long a session lives: an absolute limit, and a limit on the time it may lie idle.
///
/// Both are decided inside the lookup, by the store's clock, strictly: a session is dead at the
/// instant of its limit. A contradictory pair cannot be made.
///
/// | | absolute | idle | source |
/// |---|---|---|---|
/// | [`default`](Self::default) | 30 days | 14 days | OWASP ASVS 5.0, 7.3.1 and 7.3.2 |
/// | [`nist_aal1`](Self::nist_aal1) | 30 days | none | NIST SP 800-63B-4 §2.1.3 |
/// | [`nist_aal2`](Self::nist_aal2) | 24 hours | 1 hour | NIST SP 800-63B-4 §2.2.3 |
/// | [`nist_aal3`](Self::nist_aal3) | 12 hours | 15 minutes | NIST SP 800-63B-4 §2.3.3 |
///
/// # Changing a limit
///
/// The limits of the service that looks a session up count, also for sessions that began under other limits. A
/// shorter limit ends existing sessions. A longer idle limit applies to existing sessions, too. A longer absolute
/// limit does not: a session never outlives the limit that was set when it began.
///
/// # The idle limit, to the second
///
/// A lookup never writes. That a session is used is written down in the background, at most once an
/// interval: five minutes, or a fifteenth of the idle limit where that is less
/// ([`touch_interval`](Self::touch_interval)), with the time of the request. So a session that is
/// used no more ends **at the latest** when the idle limit has passed since its last request, and
/// **at the earliest** one interval before that: for AAL3, after 14 to 15 minutes. Where the database accepts no
/// writes, sessions are not written down as used and end by the idle limit all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    absolute: Duration,
    idle: Option<Duration>,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self::of(30 * DAY, Some(14 * DAY))
    }
}

impl Lifetime {
    /// The shortest limit that can be set: one second.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// The longest limit that can be set: 400 days, the longest that a browser keeps a cookie
    /// (RFC 6265bis §5.5).
    pub const LONGEST: Duration = Duration::from_secs(400 * DAY);

    const fn of(absolute: u64, idle: Option<u64>) -> Self {
        let idle = match idle {
            Some(idle) => Some(Duration::from_secs(idle)),
            None => None,
        };
        Self {
            absolute: Duration::from_secs(absolute),
            idle,
        }
    }

    /// Sessions that end this long after they began, however much they are used.
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

    /// Ends sessions also when they have not been used for this long.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when `idle` is shorter than [`SHORTEST`](Self::SHORTEST), or not
    /// shorter than the absolute limit, which would leave it without effect.
    pub fn with_idle(self, idle: Duration) -> Result<Self, Error> {
        if bounded(idle)? >= self.absolute {
            let context = "the idle limit must be shorter than the absolute one";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(Self {
            idle: Some(idle),
            ..self
        })
    }

    /// Authentication assurance level 1: 30 days, and no idle limit.
    pub const fn nist_aal1() -> Self {
        Self::of(30 * DAY, None)
    }

    /// Authentication assurance level 2: 24 hours, and one hour idle.
    pub const fn nist_aal2() -> Self {
        Self::of(24 * HOUR, Some(HOUR))
    }

    /// Authentication assurance level 3: 12 hours, and 15 minutes idle.
    pub const fn nist_aal3() -> Self {
        Self::of(12 * HOUR, Some(15 * MINUTE))
    }

    /// The absolute limit.
    pub const fn absolute_limit(&self) -> Duration {
        self.absolute
    }

    /// The limit on lying idle, where there is one.
    pub const fn idle_limit(&self) -> Option<Duration> {
        self.idle
    }

    /// How long after a session was written down as used it is written down again.
    pub fn touch_interval(&self) -> Duration {
        let longest = Duration::from_secs(5 * MINUTE);
        self.idle.map_or(longest, |idle| longest.min(idle / 15))
    }
}

fn bounded(limit: Duration) -> Result<Duration, Error> {
    if (Lifetime::SHORTEST..=Lifetime::LONGEST).contains(&limit) {
        Ok(limit)
    } else {
        let context = "a session's limit must lie between one second and 400 days";
        Err(Error::from_kind(ErrorKind::Configuration).with_message(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_those_of_nist_sp_800_63b_4() {
        let hours = |lifetime: Lifetime| {
            (
                lifetime.absolute_limit().as_secs(),
                lifetime.idle_limit().map(|idle| idle.as_secs()),
            )
        };
        assert_eq!(hours(Lifetime::nist_aal1()), (2_592_000, None));
        assert_eq!(hours(Lifetime::nist_aal2()), (86_400, Some(3_600)));
        assert_eq!(hours(Lifetime::nist_aal3()), (43_200, Some(900)));
    }

    /// H03, L03: limits that contradict each other, or mean nothing, cannot be made.
    #[test]
    fn contradictory_limits_are_refused() {
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(HOUR);
        for absolute in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
            assert!(Lifetime::absolute(absolute).is_err(), "{absolute:?}");
        }
        assert!(Lifetime::absolute(Duration::from_secs(i64::MAX.unsigned_abs())).is_err());
        let lifetime = Lifetime::absolute(hour).unwrap();
        for idle in [Duration::ZERO, hour, hour + second, Duration::MAX] {
            assert!(lifetime.with_idle(idle).is_err(), "{idle:?}");
        }
        let lifetime = lifetime.with_idle(second * 3599).unwrap();
        assert_eq!(lifetime.touch_interval(), second * 3599 / 15);
        assert_eq!(
            lifetime.with_idle(second).unwrap().touch_interval(),
            second / 15
        );
        assert_eq!(
            Lifetime::nist_aal3().touch_interval(),
            Duration::from_secs(MINUTE)
        );
        assert_eq!(
            Lifetime::default().touch_interval(),
            Duration::from_secs(5 * MINUTE)
        );
    }
}
