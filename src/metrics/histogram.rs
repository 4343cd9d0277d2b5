//! Latency histograms with fixed buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Distribution of latencies, in fixed buckets.
///
/// The counts are totals since the service was built, so that an exporter can compute the
/// distribution of any interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    buckets: [u64; LatencyHistogram::BOUNDS.len() + 1],
    sum: Duration,
}

impl LatencyHistogram {
    /// The upper bounds of the buckets, in ascending order. A bound belongs to its bucket. A last
    /// bucket without a bound contains longer latencies.
    pub const BOUNDS: [Duration; 14] = [
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2_500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
        Duration::from_millis(2_500),
        Duration::from_secs(5),
    ];

    /// Returns the number of latencies in each bucket. The last bucket has no bound.
    pub const fn buckets(&self) -> &[u64; Self::BOUNDS.len() + 1] {
        &self.buckets
    }

    /// Returns the number of latencies.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the latencies.
    pub const fn sum(&self) -> Duration {
        self.sum
    }
}

/// A histogram that tasks update concurrently. A reader may see a latency in its bucket and not yet
/// in the sum.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    buckets: [AtomicU64; LatencyHistogram::BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Recorder {
    pub(super) fn record(&self, latency: Duration) {
        let bucket = LatencyHistogram::BOUNDS.partition_point(|bound| *bound < latency);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }

    pub(super) fn read(&self) -> LatencyHistogram {
        LatencyHistogram {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            sum: Duration::from_nanos(self.sum_nanos.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Q01: a latency is in the first bucket whose bound it does not exceed.
    #[test]
    fn each_latency_is_in_one_bucket() {
        let nanosecond = Duration::from_nanos(1);
        let recorder = Recorder::default();
        let mut sum = Duration::ZERO;
        for bound in LatencyHistogram::BOUNDS {
            for latency in [bound, bound + nanosecond] {
                recorder.record(latency);
                sum += latency;
            }
        }
        let read = recorder.read();
        let last = LatencyHistogram::BOUNDS.len();
        for (place, count) in read.buckets().iter().enumerate() {
            let expected = if place == 0 || place == last { 1 } else { 2 };
            assert_eq!(*count, expected, "bucket {place}");
        }
        assert_eq!((read.count(), read.sum()), (2 * last as u64, sum));
    }
}
