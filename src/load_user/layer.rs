use std::{fmt, sync::Arc};

use http::{Method, Uri};
use tower_layer::Layer;

use crate::{
    load_user::{
        cache_headers::CacheHeaders,
        service::{Exempt, LoadUser, Settings},
        span_fields::SpanFields,
    },
    rejection::DefaultResponseForRejection,
    service::SessionService,
    store::SessionLookup,
};

/// Layer that applies [`LoadUser`]. See the [module's documentation](crate::load_user).
#[doc(alias("auth", "authentication", "session", "middleware"))]
#[must_use]
pub struct LoadUserLayer<L: SessionLookup, R = DefaultResponseForRejection> {
    sessions: SessionService<L>,
    settings: Settings<R>,
    span_fields: SpanFields<L::User>,
}

impl<L: SessionLookup> LoadUserLayer<L> {
    /// Creates a layer that looks sessions up with this service.
    pub const fn new(sessions: SessionService<L>) -> Self {
        let settings = Settings {
            exempt: None,
            cache_headers: CacheHeaders::All,
            stripped: None,
            rejection: DefaultResponseForRejection,
        };
        Self {
            sessions,
            settings,
            span_fields: SpanFields::NONE,
        }
    }
}

impl<L: SessionLookup, R> LoadUserLayer<L, R> {
    /// Passes requests for which `exempt` returns `true` to the inner service without a lookup.
    ///
    /// Use it for static files, health checks and sign-out. These requests reach the inner service
    /// even if the database is unavailable. They have **no user**, even if they have a cookie.
    pub fn exempt(
        mut self,
        exempt: impl Fn(&Method, &Uri) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.exempt = Some(Exempt(Arc::new(exempt)));
        self
    }

    /// Disables `Vary` and `Cache-Control`.
    ///
    /// The application must then ensure that no cache sends one user's page to another.
    pub fn without_cache_headers(mut self) -> Self {
        self.settings.cache_headers = CacheHeaders::None;
        self
    }

    /// Disables `Vary` on responses to anonymous requests.
    ///
    /// Use it for routes whose response does not depend on the session, such as static content in a
    /// shared cache. Do not use it for pages that differ for signed-in users. A shared cache would
    /// send the anonymous page to these users.
    pub fn without_vary_for_anonymous(mut self) -> Self {
        if matches!(self.settings.cache_headers, CacheHeaders::All) {
            self.settings.cache_headers = CacheHeaders::SignedIn;
        }
        self
    }

    /// Sets the prefix that a proxy in front of the application removes from every path, such as
    /// `/shop`.
    ///
    /// The sign-in page then leads back to the URI that the browser knows.
    ///
    /// A nested router inside this layer needs no setting, because the layer records the URI before
    /// the router rewrites it. Put the layer outside such a router.
    pub fn stripped_prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.settings.stripped = Some(prefix.into());
        self
    }

    /// Records the session's public id as the field `session.id` of the current
    /// [span](tracing::Span), if the request has a live session.
    ///
    /// The span is the one that an outer layer has entered, such as `tower_http`'s `TraceLayer`. It
    /// must declare the field. The name is that of OpenTelemetry's semantic conventions.
    ///
    /// ```
    /// use tower_http::trace::TraceLayer;
    /// # use tower_user_session::{LoadUserLayer, SessionService, store::MemorySessionStore};
    /// # #[derive(Clone)]
    /// # struct User { id: i64 }
    /// # let sessions = SessionService::new(MemorySessionStore::<i64, User>::new());
    ///
    /// let trace = TraceLayer::new_for_http().make_span_with(|request: &http::Request<String>| {
    ///     tracing::info_span!(
    ///         "request",
    ///         method = %request.method(),
    ///         session.id = tracing::field::Empty,
    ///         enduser.pseudo.id = tracing::field::Empty,
    ///     )
    /// });
    /// // `trace` is the outer layer of the two.
    /// let load_user = LoadUserLayer::new(sessions).record_session().record_user(|user| user.id);
    /// # let _ = (trace, load_user);
    /// ```
    pub fn record_session(mut self) -> Self {
        self.span_fields.session = true;
        self
    }

    /// Records what `id` returns as the field `enduser.pseudo.id` of the current span, as
    /// [`record_session`](Self::record_session) does.
    ///
    /// Return a key that means nothing outside the application. Traces are stored in other places
    /// than users, and for another time: do not return a name or an e-mail address.
    pub fn record_user<D: fmt::Display>(
        mut self,
        id: impl Fn(&L::User) -> D + Send + Sync + 'static,
    ) -> Self {
        self.span_fields.user = Some(Arc::new(move |user| id(user).to_string()));
        self
    }

    /// Sets the response that is sent when a lookup fails (503 by default).
    ///
    /// This layer does not reject anonymous requests. It passes them to the inner service.
    pub fn rejection_response<T>(self, response: T) -> LoadUserLayer<L, T> {
        let Settings {
            exempt,
            cache_headers,
            stripped,
            rejection: _,
        } = self.settings;
        LoadUserLayer {
            sessions: self.sessions,
            span_fields: self.span_fields,
            settings: Settings {
                exempt,
                cache_headers,
                stripped,
                rejection: response,
            },
        }
    }
}

impl<S, L: SessionLookup, R: Clone> Layer<S> for LoadUserLayer<L, R> {
    type Service = LoadUser<S, L, R>;

    fn layer(&self, inner: S) -> Self::Service {
        LoadUser::new(
            inner,
            self.sessions.clone(),
            self.settings.clone(),
            self.span_fields.clone(),
        )
    }
}

impl<L: SessionLookup, R: Clone> Clone for LoadUserLayer<L, R> {
    fn clone(&self) -> Self {
        Self {
            sessions: self.sessions.clone(),
            settings: self.settings.clone(),
            span_fields: self.span_fields.clone(),
        }
    }
}

impl<L: SessionLookup, R> fmt::Debug for LoadUserLayer<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadUserLayer")
            .field("sessions", &self.sessions)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
