//! The layers around the handlers, from the outside in:
//!
//! 1. The secret headers are marked as sensitive, **before** a layer can log them.
//! 2. The tracing layer sees every request, including those that an inner layer rejects.
//! 3. The CSRF layer rejects requests that another site caused. They cost no lookup.
//! 4. `LoadUserLayer` is **inside** the CSRF layer.
//! 5. The handlers are innermost. Some of them are behind a `RequireUserLayer`.
//!
//! The pages and the API have the same layers. They differ in the format of their errors.

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Response, Uri, header},
    middleware::map_response,
};
use example_application::{Application, Sessions};
use tower::ServiceBuilder;
use tower_http::{
    csrf::{CsrfLayer, ProtectionError},
    sensitive_headers::{SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer},
    trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer},
};
use tower_user_session::{LoadUserLayer, rejection::Rejection};
use tracing::Level;

/// Adds the layers that find out who makes a request.
pub(crate) fn identify(
    router: Router<Application>,
    sessions: &Sessions,
    cross_site: fn(ProtectionError) -> Response<Body>,
    rejected: fn(&Rejection) -> Response<Body>,
) -> Router<Application> {
    let csrf = CsrfLayer::new().with_rejection_response(cross_site);
    let load_user = LoadUserLayer::new(sessions.clone())
        .exempt(needs_no_user)
        .rejection_response(rejected);
    router.layer(ServiceBuilder::new().layer(csrf).layer(load_user))
}

/// Selects the requests that cost no lookup and work without the database.
fn needs_no_user(method: &Method, uri: &Uri) -> bool {
    match uri.path() {
        "/style.css" | "/events.js" | "/icon.svg" | "/favicon.ico" | "/healthz" => true,
        "/sign-out" => method == Method::POST,
        _ => false,
    }
}

/// Adds the outermost layers.
pub(crate) fn around(router: Router<Application>) -> Router<Application> {
    let trace = TraceLayer::new_for_http()
        .make_span_with(DefaultMakeSpan::new().level(Level::INFO))
        .on_response(DefaultOnResponse::new().level(Level::INFO));
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
            .layer(map_response(harden)),
    )
}

/// The pages load one style sheet, one script and one icon of this site. The script connects to
/// this site only, and forms are sent to this site only. No page may be framed.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

async fn harden(mut response: Response<Body>) -> Response<Body> {
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
