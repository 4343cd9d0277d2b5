//! While the store fails: which requests are rejected, with which response, and what is logged.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Method, Request, Response, StatusCode, Uri};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_user_session::{
    ErrorKind, LoadUserLayer, RequireUserLayer,
    rejection::{Rejection, RejectionKind},
    session::SessionToken,
};

use crate::support::{
    Logs, User, WatchedSessions, memory, request, signed_in_cookie, visible, watched, who,
};

/// Exempt requests make no lookup, work without the store and see no user.
#[tokio::test]
async fn exempt_requests_make_no_lookup_and_work_without_the_store() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let exempt = |method: &Method, uri: &Uri| method == Method::GET && uri.path() == "/health";
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()).exempt(exempt))
        .service_fn(who);
    let ask = async |method: &str, path: &str| {
        let mut request = request(&cookie);
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = path.parse().unwrap();
        service.clone().oneshot(request).await.unwrap()
    };
    assert_eq!(ask("GET", "/").await.body(), "ada@example.com");
    sessions.store().set_failing(true);
    let finds = sessions.store().finds();
    let counts = sessions.metrics();
    let response = ask("GET", "/health").await;
    assert_eq!(visible(&response), r#"HTTP/1.1 200 OK [] "anonymous""#);
    assert_eq!(sessions.store().finds(), finds);
    assert_eq!(sessions.metrics(), counts);
    for (method, path) in [("GET", "/"), ("POST", "/health"), ("GET", "/health/")] {
        assert_eq!(
            ask(method, path).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}

/// The layers over an inner service that counts its calls.
fn counted(
    sessions: &WatchedSessions,
) -> (
    impl Service<Request<String>, Response = Response<String>, Error = Infallible> + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&calls);
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(move |request: Request<String>| {
            inner.fetch_add(1, SeqCst);
            who(request)
        });
    (service, calls)
}

/// F01: while the store fails, a request with a token gets a 503 and the inner service is not
/// called. All other requests are served. When the store works again, the token is valid again.
#[tokio::test]
async fn a_failing_store_is_a_503_for_those_with_a_token_only() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let (service, calls) = counted(&sessions);
    sessions.store().set_failing(true);
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    for cookie in [&cookie, &unknown] {
        let response = service.clone().oneshot(request(cookie)).await.unwrap();
        assert_eq!(
            visible(&response),
            concat!(
                r#"HTTP/1.1 503 Service Unavailable ["cache-control: no-store", "#,
                r#""content-type: text/plain; charset=utf-8", "retry-after: 2"] "#,
                r#""The service is unavailable at the moment. Please try again.""#
            )
        );
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.kind(), RejectionKind::Unavailable);
        assert!(!rejection.is_grpc());
        assert_eq!(rejection.error().unwrap().kind(), ErrorKind::Connection);
    }
    assert_eq!(calls.load(SeqCst), 0);
    assert_eq!(sessions.metrics().unavailable, 2);
    for cookie in ["a=b", "__Host-session=x"] {
        let response = service.clone().oneshot(request(cookie)).await.unwrap();
        assert_eq!(response.body(), "anonymous");
    }
    sessions.store().set_failing(false);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "ada@example.com");
    assert_eq!(calls.load(SeqCst), 3);
}

/// The application's own response is returned unchanged, and outer layers find the cause in its
/// extensions.
#[tokio::test]
async fn an_application_can_replace_the_rejection_response() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let page = |rejection: &Rejection| {
        let text = match rejection.error() {
            Some(error) => format!("{rejection}: {error}"),
            None => rejection.to_string(),
        };
        let mut response = Response::new(text);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    };
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()).rejection_response(page))
        .layer(RequireUserLayer::<User>::new().rejection_response(page))
        .service_fn(who);
    let response = service.clone().oneshot(request("a=b")).await.unwrap();
    assert_eq!(
        visible(&response),
        r#"HTTP/1.1 418 I'm a teapot ["vary: cookie"] "authentication required""#
    );
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Unauthenticated);

    sessions.store().set_failing(true);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert!(
        response.body().contains("database connection failed"),
        "{response:?}"
    );
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Unavailable);
}

/// A16, I12: a flood of invalid cookies logs one event, and so does a flood of failures. Each event
/// has the count so far. No event contains any part of the cookie.
#[tokio::test]
async fn repeated_failures_log_one_event() {
    let logs = Logs::capture();
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(who);
    let before = logs.events().len();
    for n in 0..500 {
        let cookie = format!("__Host-session=flood{n}");
        service.clone().oneshot(request(&cookie)).await.unwrap();
    }
    sessions.store().set_failing(true);
    for _ in 0..500 {
        service.clone().oneshot(request(&cookie)).await.unwrap();
    }
    let events = logs.events();
    let [warning, error] = &events[before..] else {
        panic!("{events:?}")
    };
    assert!(
        warning.contains("WARN") && warning.contains("requests=1"),
        "{warning}"
    );
    assert!(
        error.contains("ERROR") && error.contains("requests=1"),
        "{error}"
    );
    let token = cookie.strip_prefix("__Host-session=").unwrap();
    assert!(!logs.text().contains("flood") && !logs.text().contains(token));
    assert_eq!(sessions.metrics().rejected, 500);
    assert_eq!(sessions.metrics().unavailable, 500);
}
