//! Where a rejected browser is redirected: from nested routers, behind proxies, and from forms.
//! Also the rejection's text.

use std::{convert::Infallible, net::SocketAddr};

use axum::{Router, body::Body, routing::get};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_user_session::{
    LoadUserLayer, RequireUserLayer, SignedIn, cookie::SessionCookie,
    rejection::EmptyResponseForRejection,
};

use crate::support::{
    MemorySessions, User,
    loopback::{Client, Http, serve},
    memory,
};

const NAVIGATION: [(&str, &str); 2] = [
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
];

fn head(method: Method, uri: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

fn location<B>(response: &Response<B>) -> &str {
    let location = response.headers().get(header::LOCATION);
    location.map_or("", |location| location.to_str().unwrap())
}

fn guard() -> RequireUserLayer<User> {
    RequireUserLayer::new().sign_in_page("/sign-in".to_owned())
}

/// An application with a guard inside a router that is nested twice.
fn nested() -> Router {
    let inner = Router::new()
        .route("/profile", get(|| async { "profile" }))
        .route("/", get(|| async { "index" }))
        .layer(guard());
    let user = Router::new().nest("/settings", inner.clone()).merge(inner);
    Router::new().nest("/user", user)
}

/// O03: the path is restored from inside nested routers, whether the layer is inside or around the
/// router, and behind a proxy that strips a prefix.
#[tokio::test]
async fn a_page_in_nested_routers_is_returned_to() {
    let sessions = memory();
    let load = || LoadUserLayer::new(sessions.clone());
    let around = |layer: LoadUserLayer<_>| Router::new().fallback_service(layer.layer(nested()));
    // A layer for other users, inside the first nested router, sees a shorter path and changes
    // nothing.
    let again = Router::new().nest(
        "/user",
        Router::new()
            .nest(
                "/settings",
                Router::new()
                    .route("/profile", get(|| async {}))
                    .layer(guard()),
            )
            .route("/profile", get(|| async {}).layer(guard()))
            .layer(LoadUserLayer::new(memory())),
    );
    for (app, prefix) in [
        (nested().layer(load()), ""),
        (around(load()), ""),
        (again.layer(load()), ""),
        (nested().layer(load().stripped_prefix("/app")), "/app"),
        (nested().layer(load().stripped_prefix("/app/")), "/app"),
        (around(load().stripped_prefix("/a/b".to_owned())), "/a/b"),
    ] {
        for (path, next) in [
            ("/user/profile", "/user/profile"),
            ("/user/profile?tab=2", "/user/profile%3Ftab%3D2"),
            ("/user/settings/profile", "/user/settings/profile"),
        ] {
            let request = head(Method::GET, path, &NAVIGATION);
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SEE_OTHER);
            assert_eq!(location(&response), format!("/sign-in?next={prefix}{next}"));
        }
    }
}

/// O03: a prefix that leads to another site is not returned to.
#[tokio::test]
async fn an_unsafe_prefix_is_not_returned_to() {
    for prefix in [
        "//evil.example",
        "https://evil.example",
        "app",
        "/a/../b",
        "/a\\b",
    ] {
        let load = LoadUserLayer::new(memory()).stripped_prefix(prefix);
        let request = head(Method::GET, "/user/profile", &NAVIGATION);
        let response = nested().layer(load).oneshot(request).await.unwrap();
        assert_eq!(location(&response), "/sign-in", "{prefix}");
    }
}

/// O03 on hyper, over a socket: a service of the application removes a prefix.
#[tokio::test]
async fn a_rewritten_page_is_returned_to_on_hyper() {
    let guarded = ServiceBuilder::new()
        .layer(guard())
        .service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::<Full<Bytes>>::default())
        });
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(memory()))
        .service(service_fn(move |mut request: Request<Incoming>| {
            let path = request
                .uri()
                .path()
                .strip_prefix("/user")
                .unwrap()
                .to_owned();
            *request.uri_mut() = Uri::try_from(path).unwrap();
            let mut guarded = guarded.clone();
            async move { guarded.call(request).await }
        }));
    for http in [Http::One, Http::Two] {
        let client = Client::connect(http, serve(http, app.clone()).await).await;
        let uri = match http {
            Http::One => "/user/profile",
            Http::Two => "http://app.example.com/user/profile",
        };
        let request = Request::builder()
            .uri(uri)
            .header("host", "app.example.com")
            .header("accept", "text/html");
        let response = client.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(location(&response), "/sign-in?next=/user/profile");
    }
}

/// O04: a form that is sent without a session leads to the sign-in page, which learns that the form
/// was not processed, and back to the form's page. The URL of the `POST` is never returned to.
#[tokio::test]
async fn a_form_leads_back_to_its_page() {
    let sessions = memory();
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .layer(guard())
        .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let unsent = "/sign-in?unsent=form";
    for (fields, expected) in [
        (
            &[("referer", "https://app.example/edit?id=7")][..],
            "/sign-in?unsent=form&next=/edit%3Fid%3D7",
        ),
        (
            &[("referer", "https://APP.example:443/edit")],
            "/sign-in?unsent=form&next=/edit",
        ),
        (&[], unsent),
        (&[("referer", "https://evil.example/edit")], unsent),
        (
            &[("referer", "https://app.example.evil.example/edit")],
            unsent,
        ),
        (
            &[("referer", "https://app.example@evil.example/edit")],
            unsent,
        ),
        (&[("referer", "https://evil@app.example/edit")], unsent),
        (&[("referer", "https://app.example:8443/edit")], unsent),
        (&[("referer", "https://app.example//evil.example")], unsent),
        (
            &[("referer", "https://app.example/%2F/evil.example")],
            unsent,
        ),
        (&[("referer", "ftp://app.example/edit")], unsent),
        (&[("referer", "/edit")], unsent),
        (&[("referer", "nonsense")], unsent),
        (
            &[
                ("referer", "https://app.example/edit"),
                ("referer", "https://app.example/edit"),
            ],
            unsent,
        ),
    ] {
        for browser in [&NAVIGATION[..], &[("accept", "text/html,*/*;q=0.8")]] {
            let fields = [&[("host", "app.example")], fields, browser].concat();
            let request = head(Method::POST, "/delete-account", &fields);
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SEE_OTHER, "{fields:?}");
            assert_eq!(location(&response), expected, "{fields:?}");
        }
    }
}

/// O04: only a form that a browser navigation sends is redirected: no script, no frame and no other
/// method.
#[tokio::test]
async fn requests_that_are_no_form_get_the_status_code() {
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(memory()))
        .layer(guard())
        .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    let mode = |mode, dest| {
        vec![
            ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
            ("accept", "text/html"),
        ]
    };
    for (method, fields) in [
        (Method::POST, mode("cors", "empty")),
        (Method::POST, mode("navigate", "iframe")),
        (Method::POST, mode("navigate", "empty")),
        (
            Method::POST,
            vec![("sec-fetch-mode", "navigate"), ("accept", "text/html")],
        ),
        (Method::POST, vec![("accept", "application/json")]),
        (Method::POST, vec![("accept", "*/*")]),
        (Method::POST, vec![]),
        (Method::PUT, mode("navigate", "document")),
        (Method::DELETE, vec![("accept", "text/html")]),
        (Method::OPTIONS, mode("navigate", "document")),
    ] {
        let request = head(method.clone(), "/", &fields);
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(
            response.status(),
            StatusCode::UNAUTHORIZED,
            "{method} {fields:?}"
        );
    }
}

fn with_cookie(signed_in: &SignedIn) -> (&'static str, String) {
    let name = SessionCookie::default().name().to_owned();
    ("cookie", format!("{name}={}", signed_in.token().expose()))
}

/// O04: a user who fails the condition sees a page that says so, with a link back. A program gets
/// the 403.
#[tokio::test]
async fn a_forbidden_page_is_shown_to_browsers() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let (cookie, token) = with_cookie(&signed_in);
    let guard = RequireUserLayer::<User>::new()
        .forbidden_page("/forbidden")
        .allow_if(|user| user.id == 2);
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .layer(guard)
        .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
    for (method, fields, status, to) in [
        (Method::GET, &NAVIGATION[..], 303, "/forbidden?next=/admin"),
        (Method::POST, &NAVIGATION, 303, "/forbidden?unsent=form"),
        (Method::GET, &[("accept", "application/json")], 403, ""),
        (Method::POST, &[("sec-fetch-mode", "cors")], 403, ""),
    ] {
        let fields = [fields, &[(cookie, &token)]].concat();
        let request = head(method, "/admin", &fields);
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(location(&response), to);
    }
}

/// A condition can depend on the method and the path: of a REST resource, and of a gRPC method.
#[tokio::test]
async fn a_condition_sees_the_request_head() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let (cookie, token) = with_cookie(&signed_in);
    let guard = RequireUserLayer::<User>::new()
        .rejection_response(EmptyResponseForRejection)
        .allow_request_if(|user, head| {
            let owned = format!("/projects/{}", user.id);
            let path = head.uri.path();
            path == owned && head.method == Method::GET
                || path == "/example.Projects/List"
                || head.headers.contains_key("x-allowed")
        });
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions).rejection_response(EmptyResponseForRejection))
        .layer(guard)
        .service_fn(async |request: Request<Body>| {
            let (head, body) = request.into_parts();
            assert_eq!(head.extensions.get::<User>(), Some(&User::ada()));
            Ok::<_, Infallible>(Response::new(body))
        });
    for (method, path, fields, allowed) in [
        (Method::GET, "/projects/1", &[][..], true),
        (Method::GET, "/projects/2", &[], false),
        (Method::DELETE, "/projects/1", &[], false),
        (Method::DELETE, "/projects/2", &[("x-allowed", "1")], true),
        (
            Method::POST,
            "/example.Projects/List",
            &[("content-type", "application/grpc")],
            true,
        ),
        (
            Method::POST,
            "/example.Projects/Delete",
            &[("content-type", "application/grpc")],
            false,
        ),
    ] {
        let is_grpc = fields.contains(&("content-type", "application/grpc"));
        let fields = [fields, &[(cookie, &token)]].concat();
        let response = app
            .clone()
            .oneshot(head(method, path, &fields))
            .await
            .unwrap();
        if is_grpc {
            let status = response.headers().get("grpc-status");
            assert_eq!(status.is_none(), allowed, "{path}");
            assert!(status.is_none_or(|status| status == "7"));
        } else {
            assert_eq!(response.status() == 200, allowed, "{path}");
        }
    }
}

/// Each rejection says in one line what happened, in the format that the client prefers.
#[tokio::test]
async fn a_refusal_is_readable_in_the_clients_format() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let (cookie, token) = with_cookie(&signed_in);
    let app = |failing: bool| {
        sessions.store().set_failing(failing);
        let guard = RequireUserLayer::<User>::new().allow_if(|_| false);
        ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .layer(guard)
            .service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())))
    };
    let html = "text/html; charset=utf-8";
    let text = "text/plain; charset=utf-8";
    for (accept, content_type) in [
        ("text/html", html),
        ("application/json", "application/problem+json"),
        ("*/*", text),
    ] {
        for (signed_in, failing, status, line) in [
            (false, false, 401, "Please sign in."),
            (true, false, 403, "You are not allowed to do this."),
            (
                true,
                true,
                503,
                "The service is unavailable at the moment. Please try again.",
            ),
        ] {
            let mut fields = vec![("accept", accept), ("sec-fetch-mode", "cors")];
            if signed_in {
                fields.push((cookie, &token));
            }
            let request = head(Method::GET, "/", &fields);
            let response = app(failing).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
            let retry = response.headers().get(header::RETRY_AFTER);
            assert_eq!(retry.is_some(), status == 503);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains(line), "{body}");
        }
    }
}

/// A full header map causes no panic, and no cookie is set that a cache could store.
#[tokio::test]
async fn a_full_header_map_does_not_panic() {
    fn full() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for n in 0.. {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            if headers
                .try_append(name, HeaderValue::from_static("1"))
                .is_err()
            {
                break;
            }
        }
        headers
    }
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    for write in [
        &(|headers: &mut HeaderMap| signed_in.write_to(headers)) as &dyn Fn(&mut HeaderMap),
        &|headers| signed_out.write_to(headers),
    ] {
        let mut headers = full();
        let before = headers.len();
        write(&mut headers);
        assert_eq!(headers.len(), before);
        assert!(!headers.contains_key(header::SET_COOKIE));
    }
    let (cookie, token) = with_cookie(&signed_in);
    let app = |sessions: &MemorySessions| {
        ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .service_fn(async |_: Request<Body>| {
                let mut response = Response::new(Body::empty());
                *response.headers_mut() = full();
                Ok::<_, Infallible>(response)
            })
    };
    for fields in [&[][..], &[(cookie, &*token)]] {
        let request = head(Method::GET, "/", fields);
        let response = app(&sessions).oneshot(request).await.unwrap();
        assert!(!response.headers().contains_key(header::VARY));
    }
}

/// O03 over a real server of axum.
#[tokio::test]
async fn axum_serves_nested_guards() {
    let app = nested().layer(LoadUserLayer::new(memory()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = Client::connect(Http::One, address).await;
    let request = Request::get("/user/profile").header("accept", "text/html");
    let request = request.header("host", "app.example.com");
    let response = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(location(&response), "/sign-in?next=/user/profile");
}
