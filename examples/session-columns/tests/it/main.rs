//! The rules of the second factor and of impersonation, over HTTP and in a browser.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod browser;
mod impersonation;
mod second_factor;
mod visit;
