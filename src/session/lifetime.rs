//! The time limits of a session.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The time limits of a session: an absolute limit, and an optional idle limit.
///
/// The lookup checks both with the store's clock. A session has expired at the instant of its
/// limit. Every value of this type is consistent: the idle limit is shorter than the absolute
/// limit.
///
/// | preset | absolute | idle | source |
/// |---|---|---|---|
/// | [`default`](Self::default) | 30 days | 14 days | OWASP ASVS 5.0, 7.3.1 and 7.3.2 |
/// | [`nist_aal1`](Self::nist_aal1) | 30 days | none | NIST SP 800-63B-4 §2.1.3 |
/// | [`nist_aal2`](Self::nist_aal2) | 24 hours | 1 hour | NIST SP 800-63B-4 §2.2.3 |
/// | [`nist_aal3`](Self::nist_aal3) | 12 hours | 15 minutes | NIST SP 800-63B-4 §2.3.3 |
///
/// # Changing a limit
///
/// A lookup applies the limits of its own service, also to sessions that began under other limits.
/// A shorter limit expires existing sessions. A longer idle limit applies to existing sessions,
/// too. A longer absolute limit does not apply to them: a session never outlives the limit that was
/// set when the session began.
///
/// # Precision of the idle limit
///
/// A lookup never writes. The use of a session is recorded in the background with the time of the
/// request, at most once per interval. The interval is five minutes, or a fifteenth of the idle
/// limit if that is less ([`touch_interval`](Self::touch_interval)).
///
/// A session that is not used again expires **at the latest** when the idle limit has passed since
/// its last request. It expires **at the earliest** one interval before that time. With the limits
/// of AAL3, it expires 14 to 15 minutes after its last request.
///
/// If the database is read-only, uses are not recorded, and sessions in use reach the idle limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias("expiry", "timeout", "ttl", "max_age"))]
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
    /// The shortest limit: one second.
    pub const SHORTEST: Duration = Duration::from_secs(1);
    /// The longest limit: 400 days, the maximum age of a cookie in browsers (RFC 6265bis §5.5).
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

    /// Creates a lifetime with an absolute limit and no idle limit.
    ///
    /// Sessions expire this long after they began, even if they are used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] unless `absolute` is between [`SHORTEST`](Self::SHORTEST) and
    /// [`LONGEST`](Self::LONGEST).
    pub fn absolute(absolute: Duration) -> Result<Self, Error> {
        Ok(Self {
            absolute: bounded(absolute)?,
            idle: None,
        })
    }

    /// Adds an idle limit: sessions also expire when they have not been used for this long.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if `idle` is shorter than [`SHORTEST`](Self::SHORTEST), or not
    /// shorter than the absolute limit. An idle limit that is not shorter would have no effect.
    pub fn with_idle(self, idle: Duration) -> Result<Self, Error> {
        if bounded(idle)? >= self.absolute {
            let context = "the idle limit must be shorter than the absolute limit";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(Self {
            idle: Some(idle),
            ..self
        })
    }

    /// Returns the limits of authentication assurance level 1: 30 days, and no idle limit.
    pub const fn nist_aal1() -> Self {
        Self::of(30 * DAY, None)
    }

    /// Returns the limits of authentication assurance level 2: 24 hours, and one hour idle.
    pub const fn nist_aal2() -> Self {
        Self::of(24 * HOUR, Some(HOUR))
    }

    /// Returns the limits of authentication assurance level 3: 12 hours, and 15 minutes idle.
    pub const fn nist_aal3() -> Self {
        Self::of(12 * HOUR, Some(15 * MINUTE))
    }

    /// Returns the absolute limit.
    pub const fn absolute_limit(&self) -> Duration {
        self.absolute
    }

    /// Returns the idle limit, if there is one.
    pub const fn idle_limit(&self) -> Option<Duration> {
        self.idle
    }

    /// Returns the minimum time between two recorded uses of a session.
    ///
    /// It is five minutes, or a fifteenth of the idle limit if that is less.
    pub fn touch_interval(&self) -> Duration {
        let longest = Duration::from_secs(5 * MINUTE);
        self.idle.map_or(longest, |idle| longest.min(idle / 15))
    }
}

fn bounded(limit: Duration) -> Result<Duration, Error> {
    if (Lifetime::SHORTEST..=Lifetime::LONGEST).contains(&limit) {
        Ok(limit)
    } else {
        let context = "a session limit must be between one second and 400 days";
        Err(Error::from_kind(ErrorKind::Configuration).with_message(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_those_of_nist_sp_800_63b_4() {
        let seconds = |lifetime: Lifetime| {
            (
                lifetime.absolute_limit().as_secs(),
                lifetime.idle_limit().map(|idle| idle.as_secs()),
            )
        };
        assert_eq!(seconds(Lifetime::nist_aal1()), (2_592_000, None));
        assert_eq!(seconds(Lifetime::nist_aal2()), (86_400, Some(3_600)));
        assert_eq!(seconds(Lifetime::nist_aal3()), (43_200, Some(900)));
    }

    /// H03, L03: contradictory and out-of-range limits are rejected.
    #[test]
    fn contradictory_limits_are_rejected() {
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
