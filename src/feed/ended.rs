//! The future that resolves when a session ends.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{
    feed::{end_reason::EndReason, watchers::Watchers},
    session::SessionId,
};

/// Resolves when a session ends. See [`SessionService::ended`](crate::SessionService::ended).
///
/// # Cancellation
///
/// Dropping the future cancels the wait and has no other effect.
#[must_use = "the wait has no effect unless polled"]
pub struct Ended {
    pub(crate) over: oneshot::Receiver<EndReason>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) session: SessionId,
    pub(crate) waiter: u64,
}

impl Future for Ended {
    type Output = EndReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<EndReason> {
        let over = ready!(Pin::new(&mut self.over).poll(cx));
        Poll::Ready(over.unwrap_or(EndReason::ServiceClosed))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.watchers.remove_waiter(self.session, self.waiter);
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").finish_non_exhaustive()
    }
}
