//! Batched session lookups, and deferred updates of `last_seen_at`.

pub(crate) mod batcher;
pub(crate) mod last_seen;
pub(crate) mod pending;
mod queue;
#[cfg(test)]
mod queue_model;
pub(crate) mod runner;
mod worker;
