//! The pace of queries: decides whether a query is sent while others are in flight.
//!
//! The store spends some tens of microseconds on a query. The network round trip can take a hundred
//! times as long. If the latency is mostly the round trip, a lookup that waits for the response to
//! another query loses up to one round trip, and the store saves little. If the latency is mostly
//! the store, lookups that share a query save most of the store's time.
//!
//! Therefore each query occupies an *interval* (the generic cell rate algorithm, ITU-T I.371). The
//! intervals of the queries that were sent must fit into one round trip. After a pause, several
//! queries can be sent at once. At a high rate, the lookups that arrive within one interval share a
//! query. No timer runs: the pace is asked when a lookup arrives and when a query completes.

use std::time::{Duration, Instant};

/// The shortest round trip at which queries are sent at once. Below it, sharing a query saves more
/// time than waiting costs.
const MIN_ROUND_TRIP: Duration = Duration::from_micros(200);
/// The shortest interval: the time that the store and this process spend on a query.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
/// The number of queries after which the shortest times are measured again. The pace thus follows a
/// store whose distance has changed.
const WINDOW: u32 = 128;
/// The fewest digests of a query from which the time of one more digest is computed.
const MANY_DIGESTS: u32 = 8;
/// The longest time that one more digest of a query explains. A longer one is the distance of a
/// store that has moved.
const MAX_PER_DIGEST: Duration = Duration::from_micros(50);
/// The weight of the latest query in the moving average is one divided by this.
const SMOOTHING: u32 = 8;

#[derive(Debug)]
pub(super) struct Pace {
    /// The intervals in a round trip: half of the queries that may be in flight. The other half is
    /// for bursts.
    intervals: u32,
    /// The shortest time of a query: the round trip, while the store is idle.
    least: Shortest,
    /// The shortest time for each digest beyond the first of a query.
    least_per_digest: Shortest,
    in_window: u32,
    /// The moving average of the time for which queries wait at the store: the time of a query
    /// without the shortest time and without the time for its further digests.
    waiting: Duration,
    /// The end of the intervals of the queries that were sent.
    taken_until: Option<Instant>,
}

/// The shortest time in the last window, and in the current window.
#[derive(Debug, Default)]
struct Shortest {
    known: Option<Duration>,
    of_window: Option<Duration>,
}

impl Shortest {
    fn record(&mut self, time: Duration) {
        for shortest in [&mut self.known, &mut self.of_window] {
            *shortest = Some(shortest.map_or(time, |shortest| shortest.min(time)));
        }
    }

    fn end_window(&mut self) {
        self.known = self.of_window.take().or(self.known);
    }
}

impl Pace {
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self {
            intervals: u32::try_from(max_in_flight / 2).unwrap_or(u32::MAX).max(1),
            least: Shortest::default(),
            least_per_digest: Shortest::default(),
            in_window: 0,
            waiting: Duration::ZERO,
            taken_until: None,
        }
    }

    /// Records the time of a query with this many digests.
    pub(super) fn took(&mut self, time: Duration, digests: usize) {
        let further = u32::try_from(digests).unwrap_or(u32::MAX).saturating_sub(1);
        let mut round_trip = time;
        if further + 1 >= MANY_DIGESTS {
            let longer = time.saturating_sub(self.least.known.unwrap_or(time));
            self.least_per_digest.record(longer / further);
            // At a high rate every query has many digests. Their time is no round trip.
            let per_digest = self.per_digest().min(MAX_PER_DIGEST);
            round_trip = time.saturating_sub(per_digest * further);
        }
        self.least.record(round_trip);
        let longer = time.saturating_sub(self.least.known.unwrap_or(time));
        // One slow row must not slow down other lookups for long. Two queries always fit into a
        // round trip.
        let most = self.least.known.unwrap_or_default() / 2;
        let waiting = longer.saturating_sub(self.per_digest() * further).min(most);
        self.waiting = (self.waiting * (SMOOTHING - 1) + waiting) / SMOOTHING;
        self.in_window += 1;
        if self.in_window == WINDOW {
            self.least.end_window();
            self.least_per_digest.end_window();
            self.in_window = 0;
        }
    }

    fn per_digest(&self) -> Duration {
        self.least_per_digest.known.unwrap_or_default()
    }

    /// Records that a query is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        if let Some(least) = self.least.known {
            let from = self.taken_until.map_or(now, |until| until.max(now));
            self.taken_until = Some(from + self.interval(least));
        }
    }

    /// Returns whether the latency is mostly the round trip, and another query fits into it.
    pub(super) fn allows(&self, now: Instant) -> bool {
        let Some(least) = self.least.known.filter(|least| *least >= MIN_ROUND_TRIP) else {
            return false;
        };
        let taken = self
            .taken_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        taken + self.interval(least) <= least
    }

    /// Returns the interval of a query. It grows with the time for which queries wait at the store.
    fn interval(&self, least: Duration) -> Duration {
        (least / self.intervals).max(self.waiting).max(MIN_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(max_in_flight: usize, time: Duration) -> Pace {
        let mut pace = Pace::new(max_in_flight);
        pace.took(time, 1);
        pace
    }

    /// Returns how many queries are sent one after the other at this time.
    fn sent(pace: &mut Pace, now: Instant) -> usize {
        let mut sent = 0;
        while pace.allows(now) && sent < 1_000 {
            pace.sent(now);
            sent += 1;
        }
        sent
    }

    /// One line for each round trip: its time, and how many queries are sent at once: half of those
    /// that may be in flight, and at most one in 100 microseconds.
    #[test]
    fn half_of_the_queries_fit_into_a_round_trip() {
        for (time, expected) in [
            (Duration::ZERO, 0),
            (MS / 10, 0),
            (MS / 2, 5),
            (5 * MS, 10),
            (20 * MS, 10),
            (2_000 * MS, 10),
        ] {
            let now = Instant::now();
            let mut pace = pace(20, time);
            assert_eq!(sent(&mut pace, now), expected, "{time:?}");
            // Then one after each interval.
            if expected > 0 {
                let interval = time / u32::try_from(expected).unwrap();
                let just_before = now + interval.saturating_sub(MS / 100);
                assert_eq!(sent(&mut pace, just_before), 0, "{time:?}");
                assert_eq!(sent(&mut pace, now + interval), 1, "{time:?}");
            }
        }
    }

    #[test]
    fn without_a_time_nothing_follows_at_once() {
        assert_eq!(sent(&mut Pace::new(20), Instant::now()), 0);
    }

    /// While queries wait at the store, fewer queries are sent. Two always fit into a round trip.
    #[test]
    fn a_busy_store_gets_fewer_queries() {
        for (time, expected) in [(5 * MS, 10), (6 * MS, 5), (7 * MS, 2), (500 * MS, 2)] {
            let mut pace = pace(20, 5 * MS);
            for _ in 0..50 {
                pace.took(time, 1);
            }
            assert_eq!(sent(&mut pace, Instant::now()), expected, "{time:?}");
        }
    }

    /// A query that takes longer because it has many digests does not wait.
    #[test]
    fn the_digests_of_a_query_explain_its_time() {
        let mut pace = pace(20, 5 * MS);
        for digests in (10..100).cycle().take(100) {
            pace.took(5 * MS + digests * MS / 10, digests as usize + 1);
        }
        assert_eq!(sent(&mut pace, Instant::now()), 10);
    }

    /// After a failover to a server that is farther away, the pace follows within three windows,
    /// whatever the number of digests.
    #[test]
    fn the_pace_follows_a_store_that_has_moved() {
        for digests in [1, 7, 8, 50] {
            let mut pace = pace(20, MS / 10);
            for _ in 0..3 * WINDOW {
                pace.took(10 * MS, digests);
            }
            assert_eq!(sent(&mut pace, Instant::now()), 10, "{digests} digests");
        }
    }

    /// At a high rate, queries with many digests look like a round trip. They are not.
    #[test]
    fn queries_with_many_digests_are_no_distance() {
        let mut pace = pace(20, MS / 10);
        for digests in (80..100_u32).cycle().take(10 * WINDOW as usize) {
            pace.took(MS / 10 + digests * MS / 100, digests as usize + 1);
        }
        assert_eq!(sent(&mut pace, Instant::now()), 0);
    }
}
