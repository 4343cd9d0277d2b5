//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    unreachable_pub,
    reason = "what the modules share is public to this binary and to nobody else"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what went wrong by panicking, and its helpers do"
)]

mod allocations;
mod browser;
mod cookie_reading;
mod cookie_writing;
mod frameworks;
mod load_user;
mod lookup;
mod secrets;
mod support;
mod tower_contract;
