//! The JSON API under `/api`. An error is a JSON object too (problem details, RFC 9457).

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use example_application::{Application, User};
use serde_json::json;
use tower_http::csrf::ProtectionError;
use tower_user_session::{
    CurrentUser, RequireUserLayer,
    rejection::{Rejection, RejectionKind},
};

pub(crate) fn router() -> Router<Application> {
    let members_only = RequireUserLayer::<User>::new().rejection_response(rejected);
    Router::new()
        .route("/me", get(me).layer(members_only))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

async fn me(CurrentUser(user): CurrentUser<User>) -> Json<User> {
    Json(user)
}

/// The response of `LoadUserLayer` and `RequireUserLayer` to a rejected request.
pub(crate) fn rejected(rejection: &Rejection) -> Response<Body> {
    let detail = match rejection.kind() {
        RejectionKind::Unauthenticated => "Sign in first.",
        RejectionKind::ReauthenticationRequired => "Enter your password again first.",
        RejectionKind::Forbidden => "You are not allowed to do this.",
        RejectionKind::Unavailable => "Back in a moment. Please try again.",
    };
    let mut response = problem(rejection.status(), detail);
    let head = rejection.empty_response::<Body>();
    response.headers_mut().extend(head.headers().clone());
    response
}

/// The response of `CsrfLayer` to a rejected request.
pub(crate) fn cross_site(_: ProtectionError) -> Response<Body> {
    problem(StatusCode::FORBIDDEN, "Another site sent this request.")
}

async fn not_found() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "There is nothing at this address.")
}

async fn method_not_allowed() -> Response<Body> {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "This address does not support the method.",
    )
}

fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason();
    let problem = json!({ "title": title, "status": status.as_u16(), "detail": detail });
    let mut response = (status, Json(problem)).into_response();
    let content_type = HeaderValue::from_static("application/problem+json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
