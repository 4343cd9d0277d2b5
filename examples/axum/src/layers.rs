//! What stands around the handlers. From the outside in:
//!
//! 1. Secrets are marked as such, **before** anything could log them.
//! 2. Tracing sees every request, also those that are refused below.
//! 3. CSRF refuses what another site sent. That costs no lookup, because
//! 4. the user is loaded **inside** of it.
//! 5. Handlers, some of them behind a layer that demands a user.

use axum::{
    Router,
    http::{HeaderValue, Method, Uri, header},
    middleware::map_response,
    response::Response,
};
use example_application::{Application, Sessions};
use tower::ServiceBuilder;
use tower_http::{
    csrf::CsrfLayer,
    sensitive_headers::{SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer},
    trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer},
};
use tower_user_session::LoadUserLayer;
use tracing::Level;

use crate::pages;

pub(crate) fn around(router: Router<Application>, sessions: Sessions) -> Router<Application> {
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO));
    let csrf = CsrfLayer::new().with_rejection_response(pages::cross_site);
    let load_user = LoadUserLayer::new(sessions)
        .exempt(needs_no_user)
        .rejection_response(pages::unavailable);

    router.layer(
        ServiceBuilder::new()
            .layer(SetSensitiveRequestHeadersLayer::new([
                header::COOKIE,
                header::AUTHORIZATION,
            ]))
            .layer(trace)
            // Inside of tracing, since a response comes from there.
            .layer(SetSensitiveResponseHeadersLayer::new([header::SET_COOKIE]))
            .layer(map_response(harden))
            .layer(csrf)
            .layer(load_user),
    )
}

/// These cost no lookup, and work while the database does not.
fn needs_no_user(method: &Method, uri: &Uri) -> bool {
    match uri.path() {
        "/style.css" | "/events.js" | "/favicon.ico" | "/healthz" => true,
        "/sign-out" => method == Method::POST,
        _ => false,
    }
}

/// The pages load one style sheet and one script, which asks this site only, send forms to this site, and stand in nobody's frame.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Not `no-referrer`: browsers then send forms with `Origin: null`, which the CSRF check refuses
    // where there is no `Sec-Fetch-Site`.
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    );
    response
}
