use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, Uri};
use tower_service::Service;

use crate::{
    load_user::{
        cache_headers::{CacheHeaders, Marks},
        future::{Lookup, ResponseFuture, attach},
        original_place::OriginalPlace,
        span_fields::SpanFields,
    },
    rejection::{DefaultResponseForRejection, ResponseForRejection},
    service::SessionService,
    session::CurrentSession,
    store::SessionLookup,
};

/// Service that looks up the session of a request and attaches the user before it calls the inner
/// service. See the [module's documentation](crate::load_user).
pub struct LoadUser<S, L: SessionLookup, R = DefaultResponseForRejection> {
    inner: S,
    sessions: SessionService<L>,
    settings: Settings<R>,
    span_fields: SpanFields<L::User>,
}

#[derive(Clone)]
pub(super) struct Settings<R> {
    pub(super) exempt: Option<Exempt>,
    pub(super) cache_headers: CacheHeaders,
    /// The prefix that a proxy removes from every path.
    pub(super) stripped: Option<Arc<str>>,
    pub(super) rejection: R,
}

#[derive(Clone)]
pub(super) struct Exempt(pub(super) Arc<ExemptFn>);

type ExemptFn = dyn Fn(&Method, &Uri) -> bool + Send + Sync;

impl<S, L: SessionLookup, R> LoadUser<S, L, R> {
    pub(super) const fn new(
        inner: S,
        sessions: SessionService<L>,
        settings: Settings<R>,
        span_fields: SpanFields<L::User>,
    ) -> Self {
        Self {
            inner,
            sessions,
            settings,
            span_fields,
        }
    }

    /// Returns a reference to the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, L, R, ReqBody, ResBody> Service<Request<ReqBody>> for LoadUser<S, L, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    L: SessionLookup,
    R: ResponseForRejection<ResBody>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, L, R, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // The user comes only from the store, not from outer layers. A layer for another user type
        // removes the values of that type itself.
        let extensions = request.extensions_mut();
        extensions.remove::<L::User>();
        let outer = extensions.remove::<CurrentSession<L::User>>();

        OriginalPlace::record(&mut request, self.settings.stripped.as_ref());
        let exempt = self.settings.exempt.as_ref();
        if exempt.is_some_and(|exempt| exempt.0(request.method(), request.uri())) {
            return ResponseFuture::calling(self.inner.call(request), Marks::NONE);
        }
        let bearer = self.sessions.credentials().bearer;
        let marks = |signed_in| Marks::of(self.settings.cache_headers, signed_in, bearer);
        let Some(mut answer) = self.sessions.look_up(request.headers()) else {
            if let Some(found) = outer {
                self.sessions.report_disagreement(found, None);
            }
            let marks = marks(false);
            return ResponseFuture::calling(self.inner.call(request), marks);
        };

        if let Some(live) = answer.known() {
            attach(&mut request, live, &self.sessions, &self.span_fields, outer);
            let marks = marks(true);
            return ResponseFuture::calling(self.inner.call(request), marks);
        }
        // Only the service that was polled ready may be called. Its clone was not polled:
        // https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services
        let not_ready_inner = self.inner.clone();
        let ready_inner = std::mem::replace(&mut self.inner, not_ready_inner);
        ResponseFuture::looking_up(Lookup {
            answer,
            request: Some(request),
            inner: ready_inner,
            sessions: self.sessions.clone(),
            span_fields: self.span_fields.clone(),
            outer,
            cache_headers: self.settings.cache_headers,
            rejection: self.settings.rejection.clone(),
        })
    }
}

impl<S: Clone, L: SessionLookup, R: Clone> Clone for LoadUser<S, L, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            sessions: self.sessions.clone(),
            settings: self.settings.clone(),
            span_fields: self.span_fields.clone(),
        }
    }
}

impl<S: fmt::Debug, L: SessionLookup, R> fmt::Debug for LoadUser<S, L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadUser")
            .field("inner", &self.inner)
            .field("sessions", &self.sessions)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for Settings<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("exempt", &self.exempt.is_some())
            .field("cache_headers", &self.cache_headers)
            .finish_non_exhaustive()
    }
}
