//! Limits on the attempts to guess a password.
//!
//! | attempts | at once | then |
//! |---|---|---|
//! | from one address (IPv6: from one /64 network) | 30 | one in 4 s |
//! | for one email address, from all addresses together | 20 | one in 30 s |
//!
//! Every check of a password counts, no matter whether it succeeds: OWASP ASVS 5.0, 6.3.1, and NIST
//! SP 800-63B-4 §3.2.2. The second limit also delays the user while an attack lasts. The state is
//! in this process, so several processes permit several times as many attempts.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use nonzero_ext::nonzero;

const FOR_AN_ADDRESS: Quota = Quota::per_minute(nonzero!(15_u32)).allow_burst(nonzero!(30_u32));
const FOR_AN_EMAIL: Quota = Quota::per_minute(nonzero!(2_u32)).allow_burst(nonzero!(20_u32));
/// Full quotas are removed from memory after this number of attempts.
const CLEANUP: u64 = 1_000;

/// The attempts of all clients. It is cheap to clone.
#[derive(Clone)]
pub(crate) struct Throttle(Arc<Limits>);

struct Limits {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    /// By hash, because a client chooses the text and its length.
    emails: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    attempts: AtomicU64,
}

/// Too many attempts. The next one is possible after this time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany(pub(crate) Duration);

impl Throttle {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Limits {
            addresses: RateLimiter::keyed(FOR_AN_ADDRESS),
            emails: RateLimiter::keyed(FOR_AN_EMAIL),
            hasher: RandomState::new(),
            attempts: AtomicU64::new(0),
        }))
    }

    /// Counts an attempt by this client.
    pub(crate) fn check_address(&self, ip: IpAddr) -> Result<(), TooMany> {
        self.count();
        let waiting = self.0.addresses.check_key(&network(ip));
        waiting.map_err(|until| TooMany(until.wait_time_from(DefaultClock::default().now())))
    }

    /// Counts an attempt for this user.
    pub(crate) fn check_email(&self, email: &str) -> Result<(), TooMany> {
        self.count();
        let email = self.0.hasher.hash_one(email.trim().to_lowercase());
        let waiting = self.0.emails.check_key(&email);
        waiting.map_err(|until| TooMany(until.wait_time_from(DefaultClock::default().now())))
    }

    fn count(&self) {
        if self.0.attempts.fetch_add(1, Relaxed) % CLEANUP == CLEANUP - 1 {
            self.0.addresses.retain_recent();
            self.0.emails.retain_recent();
        }
    }
}

/// A subscriber usually has a whole /64 network.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_limited_by_network_and_by_email() {
        let throttle = Throttle::new();
        let ip = |text: &str| text.parse().unwrap();
        for _ in 0..FOR_AN_ADDRESS.burst_size().get() {
            throttle.check_address(ip("192.0.2.7")).unwrap();
            throttle.check_address(ip("2001:db8::1")).unwrap();
        }
        for _ in 0..FOR_AN_EMAIL.burst_size().get() {
            throttle.check_email("ada@example.com").unwrap();
        }
        for limited in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::2"] {
            let TooMany(wait) = throttle.check_address(ip(limited)).unwrap_err();
            assert!(
                !wait.is_zero() && wait <= FOR_AN_ADDRESS.replenish_interval(),
                "{limited}"
            );
        }
        for free in ["192.0.2.8", "2001:db8:0:1::1"] {
            throttle.check_address(ip(free)).unwrap();
        }
        assert!(throttle.check_email(" ADA@example.com").is_err());
        throttle.check_email("eve@example.com").unwrap();
    }
}
