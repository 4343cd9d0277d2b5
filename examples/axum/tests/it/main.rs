//! The application over a socket, with a real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod browser;
mod csrf;
mod draining;
mod ending;
mod failure;
mod flow;
mod pages;
mod partitioned;
mod sessions;
mod support;
