use std::{fmt, sync::Arc};

use http::{Method, Uri};
use tower_layer::Layer;

use crate::{
    load_user::{
        cache_headers::CacheHeaders,
        service::{Exempt, LoadUser, Settings},
    },
    rejection::DefaultResponseForRejection,
    service::SessionService,
    store::SessionLookup,
};

/// Layer that applies [`LoadUser`]. See the [module's documentation](crate::load_user).
#[must_use]
pub struct LoadUserLayer<L: SessionLookup, R = DefaultResponseForRejection> {
    sessions: SessionService<L>,
    settings: Settings<R>,
}

impl<L: SessionLookup> LoadUserLayer<L> {
    /// A layer that asks this service.
    pub const fn new(sessions: SessionService<L>) -> Self {
        let settings = Settings {
            exempt: None,
            cache_headers: CacheHeaders::All,
            stripped: None,
            rejection: DefaultResponseForRejection,
        };
        Self { sessions, settings }
    }
}

impl<L: SessionLookup, R> LoadUserLayer<L, R> {
    /// Leaves the requests alone for which `exempt` says `true`: static files, health checks,
    /// signing out. They cost no lookup and work while the database does not, and the inner service
    /// sees **no user** on them, cookie or not.
    pub fn exempt(
        mut self,
        exempt: impl Fn(&Method, &Uri) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.exempt = Some(Exempt(Arc::new(exempt)));
        self
    }

    /// Adds no `Vary` and no `Cache-Control`. Then the
    /// application must see to it that no cache hands one person's page to another.
    pub fn without_cache_headers(mut self) -> Self {
        self.settings.cache_headers = CacheHeaders::None;
        self
    }

    /// Adds no `Vary` to the responses to anonymous requests, for routes whose response depends on no session:
    /// static content that a shared cache keeps for everybody.
    ///
    /// Do not call it for pages that a signed-in user sees otherwise: a shared cache would hand them the anonymous
    /// page.
    pub fn without_vary_for_anonymous(mut self) -> Self {
        if matches!(self.settings.cache_headers, CacheHeaders::All) {
            self.settings.cache_headers = CacheHeaders::SignedIn;
        }
        self
    }

    /// Names the prefix that a proxy in front of the application removes from every path, such as `/shop`. A person
    /// who is sent to the sign-in page then comes back to the URI that their browser knows.
    ///
    /// A router inside this layer needs no setting: the layer records the URI before the router rewrites it. Put
    /// the layer outside the router that nests.
    pub fn stripped_prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.settings.stripped = Some(prefix.into());
        self
    }

    /// Builds the 503 in another way. Requests that nobody is signed in on never come to this: they
    /// reach the inner service.
    pub fn rejection_response<T>(self, response: T) -> LoadUserLayer<L, T> {
        let Settings {
            exempt,
            cache_headers,
            stripped,
            rejection: _,
        } = self.settings;
        LoadUserLayer {
            sessions: self.sessions,
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
        LoadUser::new(inner, self.sessions.clone(), self.settings.clone())
    }
}

impl<L: SessionLookup, R: Clone> Clone for LoadUserLayer<L, R> {
    fn clone(&self) -> Self {
        Self {
            sessions: self.sessions.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<L: SessionLookup, R> fmt::Debug for LoadUserLayer<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadUserLayer")
            .field("sessions", &self.sessions)
            .field("settings", &self.settings)
            .finish()
    }
}
