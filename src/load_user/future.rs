use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    load_user::{
        cache_headers::{CacheHeaders, Marks},
        span_fields::SpanFields,
    },
    lookup::pending::PendingLookup,
    metrics::counters::Counter,
    rejection::{Rejection, ResponseForRejection, reject},
    service::{SessionService, TokenRejection},
    session::CurrentSession,
    store::{LiveSession, SessionLookup},
};

pin_project! {
    /// Response future of [`LoadUser`](super::LoadUser).
    ///
    /// Dropping it cancels the wait for the lookup, or the inner service's future. Polling it after
    /// it has completed panics.
    pub struct ResponseFuture<S, L, R, B>
    where
        S: Service<Request<B>>,
        L: SessionLookup,
    {
        #[pin]
        state: State<S, L, R, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, L, R, B>
    where
        S: Service<Request<B>>,
        L: SessionLookup,
    {
        LookingUp { #[pin] lookup: Lookup<S, L, R, B> },
        Inner { #[pin] future: S::Future, marks: Marks },
    }
}

pin_project! {
    /// A lookup, and the values that are needed when the lookup completes.
    pub(super) struct Lookup<S, L: SessionLookup, R, B> {
        #[pin]
        pub(super) answer: PendingLookup<L::User>,
        pub(super) request: Option<Request<B>>,
        pub(super) inner: S,
        pub(super) sessions: SessionService<L>,
        pub(super) span_fields: SpanFields<L::User>,
        // The session that an outer layer for the same user type found.
        pub(super) outer: Option<CurrentSession<L::User>>,
        pub(super) cache_headers: CacheHeaders,
        pub(super) rejection: R,
    }
}

impl<S, L, R, B> ResponseFuture<S, L, R, B>
where
    S: Service<Request<B>>,
    L: SessionLookup,
{
    pub(super) const fn calling(future: S::Future, marks: Marks) -> Self {
        Self {
            state: State::Inner { future, marks },
        }
    }

    pub(super) const fn looking_up(lookup: Lookup<S, L, R, B>) -> Self {
        Self {
            state: State::LookingUp { lookup },
        }
    }
}

impl<S, L, R, B, ResBody> Future for ResponseFuture<S, L, R, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    L: SessionLookup,
    R: ResponseForRejection<ResBody>,
{
    type Output = Result<Response<ResBody>, S::Error>;

    #[expect(
        clippy::expect_used,
        reason = "polling a completed future is the caller's defect"
    )]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::LookingUp { lookup } => {
                    let lookup = lookup.project();
                    let answer = ready!(lookup.answer.poll(cx));
                    let mut request = lookup
                        .request
                        .take()
                        .expect("ResponseFuture polled after completion");
                    let authenticated = match answer {
                        Ok(Some(live)) => {
                            attach(
                                &mut request,
                                live,
                                lookup.sessions,
                                lookup.span_fields,
                                lookup.outer.take(),
                            );
                            true
                        }
                        Ok(None) => {
                            lookup.sessions.count(Counter::Rejected);
                            let headers = request.headers();
                            lookup
                                .sessions
                                .observe_rejection(TokenRejection::NotLive, headers);
                            if let Some(found) = lookup.outer.take() {
                                lookup.sessions.report_disagreement(found, None);
                            }
                            false
                        }
                        Err(error) => {
                            lookup.sessions.report_unavailable(&error);
                            let rejection = Rejection::unavailable(request.headers(), error);
                            return Poll::Ready(Ok(reject(lookup.rejection, rejection)));
                        }
                    };
                    let bearer = lookup.sessions.credentials().bearer;
                    State::Inner {
                        future: lookup.inner.call(request),
                        marks: Marks::of(*lookup.cache_headers, authenticated, bearer),
                    }
                }
                StateProj::Inner { future, marks } => {
                    let mut response = ready!(future.poll(cx))?;
                    marks.write(&mut response);
                    return Poll::Ready(Ok(response));
                }
            };
            state.set(next);
        }
    }
}

/// Attaches the user and the session to the request.
pub(super) fn attach<L: SessionLookup, B>(
    request: &mut Request<B>,
    live: LiveSession<L::User>,
    sessions: &SessionService<L>,
    span_fields: &SpanFields<L::User>,
    outer: Option<CurrentSession<L::User>>,
) {
    span_fields.record(&live);
    let session = CurrentSession::<L::User>::new(live.session);
    if let Some(found) = outer {
        sessions.report_disagreement(found, Some(&session));
    }
    request.extensions_mut().insert(live.user);
    request.extensions_mut().insert(session);
    sessions.count(Counter::Authenticated);
}

impl<S, L, R, B> fmt::Debug for ResponseFuture<S, L, R, B>
where
    S: Service<Request<B>>,
    L: SessionLookup,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
