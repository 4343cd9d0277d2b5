//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    unreachable_pub,
    reason = "what the modules share is public to this binary and to nobody else"
)]

mod allocations;
mod browser;
mod cookie_reading;
mod cookie_writing;
mod load_user;
mod lookup;
mod secrets;
mod support;
mod tower_contract;
