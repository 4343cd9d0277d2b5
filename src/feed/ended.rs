//! The future that resolves when a session ends.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::{feed::watchers::Watchers, session::SessionId};

/// Resolves when a session ends. See [`SessionService::ended`](crate::SessionService::ended).
///
/// Dropping it cancels the wait and leaves nothing behind.
#[must_use = "nothing waits until this is polled"]
pub struct Ended {
    pub(crate) over: oneshot::Receiver<EndReason>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) session: SessionId,
    pub(crate) caller: u64,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It was ended: signed out, revoked, replaced, or its user is gone or may not be signed in.
    Revoked,
    /// One of its limits has passed.
    Expired,
    /// The store cannot decide whether the session is live, because of what its own rows contain. A condition that
    /// divides by a column of the user's row, for example, fails if that column is zero. A lookup of the session
    /// fails too.
    Undecidable,
    /// The service was closed, or its runtime is shutting down, or there is none. Nothing is known about the
    /// session.
    ServiceClosed,
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
        self.watchers.leave(self.session, self.caller);
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").finish_non_exhaustive()
    }
}
