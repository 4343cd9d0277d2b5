//! Counters of retries and connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::StoreMetrics;

#[derive(Debug, Default)]
pub(super) struct StoreCounters {
    pub(super) lookups_retried: Count,
    pub(super) lookups_moved: Count,
    pub(super) writes_retried: Count,
    pub(super) opened: Count,
    pub(super) failed: Count,
    pub(super) lost: Count,
    pub(super) broken: Count,
    pub(super) retired: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl StoreCounters {
    pub(super) fn read(&self) -> StoreMetrics {
        StoreMetrics {
            lookups_retried: self.lookups_retried.get(),
            lookups_moved: self.lookups_moved.get(),
            writes_retried: self.writes_retried.get(),
            connections_failed: self.failed.get(),
            connections_lost: self.lost.get(),
            connections_broken: self.broken.get(),
            connections_retired: self.retired.get(),
            // Read last: a connection is opened before it is closed.
            connections_opened: self.opened.get(),
        }
    }
}
