//! Waiting for a condition or a future, with a limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Longer than a slow machine takes for anything that ends, and far below half of a long lease, so
/// that no condition holds in time because a lease ended.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn patiently<F: Future>(future: F) -> F::Output {
    let patience = tokio::time::timeout(PATIENCE, future);
    patience.await.expect("the future did not complete in time")
}

/// Returns when this holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < patience,
            "the condition did not hold in time"
        );
        tokio::task::yield_now().await;
    }
}

pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
