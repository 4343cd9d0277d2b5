//! A dedicated connection of the store.

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use deadpool_postgres::ClientWrapper;

use crate::postgres::{counters::StoreCounters, fence::Gate, sql::execution::LookupStatement};

pub(super) struct Connection {
    client: ClientWrapper,
    pub(super) gate: Gate,
    /// The prepared lookup of this connection, and whether it returns the hash of the user's key.
    pub(super) find: OnceLock<(LookupStatement, bool)>,
    generation: u64,
    /// Whether the store closes the connection although it works.
    retired: AtomicBool,
    counters: Arc<StoreCounters>,
    _alive: Alive,
}

/// Counts a connection while it is open.
pub(super) struct Alive(Arc<AtomicUsize>);

impl Connection {
    pub(super) fn new(
        client: ClientWrapper,
        gate: Gate,
        generation: u64,
        counters: &Arc<StoreCounters>,
        alive: Alive,
    ) -> Self {
        counters.opened.increment();
        Self {
            client,
            gate,
            find: OnceLock::new(),
            generation,
            retired: AtomicBool::new(false),
            counters: Arc::clone(counters),
            _alive: alive,
        }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Records that the store no longer needs the connection. Its last user closes it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let counters = &self.counters;
        let cause = if self.client.is_closed() {
            &counters.lost
        } else if *self.retired.get_mut() {
            &counters.retired
        } else {
            &counters.broken
        };
        cause.increment();
    }
}

impl Alive {
    pub(super) fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, SeqCst);
        Self(Arc::clone(connections))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
