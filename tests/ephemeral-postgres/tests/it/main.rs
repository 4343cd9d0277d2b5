//! What the crate promises, with every source that this machine has.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod behaviour;
mod child;
mod clean_up;
mod sources;
