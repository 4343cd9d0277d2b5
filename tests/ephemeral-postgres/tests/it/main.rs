//! The documented behavior, with each source that this machine has.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod behavior;
mod child;
mod clean_up;
mod patroni;
mod sources;
