//! The layers around the handlers, from the outside in:
//!
//! 1. The secret headers are marked as sensitive, **before** a layer can log them.
//! 2. The tracing layer sees every request, including those that an inner layer rejects.
//! 3. The CSRF layer rejects requests that another site caused. They cost no lookup.
//! 4. `LoadUserLayer` is **inside** the CSRF layer.
//! 5. The handlers are innermost. Some of them are behind a `RequireUserLayer`.

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
            // Inside the tracing layer, so that the response is marked before the tracing layer
            // sees it.
            .layer(SetSensitiveResponseHeadersLayer::new([header::SET_COOKIE]))
            .layer(map_response(harden))
            .layer(csrf)
            .layer(load_user),
    )
}

/// Selects the requests that cost no lookup and work without the database.
fn needs_no_user(method: &Method, uri: &Uri) -> bool {
    match uri.path() {
        "/style.css" | "/events.js" | "/favicon.ico" | "/healthz" => true,
        "/sign-out" => method == Method::POST,
        _ => false,
    }
}

/// The pages load one style sheet and one script of this site. The script connects to this site
/// only, and forms are sent to this site only. No page may be framed.
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
    // With `no-referrer`, browsers send forms with `Origin: null`. The CSRF check rejects that if
    // there is no `Sec-Fetch-Site`.
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    );
    response
}
