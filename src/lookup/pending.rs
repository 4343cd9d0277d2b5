//! The answer to a lookup, as its caller waits for it.

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
    store::{
        LiveSession,
        lookup::{FoundSession, SharedSession},
    },
};

pub(crate) type Outcome<U> = Result<Option<FoundSession<U>>, Error>;

/// Where the answer to one lookup is sent.
pub(crate) struct Waiter<U> {
    pub(crate) answer: oneshot::Sender<Outcome<U>>,
    /// Whether the request presents no other token. Then a live session is the request's, and counts as used.
    pub(crate) only: bool,
}

pin_project! {
    /// The answer to a lookup. Dropping it affects no other caller.
    pub(crate) struct PendingLookup<U> {
        #[pin]
        answer: Answer<U>,
    }
}

pin_project! {
    #[project = AnswerProj]
    enum Answer<U> {
        /// With the caller's own timer: the runtime that carries the batch may not be driven.
        Pending { answer: oneshot::Receiver<Outcome<U>>, #[pin] deadline: Sleep },
        Known { live: Option<SharedSession<U>> },
        Failed { error: Option<Error> },
        /// Of a request with several tokens.
        OneOf { answer: BoxFuture<'static, Outcome<U>> },
    }
}

impl<U> PendingLookup<U> {
    /// Returns the live session if it is known without a query.
    pub(crate) fn known(&mut self) -> Option<LiveSession<U>>
    where
        U: Clone,
    {
        match &mut self.answer {
            Answer::Known { live } => live.take().map(|live| FoundSession::from(live).into_live()),
            _ => None,
        }
    }

    pub(crate) const fn of(live: SharedSession<U>) -> Self {
        Self {
            answer: Answer::Known { live: Some(live) },
        }
    }

    pub(crate) const fn waiting(answer: oneshot::Receiver<Outcome<U>>, deadline: Sleep) -> Self {
        Self {
            answer: Answer::Pending { answer, deadline },
        }
    }

    pub(crate) const fn one_of(answer: BoxFuture<'static, Outcome<U>>) -> Self {
        Self {
            answer: Answer::OneOf { answer },
        }
    }

    pub(crate) const fn failed(error: Error) -> Self {
        Self {
            answer: Answer::Failed { error: Some(error) },
        }
    }
}

impl<U: Clone> Future for PendingLookup<U> {
    type Output = Result<Option<LiveSession<U>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.project().answer.project() {
            AnswerProj::Pending { answer, deadline } => match Pin::new(answer).poll(cx) {
                Poll::Ready(answer) => answer.unwrap_or_else(|_| Err(without_answer())),
                Poll::Pending => {
                    ready!(deadline.poll(cx));
                    Err(Error::from_kind(ErrorKind::Deadline))
                }
            },
            AnswerProj::Known { live } => Ok(live.take().map(FoundSession::from)),
            AnswerProj::OneOf { answer } => ready!(answer.as_mut().poll(cx)),
            AnswerProj::Failed { error } => {
                Err(error.take().unwrap_or(Error::from_kind(ErrorKind::Store)))
            }
        };
        // In the caller's task: a panic in the application's `Clone` fails this caller alone.
        Poll::Ready(outcome.map(|live| live.map(FoundSession::into_live)))
    }
}

fn without_answer() -> Error {
    Error::from_kind(ErrorKind::Store).with_message("the lookup ended without an answer")
}

/// The answers to the lookups of one request with several tokens.
pub(crate) struct Several<U> {
    pub(crate) answers: Vec<oneshot::Receiver<Outcome<U>>>,
    pub(crate) deadline: Sleep,
}

impl<U> Several<U> {
    /// Returns the live sessions.
    ///
    /// # Errors
    ///
    /// If the answer to one of the lookups is an error: it could be of a live session.
    pub(crate) async fn live(self) -> Result<Vec<FoundSession<U>>, Error> {
        let answers = async {
            let mut live = Vec::new();
            for answer in self.answers {
                live.extend(answer.await.unwrap_or_else(|_| Err(without_answer()))?);
            }
            Ok(live)
        };
        tokio::select! {
            biased;
            live = answers => live,
            () = self.deadline => Err(Error::from_kind(ErrorKind::Deadline)),
        }
    }
}
