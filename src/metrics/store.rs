//! Metrics of a store.

/// Metrics of a store, which [`SessionLookup::metrics`](crate::store::SessionLookup::metrics)
/// returns. They are totals since the store was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreMetrics {
    /// Queries of lookups that were repeated on a new connection.
    pub lookups_retried: u64,
    /// Queries of lookups that waited behind a slow query, and were moved to another connection.
    pub lookups_moved: u64,
    /// Writes that were repeated because the first attempt had no effect.
    pub writes_retried: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Attempts to open a connection that failed.
    pub connections_failed: u64,
    /// Connections that the server or the network closed.
    pub connections_lost: u64,
    /// Connections that the store closed because a statement failed or did not finish.
    pub connections_broken: u64,
    /// Connections that the store closed for another reason: their settings or statements were
    /// outdated, a round of deletions ended, or the service was closed.
    pub connections_retired: u64,
}

impl StoreMetrics {
    /// Returns the number of open connections.
    pub const fn connections_open(&self) -> u64 {
        self.connections_opened
            .saturating_sub(self.connections_lost)
            .saturating_sub(self.connections_broken)
            .saturating_sub(self.connections_retired)
    }
}
