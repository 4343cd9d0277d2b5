//! Tests of the public API, by subject. See `tests/README.md`.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test reports a failure by panicking, and nothing here is a public API"
)]

mod catalogue;
mod cookie;
mod extended;
mod feed;
mod layer;
mod operation;
mod postgres;
mod secrets;
mod service;
mod support;
