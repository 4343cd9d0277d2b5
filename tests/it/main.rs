//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test says what went wrong by panicking, and its modules share with nobody else"
)]

mod catalogue;
mod cookie;
mod extended;
mod feed;
mod layer;
mod postgres;
mod secrets;
mod service;
mod support;
