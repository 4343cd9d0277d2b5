//! The application over a socket, with a real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod alerts;
mod browser;
mod csrf;
mod draining;
mod ending;
mod failure;
mod flow;
mod pages;
mod partitioned;
mod process;
mod sessions;
mod support;
mod upgrade;
