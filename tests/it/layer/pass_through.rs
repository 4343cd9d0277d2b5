//! What the layers pass unchanged: requests of every form, streams, preflights and upgrades.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{COOKIE, VARY},
};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use tower::{ServiceBuilder, ServiceExt};
use tower_http::cors::CorsLayer;
use tower_user_session::{LoadUserLayer, RequireUserLayer, rejection::EmptyResponseForRejection};

use crate::support::{User, memory, request, signed_in_cookie, visible, watched, who};

/// H09, H21, H22: the result does not depend on the method, the form of the target or the version,
/// and none of them makes a layer panic. A HEAD gets the headers of the GET.
#[tokio::test]
async fn method_target_and_version_change_nothing() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(who);
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PRI",
        "PROPFIND", "x",
    ];
    let targets = [
        "/",
        "/a/b?c=d",
        "*",
        "example.com:443",
        "example.com",
        "http://example.com/x?y",
        "https://u:p@example.com",
        "//evil.example/..",
    ];
    let versions = [
        Version::HTTP_09,
        Version::HTTP_10,
        Version::HTTP_11,
        Version::HTTP_2,
        Version::HTTP_3,
    ];
    for method in methods {
        for target in targets {
            for version in versions {
                let ask = async |cookie: &str| {
                    let request = Request::builder()
                        .method(Method::from_bytes(method.as_bytes()).unwrap())
                        .uri(target)
                        .version(version)
                        .header(COOKIE, cookie)
                        .body(String::new())
                        .unwrap();
                    service.clone().oneshot(request).await.unwrap()
                };
                let response = ask(&cookie).await;
                let right = r#"HTTP/1.1 200 OK ["cache-control: private", "vary: cookie"] "ada@example.com""#;
                assert_eq!(visible(&response), right, "{method} {target} {version:?}");
                let response = ask("a=b").await;
                assert_eq!(
                    response.status(),
                    StatusCode::UNAUTHORIZED,
                    "{method} {target}"
                );
            }
        }
    }
}

/// A body whose frames arrive when the test sends them.
struct Held(tokio::sync::mpsc::UnboundedReceiver<&'static str>);

impl Default for Held {
    /// An empty body, for a rejection.
    fn default() -> Self {
        Self(tokio::sync::mpsc::unbounded_channel().1)
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|text| text.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
    }
}

/// H14: the headers of a streaming response arrive before its first byte, and the body is the
/// handler's own.
#[tokio::test]
async fn a_streaming_response_is_not_buffered() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let receive = Arc::new(Mutex::new(Some(receive)));
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions).rejection_response(EmptyResponseForRejection))
        .service_fn(move |_: Request<String>| {
            let body = Held(receive.lock().unwrap().take().unwrap());
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.headers()[VARY], "cookie");
    let mut body: Held = response.into_body();
    for text in ["one", "two"] {
        send.send(text).unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    drop(send);
    assert!(body.frame().await.is_none());
}

/// H15: a preflight has no cookie. An outer CORS layer answers it; an inner one would not, because
/// `RequireUser` rejects it. Neither makes a lookup.
#[tokio::test]
async fn a_preflight_passes_with_an_outer_cors_layer() {
    let sessions = watched();
    let preflight = || {
        Request::builder()
            .method(Method::OPTIONS)
            .header("origin", "https://app.example.com")
            .header("access-control-request-method", "POST")
            .body(String::new())
            .unwrap()
    };
    let cors = || {
        CorsLayer::new()
            .allow_methods([Method::POST])
            .allow_origin(["https://app.example.com".parse().unwrap()])
    };
    let outside = ServiceBuilder::new()
        .layer(cors())
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(who);
    let response = outside.oneshot(preflight()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["access-control-allow-methods"], "POST");

    let inside = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .layer(cors())
        .service_fn(who);
    let response = inside.oneshot(preflight()).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(sessions.store().finds(), 0);
}

/// Stands for `hyper::upgrade::OnUpgrade`, which hyper would insert there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OnUpgrade(u8);

/// H18: the request of an upgrade keeps its extension, and its 101 is unchanged.
#[tokio::test]
async fn an_upgrade_passes_untouched() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(|request: Request<String>| async move {
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let upgrade = request.extensions().get::<OnUpgrade>().unwrap().clone();
            response.extensions_mut().insert(upgrade);
            response
                .headers_mut()
                .insert("upgrade", HeaderValue::from_static("websocket"));
            Ok::<_, Infallible>(response)
        });
    let mut request = request(&cookie);
    request.extensions_mut().insert(OnUpgrade(7));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(
        visible(&response),
        r#"HTTP/1.1 101 Switching Protocols ["upgrade: websocket"] """#
    );
    assert_eq!(response.extensions().get(), Some(&OnUpgrade(7)));
    assert!(response.extensions().get::<User>().is_none());
}
