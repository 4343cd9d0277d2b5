//! The application as a browser meets it: over a socket, with a PostgreSQL behind it.

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
mod partitioned;
mod sessions;
mod support;
