//! Extractors and response parts for axum, which depend on `axum-core` only.
//!
//! | extractor | if no user is signed in |
//! |---|---|
//! | [`CurrentUser<U>`](CurrentUser), [`CurrentSession<U>`](CurrentSession) | 401 (gRPC 16) |
//! | `Option<CurrentUser<U>>`, `Option<CurrentSession<U>>` | `None` |
//!
//! [`SignedIn`] and [`SignedOut`] are response parts. In a tuple before the response, [`SignedIn`]
//! sets the cookie, and [`SignedOut`] removes it. A handler can return [`Error`] and
//! [`ParseSessionIdError`] as responses.
//!
//! # Example
//!
//! ```
//! use axum::{extract::State, http::{HeaderMap, StatusCode}, response::Redirect};
//! use tower_user_session::{
//!     CurrentSession, CurrentUser, SessionService, SignedIn, store::MemorySessionStore,
//! };
//!
//! #[derive(Clone)]
//! struct User {
//!     id: i64,
//! }
//!
//! type Sessions = SessionService<MemorySessionStore<i64, User>>;
//!
//! /// Checks the password again, then rotates the token.
//! async fn reauthenticate(
//!     State(sessions): State<Sessions>,
//!     CurrentUser(user): CurrentUser<User>,
//!     headers: HeaderMap,
//! ) -> axum::response::Result<(SignedIn, Redirect)> {
//!     check_password(user.id).await.ok_or(StatusCode::FORBIDDEN)?;
//!     let signed_in = sessions.reauthenticate(user.id, &headers).await?;
//!     Ok((signed_in, Redirect::to("/account")))
//! }
//!
//! async fn expires_in(session: CurrentSession<User>) -> String {
//!     format!("{} s", session.remaining().as_secs())
//! }
//! # async fn check_password(_: i64) -> Option<()> { Some(()) }
//! # let _: axum::Router<Sessions> = axum::Router::new()
//! #     .route("/reauthenticate", axum::routing::post(reauthenticate))
//! #     .route("/expires-in", axum::routing::get(expires_in));
//! ```

use std::{convert::Infallible, ops::Deref, sync::LazyLock};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{
    error::{Chain, Error},
    log_limit::LogLimiter,
    rejection::{RETRY_AFTER, Rejection, RejectionKind, log_no_user},
    service::{SignedIn, SignedOut},
    session::{CurrentSession, ParseSessionIdError},
};

/// Extractor of the user that [`LoadUserLayer`](crate::load_user::LoadUserLayer) attached.
///
/// If no user is signed in, the extractor rejects the request with 401 (gRPC 16), as
/// [`RequireUserLayer`](crate::require_user::RequireUserLayer) does. `Option<CurrentUser<U>>`
/// accepts anonymous requests. `CurrentSession<U>` can be extracted in the same two ways.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_user_session::{CurrentUser, LoadUserLayer, SessionService, store::MemorySessionStore};
///
/// #[derive(Clone)]
/// struct User {
///     email: String,
/// }
///
/// async fn account(CurrentUser(user): CurrentUser<User>) -> String {
///     format!("Hello, {}", user.email)
/// }
///
/// async fn home(user: Option<CurrentUser<User>>) -> &'static str {
///     if user.is_some() { "Welcome back" } else { "Please sign in" }
/// }
///
/// let sessions = SessionService::new(MemorySessionStore::<i64, User>::new());
/// let app: Router = Router::new()
///     .route("/account", get(account))
///     .route("/", get(home))
///     .layer(LoadUserLayer::new(sessions));
/// ```
///
/// `CurrentUser` dereferences to the user.
#[doc(alias("auth", "authenticated", "login", "principal"))]
#[derive(Clone, Copy, Debug)]
pub struct CurrentUser<U>(pub U);

impl<U> Deref for CurrentUser<U> {
    type Target = U;

    fn deref(&self) -> &U {
        &self.0
    }
}

impl<U, S> FromRequestParts<S> for CurrentUser<U>
where
    U: Clone + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        extension(parts)
            .map(Self)
            .ok_or_else(|| unauthenticated::<U>(parts))
    }
}

impl<U, S> OptionalFromRequestParts<S> for CurrentUser<U>
where
    U: Clone + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(extension(parts).map(Self))
    }
}

impl<U, S> FromRequestParts<S> for CurrentSession<U>
where
    U: 'static,
    S: Sync,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        extension(parts).ok_or_else(|| unauthenticated::<U>(parts))
    }
}

impl<U, S> OptionalFromRequestParts<S> for CurrentSession<U>
where
    U: 'static,
    S: Sync,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(extension(parts))
    }
}

fn unauthenticated<U>(parts: &Parts) -> Rejection {
    log_no_user::<U>();
    Rejection::new(RejectionKind::Unauthenticated, &parts.headers)
}

/// A response has no service, so that the limit is that of the process.
static FAILED: LazyLock<LogLimiter> = LazyLock::new(LogLimiter::default);

fn extension<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Option<T> {
    parts.extensions.get().cloned()
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        crate::rejection::reject(&mut crate::rejection::DefaultResponseForRejection, self)
    }
}

impl IntoResponse for Error {
    /// Responds with [`Error::status`] and an empty body.
    ///
    /// The client does not learn the cause. The error is logged if the status is 500 or above, at
    /// most once in ten seconds per process. A response with 503 has `Retry-After`.
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error()
            && let Some(requests) = FAILED.count()
        {
            tracing::error!(
                target: "tower_user_session",
                event = "request_failed",
                kind = ?self.kind(),
                outcome = self.outcome(),
                error = %Chain(&self),
                requests,
                "request failed"
            );
        }
        let mut response = (status, [(header::CACHE_CONTROL, "no-store")]).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

impl IntoResponse for ParseSessionIdError {
    /// Responds with 404: no session has this id.
    fn into_response(self) -> Response {
        not_found()
    }
}

/// Extractor that turns client errors (4xx) of the extractor `E` into 404.
///
/// Use it with axum's `Path`, which responds with 400 if a parameter cannot be parsed. A malformed
/// [`SessionId`] and an unknown [`SessionId`] then have the same response. Server errors (5xx) of
/// `E` are not changed, because they show a defect: the handler reads a parameter that its route
/// does not have.
///
/// With the feature `serde`, `Path` can parse a [`SessionId`].
///
/// ```
/// use axum::{Router, extract::Path, routing::delete};
/// use tower_user_session::{extract::OrNotFound, session::SessionId};
///
/// async fn revoke(OrNotFound(Path(id)): OrNotFound<Path<SessionId>>) -> String {
///     format!("{id} is well-formed")
/// }
///
/// let app: Router = Router::new().route("/sessions/{id}", delete(revoke));
/// ```
///
/// Without `serde`, extract `Path<String>` and parse the text. The response of a
/// [`ParseSessionIdError`] is 404, too.
///
/// [`SessionId`]: crate::session::SessionId
#[derive(Clone, Copy, Debug)]
pub struct OrNotFound<E>(pub E);

impl<E, S> FromRequestParts<S> for OrNotFound<E>
where
    E: FromRequestParts<S>,
    S: Sync,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let extracted = E::from_request_parts(parts, state).await;
        extracted.map(Self).map_err(|rejection| {
            let response = rejection.into_response();
            if response.status().is_client_error() {
                not_found()
            } else {
                response
            }
        })
    }
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CACHE_CONTROL, "no-store")]).into_response()
}

impl IntoResponseParts for SignedIn {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.write_to(parts.headers_mut());
        Ok(parts)
    }
}

impl IntoResponse for SignedIn {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl IntoResponseParts for SignedOut {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        self.write_to(parts.headers_mut());
        Ok(parts)
    }
}

impl IntoResponse for SignedOut {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}
