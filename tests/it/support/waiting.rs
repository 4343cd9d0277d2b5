//! Waiting for a condition or a future, with a limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Longer than a slow machine takes for anything that ends at all, and far below half of a long lease:
/// nothing comes about in time because a lease ran out.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn patiently<F: Future>(future: F) -> F::Output {
    let patience = tokio::time::timeout(PATIENCE, future);
    patience.await.expect("it never ends")
}

/// Returns once this holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "it never comes about");
        tokio::task::yield_now().await;
    }
}

pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
