//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod batching;
mod devices;
mod faults;
mod guards;
mod keys_and_names;
mod life_cycle;
mod lifetimes;
mod lookup;
mod migrations;
mod plans;
mod proof;
mod proxy;
mod server_log;
mod store_conformance;
mod support;
mod wire;
