//! The pace of queries: whether the next one can be sent while others are in flight.
//!
//! A query costs the store some tens of microseconds. The way to the store and back may take a
//! hundred times as long. While the way takes the time, a lookup that waits for the return of
//! another query loses up to a whole round trip and saves the store next to nothing. While the
//! store takes the time, lookups that share a query save it most of their cost.
//!
//! The pace therefore has an *interval* for each query. The queries that were sent within the time
//! of a way may take up no more intervals than fit into it (the generic cell rate algorithm, ITU-T
//! I.371). After a pause, several queries can follow one another at once. At a high rate of
//! lookups, those that arrive within one interval share a query. No timer runs: an arrival or a
//! completion is the occasion to send.

use std::time::{Duration, Instant};

/// The shortest way that counts as one. Below, a query takes less time than its batch saves.
const MIN_WAY: Duration = Duration::from_micros(200);
/// The shortest interval: what the store and this process spend on a query. Closer queries would
/// only wait for one another.
const MIN_INTERVAL: Duration = Duration::from_micros(100);
/// The shortest times are those of the last this many to twice as many queries, so that the pace
/// follows a store that has moved.
const WINDOW: u32 = 128;
/// The fewest digests of a query that tells what a further one costs.
const MANY_DIGESTS: u32 = 8;
/// The part of the latest query in the average, as a divisor.
const SMOOTHING: u32 = 8;

#[derive(Debug)]
pub(super) struct Pace {
    /// The intervals in a way. Half of the queries that may be in flight, so that a burst finds
    /// room too.
    intervals: u32,
    /// The shortest time of a query: the way, and the store at rest.
    least: Shortest,
    /// The shortest time for each digest beyond the first of a query.
    least_per_digest: Shortest,
    in_window: u32,
    /// The moving average of the time that a query takes longer than its digests explain.
    waiting: Duration,
    /// The end of the intervals of the queries that were sent.
    taken_until: Option<Instant>,
}

/// The shortest time in the last window and in the one that has not ended.
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
        self.least.record(time);
        let longer = time.saturating_sub(self.least.known.unwrap_or(time));
        let further = u32::try_from(digests).unwrap_or(u32::MAX).saturating_sub(1);
        if further + 1 >= MANY_DIGESTS {
            self.least_per_digest.record(longer / further);
        }
        let explained = self.least_per_digest.known.unwrap_or_default() * further;
        // One slow row must not slow down the others for long. Two queries always fit into a way.
        let most = self.least.known.unwrap_or_default() / 2;
        let waiting = longer.saturating_sub(explained).min(most);
        self.waiting = (self.waiting * (SMOOTHING - 1) + waiting) / SMOOTHING;
        self.in_window += 1;
        if self.in_window == WINDOW {
            self.least.end_window();
            self.least_per_digest.end_window();
            self.in_window = 0;
        }
    }

    /// Records that a query is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        if let Some(least) = self.least.known {
            let from = self.taken_until.map_or(now, |until| until.max(now));
            self.taken_until = Some(from + self.interval(least));
        }
    }

    /// Returns whether the way takes the time, and has room for another query.
    pub(super) fn allows(&self, now: Instant) -> bool {
        let Some(least) = self.least.known.filter(|least| *least >= MIN_WAY) else {
            return false;
        };
        let taken = self
            .taken_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        taken + self.interval(least) <= least
    }

    /// The interval grows with the time that queries wait at the store: it is then what takes the
    /// time.
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

    /// One line for each way: the time of a query, and how many are sent at once: half of those
    /// that may be in flight, and none more often than each 100 microseconds.
    #[test]
    fn a_way_has_room_for_half_of_the_queries() {
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

    /// While queries wait at the store, fewer of them are sent. Two always fit into a way.
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

    /// After a failover to a server that is farther away, the pace follows within three windows.
    #[test]
    fn the_pace_follows_a_store_that_has_moved() {
        let mut pace = pace(20, MS);
        for _ in 0..3 * WINDOW {
            pace.took(10 * MS, 1);
        }
        assert_eq!(sent(&mut pace, Instant::now()), 10);
    }
}
