//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test says what went wrong by panicking, and its modules share with nobody else"
)]

mod allocations;
mod batching;
mod browser;
mod cookie_reading;
mod cookie_writing;
mod devices;
mod failover;
mod faults;
mod frameworks;
mod guards;
mod history;
mod keys_and_names;
mod life_cycle;
mod lifetimes;
mod load_user;
mod lookup;
mod lying_server;
mod migrations;
mod plans;
mod proof;
mod proxy;
mod secrets;
mod server_log;
mod store_conformance;
mod support;
mod tower_contract;
mod wire;
