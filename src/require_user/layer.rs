use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;

use crate::{
    rejection::DefaultResponseForRejection,
    require_user::{RequireUser, guard::Guard},
};

/// Layer that applies [`RequireUser`]. See the [module's documentation](crate::require_user).
///
/// `U` is the application's user type, the same as that of the `LoadUserLayer` outside. The layer
/// reads the [`CurrentSession`](crate::session::CurrentSession) of that type and of no other one.
///
/// # Order of layers
///
/// A request must pass the `LoadUserLayer` first. Without one, or in the wrong order, every request
/// is refused. In a `tower::ServiceBuilder` the layer that is added first is the outer one. On an axum
/// `Router` the layer that is added last is the outer one:
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::ServiceBuilder;
/// use tower_user_session::{
///     LoadUserLayer, RequireUserLayer, SessionService, store::MemorySessionStore,
/// };
///
/// #[derive(Clone)]
/// struct User;
///
/// # let store = MemorySessionStore::<i64, User>::new();
/// let sessions = SessionService::new(store);
/// let account = Router::new()
///     .route("/account", get(|| async { "Your balance" }))
///     .layer(RequireUserLayer::<User>::new()); // reached second
/// let app: Router = Router::new()
///     .merge(account)
///     .layer(LoadUserLayer::new(sessions.clone())); // reached first
///
/// let layers = ServiceBuilder::new()
///     .layer(LoadUserLayer::new(sessions)) // reached first
///     .layer(RequireUserLayer::<User>::new()); // reached second
/// # let _: Router = Router::new().merge(app).layer(layers);
/// ```
#[must_use]
pub struct RequireUserLayer<U, R = DefaultResponseForRejection> {
    guard: Guard<U>,
    rejection: R,
}

impl<U> RequireUserLayer<U> {
    /// A layer that demands a user.
    pub const fn new() -> Self {
        Self {
            guard: Guard::new(),
            rejection: DefaultResponseForRejection,
        }
    }
}

impl<U, R> RequireUserLayer<U, R> {
    /// Lets only those users through for whom `allowed` says `true`: 403, gRPC status 7, to others.
    /// Replaces an earlier condition.
    pub fn allow_if(self, allowed: impl Fn(&U) -> bool + Send + Sync + 'static) -> Self {
        self.allow_request_if(move |user, _| allowed(user))
    }

    /// Like [`allow_if`](Self::allow_if), with the request's head: method, URI and headers. For a rule that depends
    /// on what is asked for: the owner of `/projects/{id}`, or one gRPC method (the path is
    /// `/package.Service/Method`).
    ///
    /// The URI is the one that this layer sees: inside a nested router, without the prefix.
    ///
    /// ```
    /// use http::Method;
    /// use tower_user_session::RequireUserLayer;
    ///
    /// # struct User { is_editor: bool }
    /// let layer = RequireUserLayer::<User>::new()
    ///     .allow_request_if(|user, head| head.method == Method::GET || user.is_editor);
    /// # let _: RequireUserLayer<User> = layer;
    /// ```
    pub fn allow_request_if(
        mut self,
        allowed: impl Fn(&U, &Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.guard.condition = Some(Arc::new(allowed));
        self
    }

    /// Demands that the person has proved who they are at most this long ago, by the store's clock:
    /// 401, gRPC status 16, where they have not. For routes that change what protects the account
    /// (OWASP ASVS 5.0, 7.5.1). [`SessionService::reauthenticate`](crate::SessionService::reauthenticate) renews
    /// the proof.
    pub const fn max_auth_age(mut self, age: Duration) -> Self {
        self.guard.proof = Some(age);
        self
    }

    /// Sends a person who opens a page without being signed in to this page of the site, with 303
    /// and where they were going in the parameter `next`: read it with [`ReturnTo::parse`].
    ///
    /// Only a navigation is answered so: `GET` or `HEAD` with `Sec-Fetch-Mode: navigate`, `POST` with
    /// `Sec-Fetch-Dest: document` besides, or where the browser does not say, one that accepts `text/html`.
    /// Everything else gets the 401: a script that follows a redirect would take the sign-in page for its answer.
    ///
    /// | navigation | `next` | besides |
    /// |---|---|---|
    /// | `GET` | the page, as the browser sees its URI | |
    /// | `HEAD` | none | |
    /// | `POST` | the page that the form is on, if `Referer` is one of this host | `unsent=form` |
    ///
    /// A form that was sent after the session had expired **is lost**: nothing repeats a `POST`. The page should say
    /// so if it sees `unsent=form`. `next` is never the URL of the `POST`.
    ///
    /// The URI of a page is recorded by the `LoadUserLayer` outside, so that a nested router in between may rewrite
    /// it. For a proxy that does so there is
    /// [`LoadUserLayer::stripped_prefix`](crate::LoadUserLayer::stripped_prefix). `page` itself is written as the
    /// browser sees it.
    ///
    /// [`ReturnTo::parse`]: crate::require_user::ReturnTo::parse
    pub fn sign_in_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.sign_in_page = Some(page.into());
        self
    }

    /// Like [`sign_in_page`](Self::sign_in_page), for a person whose proof is too old: the page that
    /// asks for the password again.
    pub fn reauthentication_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.reauthentication_page = Some(page.into());
        self
    }

    /// Like [`sign_in_page`](Self::sign_in_page), for a user who is not allowed to do this: a page that says so and
    /// leads back, or to a sign-in as another user. It has the same parameters.
    pub fn forbidden_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.forbidden_page = Some(page.into());
        self
    }

    /// Builds the response to whoever is turned away in another way.
    pub fn rejection_response<T>(self, response: T) -> RequireUserLayer<U, T> {
        RequireUserLayer {
            guard: self.guard,
            rejection: response,
        }
    }
}

impl<U> Default for RequireUserLayer<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, U, R: Clone> Layer<S> for RequireUserLayer<U, R> {
    type Service = RequireUser<S, U, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireUser::new(inner, self.guard.clone(), self.rejection.clone())
    }
}

impl<U, R: Clone> Clone for RequireUserLayer<U, R> {
    fn clone(&self) -> Self {
        Self {
            guard: self.guard.clone(),
            rejection: self.rejection.clone(),
        }
    }
}

impl<U, R> fmt::Debug for RequireUserLayer<U, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireUserLayer").finish_non_exhaustive()
    }
}
