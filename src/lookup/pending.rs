//! The future of a lookup, and the receiving end of its result.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::{sync::oneshot, time::Sleep};

use crate::{
    error::{Error, ErrorKind},
    lookup::{
        inline::InlineHandle,
        span::{BatchInfo, LookupSpan},
    },
    store::{
        LiveSession,
        lookup::{FoundSession, SharedSession},
    },
};

pub(crate) type Outcome<U> = Result<Option<FoundSession<U>>, Error>;

/// A waiter: the sender for the result of one lookup.
pub(crate) struct Waiter<U> {
    pub(crate) result: oneshot::Sender<Outcome<U>>,
    /// Whether the request presents no other token. If so, a live session belongs to the request
    /// and counts as used.
    pub(crate) only_token: bool,
    pub(crate) span: LookupSpan,
}

impl<U> Waiter<U> {
    /// Closes the span of the lookup, and sends its result.
    pub(crate) fn deliver(self, outcome: Outcome<U>, batch: BatchInfo) {
        self.span.close(&outcome, batch);
        // The send fails if the waiter was cancelled.
        let _ = self.result.send(outcome);
    }
}

pin_project! {
    /// Resolves with the result of a lookup. Dropping the future affects no other waiter.
    pub(crate) struct PendingLookup<U> {
        #[pin]
        result: State<U>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<U> {
        /// Waits for a batch. The timer belongs to the waiter, because the batch's own timer fires
        /// only while the runtime of the batch is polled.
        Pending {
            result: oneshot::Receiver<Outcome<U>>,
            #[pin]
            deadline: Sleep,
            inline: Option<InlineHandle>,
        },
        Known { live: Option<SharedSession<U>> },
        Failed { error: Option<Error> },
        /// A request with several tokens.
        OneOf { result: BoxFuture<'static, Outcome<U>> },
    }
}

impl<U> PendingLookup<U> {
    /// Returns the live session if no query is needed.
    pub(crate) fn known(&mut self) -> Option<LiveSession<U>>
    where
        U: Clone,
    {
        match &mut self.result {
            State::Known { live } => live.take().map(|live| FoundSession::from(live).into_live()),
            _ => None,
        }
    }

    pub(crate) const fn of(live: SharedSession<U>) -> Self {
        Self {
            result: State::Known { live: Some(live) },
        }
    }

    pub(crate) const fn waiting(
        result: oneshot::Receiver<Outcome<U>>,
        deadline: Sleep,
        inline: Option<InlineHandle>,
    ) -> Self {
        Self {
            result: State::Pending {
                result,
                deadline,
                inline,
            },
        }
    }

    pub(crate) const fn one_of(result: BoxFuture<'static, Outcome<U>>) -> Self {
        Self {
            result: State::OneOf { result },
        }
    }

    pub(crate) const fn failed(error: Error) -> Self {
        Self {
            result: State::Failed { error: Some(error) },
        }
    }
}

impl<U: Clone> Future for PendingLookup<U> {
    type Output = Result<Option<LiveSession<U>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.project().result.project() {
            StateProj::Pending {
                result,
                deadline,
                inline,
            } => {
                // The worker has the same deadline.
                if inline.as_ref().is_some_and(|inline| inline.poll(cx)) {
                    return Poll::Pending;
                }
                match Pin::new(result).poll(cx) {
                    Poll::Ready(result) => result.unwrap_or_else(|_| Err(dropped_sender())),
                    Poll::Pending => {
                        ready!(deadline.poll(cx));
                        Err(Error::from_kind(ErrorKind::Deadline))
                    }
                }
            }
            StateProj::Known { live } => Ok(live.take().map(FoundSession::from)),
            StateProj::OneOf { result } => ready!(result.as_mut().poll(cx)),
            StateProj::Failed { error } => {
                Err(error.take().unwrap_or(Error::from_kind(ErrorKind::Store)))
            }
        };
        // The clone runs in the waiter's task. A panic in the application's `Clone` fails only this
        // waiter.
        Poll::Ready(outcome.map(|live| live.map(FoundSession::into_live)))
    }
}

fn dropped_sender() -> Error {
    Error::from_kind(ErrorKind::Store).with_message("the task of the lookup ended without a result")
}

/// The pending results of one request with several tokens.
pub(crate) struct PendingLookups<U> {
    pub(crate) results: Vec<oneshot::Receiver<Outcome<U>>>,
    pub(crate) deadline: Sleep,
}

impl<U> PendingLookups<U> {
    /// Returns the live sessions.
    ///
    /// # Errors
    ///
    /// The error of a failed lookup, because the session of that lookup might be live.
    /// [`ErrorKind::Deadline`] if the deadline passed.
    pub(crate) async fn live(self) -> Result<Vec<FoundSession<U>>, Error> {
        let results = async {
            let mut live = Vec::new();
            for result in self.results {
                live.extend(result.await.unwrap_or_else(|_| Err(dropped_sender()))?);
            }
            Ok(live)
        };
        tokio::select! {
            biased;
            live = results => live,
            () = self.deadline => Err(Error::from_kind(ErrorKind::Deadline)),
        }
    }
}
