//! The answer to a lookup, as whoever asked waits for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{sync::oneshot, time::Sleep};

use super::LiveSession;
use crate::{Error, ErrorKind};

pub(super) type Outcome<U> = Result<Option<LiveSession<U>>, Error>;

/// The answer to a question that was asked. Dropping it disturbs nobody else.
pub(crate) struct Answering<U>(Answer<U>);

enum Answer<U> {
    /// With a timer where the deadline may be nobody else's to keep.
    Pending(oneshot::Receiver<Outcome<U>>, Option<Pin<Box<Sleep>>>),
    Known(Option<LiveSession<U>>),
    Failed(Option<Error>),
}

/// Nothing in it is ever pinned.
impl<U> Unpin for Answering<U> {}

impl<U> Answering<U> {
    /// The live session, where it is known without asking.
    pub(crate) fn known(&mut self) -> Option<LiveSession<U>> {
        match &mut self.0 {
            Answer::Known(live) => live.take(),
            _ => None,
        }
    }

    pub(super) const fn of(live: LiveSession<U>) -> Self {
        Self(Answer::Known(Some(live)))
    }

    pub(super) const fn waiting(
        answer: oneshot::Receiver<Outcome<U>>,
        timer: Option<Pin<Box<Sleep>>>,
    ) -> Self {
        Self(Answer::Pending(answer, timer))
    }

    pub(super) const fn failed(error: Error) -> Self {
        Self(Answer::Failed(Some(error)))
    }
}

impl<U> Future for Answering<U> {
    type Output = Outcome<U>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            Answer::Pending(answer, timer) => match Pin::new(answer).poll(cx) {
                Poll::Ready(answer) => answer.unwrap_or_else(|_| {
                    let context = "the lookup ended without an answer";
                    Err(Error::bare(ErrorKind::Store).saying(context))
                }),
                Poll::Pending => {
                    let Some(timer) = timer else {
                        return Poll::Pending;
                    };
                    ready!(timer.as_mut().poll(cx));
                    Err(Error::bare(ErrorKind::Deadline))
                }
            },
            Answer::Known(live) => Ok(live.take()),
            Answer::Failed(error) => Err(error.take().unwrap_or(Error::bare(ErrorKind::Store))),
        })
    }
}
