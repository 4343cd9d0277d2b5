//! Batched session lookups, and deferred updates of `last_seen_at`.

pub(crate) mod batcher;
mod inline;
pub(crate) mod last_seen;
mod pace;
pub(crate) mod pending;
mod queue;
#[cfg(test)]
mod queue_model;
#[cfg(test)]
mod queue_simulation;
pub(crate) mod runner;
pub(crate) mod span;
mod waiting;
mod worker;
