use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tower_layer::Layer;

use crate::{
    rejection::DefaultResponseForRejection,
    require_user::{RequireUser, guard::Guard},
};

/// Layer that applies [`RequireUser`]. See the [module's documentation](crate::require_user).
///
/// `U` is the application's user type. It must be the user type of the outer `LoadUserLayer`. The
/// layer reads only the [`CurrentSession`](crate::session::CurrentSession) of that type.
///
/// # Order of layers
///
/// A request must pass through the `LoadUserLayer` first. Without a `LoadUserLayer`, or if the
/// order is wrong, every request is rejected. In a `tower::ServiceBuilder`, the layer that is added
/// first is the outer layer. On an axum `Router`, the layer that is added last is the outer layer:
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
#[doc(alias("auth", "authorization", "guard", "login_required"))]
#[must_use]
pub struct RequireUserLayer<U, R = DefaultResponseForRejection> {
    guard: Guard<U>,
    rejection: R,
}

impl<U> RequireUserLayer<U> {
    /// Creates a layer that requires a user.
    pub const fn new() -> Self {
        Self {
            guard: Guard::new(),
            rejection: DefaultResponseForRejection,
        }
    }
}

impl<U, R> RequireUserLayer<U, R> {
    /// Rejects users for whom `allowed` returns `false`, with 403 (gRPC status 7).
    ///
    /// This condition replaces an earlier condition.
    #[doc(alias("permission_required", "role"))]
    pub fn allow_if(self, allowed: impl Fn(&U) -> bool + Send + Sync + 'static) -> Self {
        self.allow_request_if(move |user, _| allowed(user))
    }

    /// Like [`allow_if`](Self::allow_if), with the request's head: method, URI and headers.
    ///
    /// Use it for a condition that depends on the request, such as the owner of `/projects/{id}`.
    /// It can also be a condition for one gRPC method: the path is `/package.Service/Method`.
    ///
    /// The head has the URI that this layer receives. Inside a nested router, this URI has no
    /// prefix.
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

    /// Rejects users whose last authentication is older than `age` by the store's clock, with 401
    /// (gRPC status 16).
    ///
    /// Use it for routes that change the protection of the account (OWASP ASVS 5.0, 7.5.1).
    /// [`SessionService::reauthenticate`](crate::SessionService::reauthenticate) renews the
    /// authentication.
    #[doc(alias("sudo", "step_up", "reauthentication"))]
    pub const fn max_auth_age(mut self, age: Duration) -> Self {
        self.guard.proof = Some(age);
        self
    }

    /// Redirects a browser's navigation to this page if no user is signed in, with 303.
    ///
    /// The parameter `next` has the path to return to. Read it with [`ReturnTo::parse`].
    ///
    /// A navigation is a `GET` or `HEAD` with `Sec-Fetch-Mode: navigate`. A `POST` also needs
    /// `Sec-Fetch-Dest: document`. If the browser sends no `Sec-Fetch-Mode`, the request must
    /// accept `text/html`. All other requests are rejected with 401, because a script that follows
    /// a redirect would treat the sign-in page as its response.
    ///
    /// | navigation | `next` | other parameter |
    /// |---|---|---|
    /// | `GET` | the page, as the browser sees its URI | |
    /// | `HEAD` | none | |
    /// | `POST` | the page of the form, if `Referer` is on this host | `unsent=form` |
    ///
    /// A form that is sent after the session has expired **is lost**: the `POST` is not repeated.
    /// The sign-in page should report the loss if it receives `unsent=form`. `next` is never the
    /// URL of the `POST`.
    ///
    /// The outer `LoadUserLayer` records the URI of a page, so a nested router between the two
    /// layers can rewrite the URI. For a proxy that rewrites the URI, use
    /// [`LoadUserLayer::stripped_prefix`](crate::LoadUserLayer::stripped_prefix). `page` itself
    /// must be the URI that the browser sees.
    ///
    /// [`ReturnTo::parse`]: crate::require_user::ReturnTo::parse
    #[doc(alias("login", "redirect", "login_url"))]
    pub fn sign_in_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.sign_in_page = Some(page.into());
        self
    }

    /// Redirects a navigation to this page if the user's last authentication is too old.
    ///
    /// The page asks for the password again. The page receives the same parameters as the
    /// [`sign_in_page`](Self::sign_in_page).
    pub fn reauthentication_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.reauthentication_page = Some(page.into());
        self
    }

    /// Redirects a navigation to this page if the user does not meet the condition.
    ///
    /// The page can link back to the page from which the user came, or to a sign-in as another
    /// user. The page receives the same parameters as the [`sign_in_page`](Self::sign_in_page).
    pub fn forbidden_page(mut self, page: impl Into<Cow<'static, str>>) -> Self {
        self.guard.forbidden_page = Some(page.into());
        self
    }

    /// Sets the response to rejected requests.
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
