//! What the crate promises, a module a behaviour, against real servers.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod devices;
mod guards;
mod lifetimes;
mod lookup;
mod proof;
mod support;
