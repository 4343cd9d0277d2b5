//! Streams and bodies that end with their session.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::feed::{end_reason::EndReason, ended::Ended};

type LastItem<T> = Box<dyn FnOnce(EndReason) -> Option<T> + Send + Sync>;

pin_project! {
    /// Stream that ends when its session ends. See [`Ended::close_stream`].
    #[must_use = "streams do nothing unless polled"]
    pub struct StreamUntilEnded<S: Stream> {
        #[pin]
        stream: S,
        // `None` once the stream has ended.
        ended: Option<(Ended, LastItem<S::Item>)>,
    }
}

pin_project! {
    /// Body that ends when its session ends. See [`Ended::close_body`].
    pub struct BodyUntilEnded<B> {
        #[pin]
        body: B,
        ended: Option<Ended>,
    }
}

impl Ended {
    /// Returns a stream that ends when the session ends, without a last item.
    pub fn close_stream<S: Stream>(self, stream: S) -> StreamUntilEnded<S> {
        self.close_stream_with(stream, |_| None)
    }

    /// Returns a stream that ends when the session ends. If `last` returns an item, it is the last
    /// item of the stream. For gRPC, return the status `UNAUTHENTICATED`.
    pub fn close_stream_with<S: Stream>(
        self,
        stream: S,
        last: impl FnOnce(EndReason) -> Option<S::Item> + Send + Sync + 'static,
    ) -> StreamUntilEnded<S> {
        StreamUntilEnded {
            stream,
            ended: Some((self, Box::new(last))),
        }
    }

    /// Returns a body that ends when the session ends, as if the body were complete. Use it for
    /// server-sent events.
    ///
    /// The response must not have a `Content-Length`, because the body may end early.
    pub fn close_body<B: Body>(self, body: B) -> BodyUntilEnded<B> {
        BodyUntilEnded {
            body,
            ended: Some(self),
        }
    }
}

impl<S: Stream> Stream for StreamUntilEnded<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let Some((ended, _)) = this.ended else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(reason) = Pin::new(ended).poll(cx) {
            let last = this.ended.take().map(|(_, last)| last);
            return Poll::Ready(last.and_then(|last| last(reason)));
        }
        let next = this.stream.poll_next(cx);
        if let Poll::Ready(None) = next {
            *this.ended = None;
        }
        next
    }
}

impl<B: Body> Body for BodyUntilEnded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(ended) = this.ended else {
            return Poll::Ready(None);
        };
        if Pin::new(ended).poll(cx).is_ready() {
            *this.ended = None;
            return Poll::Ready(None);
        }
        let next = this.body.poll_frame(cx);
        if let Poll::Ready(None) = next {
            *this.ended = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The body may end early. Therefore only the upper bound is valid.
        let mut hint = SizeHint::new();
        if let Some(upper) = self.body.size_hint().upper() {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<S: Stream> fmt::Debug for StreamUntilEnded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamUntilEnded").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for BodyUntilEnded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyUntilEnded").finish_non_exhaustive()
    }
}
