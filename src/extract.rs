//! Extractors and response parts for axum, on `axum-core` alone.

use std::{convert::Infallible, ops::Deref};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{
    CurrentSession, Error, ParseSessionIdError, Rejection, RejectionKind, SignedIn, SignedOut,
    error::Chain, rejection::RETRY_AFTER,
};

/// Extractor of the user that [`LoadUserLayer`](crate::LoadUserLayer) attached.
///
/// Where nobody is signed in it answers like [`RequireUserLayer`](crate::RequireUserLayer), with 401
/// (gRPC: 16). `Option<CurrentUser<U>>` takes anonymous requests as well. `CurrentSession<U>` can be
/// extracted in the same two ways.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_user_session::{CurrentUser, LoadUserLayer, MemorySessionStore, SessionService};
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
/// It dereferences to the user.
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
            .ok_or_else(|| Rejection::new(RejectionKind::Unauthenticated, &parts.headers))
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
        extension(parts)
            .ok_or_else(|| Rejection::new(RejectionKind::Unauthenticated, &parts.headers))
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

fn extension<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Option<T> {
    parts.extensions.get().cloned()
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        crate::rejection::reject(&mut crate::DefaultResponseForRejection, self)
    }
}

impl IntoResponse for Error {
    /// [`Error::status`], with an empty body: the client learns nothing of the cause, which is logged. A 503 carries
    /// `Retry-After`.
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = %Chain(&self), "a request failed");
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
    /// 404: there is no session of this name.
    fn into_response(self) -> Response {
        (StatusCode::NOT_FOUND, [(header::CACHE_CONTROL, "no-store")]).into_response()
    }
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
