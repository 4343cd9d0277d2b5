//! What the layers do to a request and to its response.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    header::{CACHE_CONTROL, COOKIE, SET_COOKIE, VARY},
};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;
use tower_user_session::{
    CurrentSession, ErrorKind, LoadUserLayer, MemorySessionStore, Rejection, RejectionKind,
    RequireUserLayer, SessionId, SessionService, SessionTimes, SessionToken,
};

use crate::support::{
    Logs, MemorySessions, User, WatchedSessions, cookie_lines, memory, request, signed_in_cookie,
    visible, watched, who,
};

/// One cookie for each way of not being signed in, the store prepared for it.
async fn rejected_cookies(sessions: &MemorySessions) -> Vec<(&'static str, Vec<String>)> {
    let store = sessions.store();
    for (user, email) in [(3, "disabled"), (4, "deleted")] {
        let email = email.to_owned();
        let role = String::new();
        store.add_user(
            user,
            User {
                id: user,
                email,
                role,
            },
        );
    }
    let expired = sessions
        .sign_in(1)
        .at_most(Duration::from_secs(60))
        .await
        .unwrap();
    let ended = signed_in_cookie(sessions, 1).await;
    let disabled = signed_in_cookie(sessions, 3).await;
    let deleted = signed_in_cookie(sessions, 4).await;
    let live = signed_in_cookie(sessions, 1).await;
    store.advance(Duration::from_secs(60));
    assert!(
        sessions
            .sign_out(&cookie_lines([&ended]))
            .await
            .ended()
            .unwrap()
    );
    store.set_disabled(3, true);
    store.remove_user(&4);
    let text = |token: &SessionToken| format!("__Host-session={}", token.expose());
    vec![
        ("malformed", vec!["__Host-session=x".to_owned()]),
        ("empty", vec!["__Host-session=".to_owned()]),
        ("ambiguous", vec![live.clone(), disabled.clone()]),
        ("unknown", vec![text(&SessionToken::generate().unwrap())]),
        ("expired", vec![text(expired.token())]),
        ("ended", vec![ended]),
        ("disabled", vec![disabled]),
        ("deleted", vec![deleted]),
    ]
}

/// C13: whatever is wrong with a cookie, the client sees the same bytes, with and without a layer
/// that demands a user, over HTTP and over gRPC; and they are those that an anonymous client sees.
#[tokio::test]
async fn every_rejected_cookie_gets_the_same_answer() {
    let sessions = memory();
    let mut cases = rejected_cookies(&sessions).await;
    cases.push(("anonymous", vec![]));
    let load = || LoadUserLayer::new(sessions.clone());
    let open = ServiceBuilder::new()
        .layer(load())
        .service_fn(who::<String>);
    let closed = ServiceBuilder::new()
        .layer(load())
        .layer(RequireUserLayer::<User>::new())
        .service_fn(who::<String>);
    for grpc in [false, true] {
        let mut answers: Vec<(&str, String, String)> = Vec::new();
        for (case, lines) in &cases {
            let make = || {
                let mut request = Request::new(String::new());
                *request.headers_mut() = cookie_lines(lines);
                if grpc {
                    let grpc = HeaderValue::from_static("application/grpc");
                    request.headers_mut().insert(header::CONTENT_TYPE, grpc);
                }
                request
            };
            let open = open.clone().oneshot(make()).await.unwrap();
            let closed = closed.clone().oneshot(make()).await.unwrap();
            let rejection = closed.extensions().get::<Rejection>().unwrap();
            assert_eq!(rejection.kind(), RejectionKind::Unauthenticated);
            assert!(rejection.error().is_none());
            answers.push((case, visible(&open), visible(&closed)));
        }
        let (_, open, closed) = answers[0].clone();
        assert_eq!(open, r#"HTTP/1.1 200 OK [] "nobody""#);
        for (case, this_open, this_closed) in answers {
            assert_eq!(this_open, open, "{case}");
            assert_eq!(this_closed, closed, "{case}");
        }
    }
}

/// C14: what a request carries or an outer layer attached is no identity; it is gone before the
/// inner service looks, on exempt and anonymous requests too.
#[tokio::test]
async fn identity_comes_from_the_store_alone() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .map_request(|mut request: Request<String>| {
            let times = SessionTimes {
                created_at: SystemTime::UNIX_EPOCH,
                authenticated_at: SystemTime::UNIX_EPOCH,
                last_seen_at: SystemTime::UNIX_EPOCH,
                expires_at: SystemTime::UNIX_EPOCH,
                now: SystemTime::UNIX_EPOCH,
            };
            let forged = CurrentSession::new(SessionId::from_bytes([7; 16]), times);
            request.extensions_mut().insert(User::eve());
            request.extensions_mut().insert(forged);
            request.extensions_mut().insert("something else");
            request
        })
        .layer(LoadUserLayer::new(sessions.clone()).exempt(|_, uri| uri.path() == "/exempt"))
        .service_fn(|request: Request<String>| async move {
            let seen = (
                request.extensions().get::<User>().cloned(),
                request.extensions().get::<CurrentSession>().copied(),
            );
            assert_eq!(request.extensions().get(), Some(&"something else"));
            Ok::<_, Infallible>(Response::new(seen))
        });
    let ask = async |cookie: &str, path: &str| {
        let mut request = request(cookie);
        *request.uri_mut() = path.parse().unwrap();
        for name in [
            "x-user",
            "x-user-id",
            "x-remote-user",
            "remote-user",
            "user",
            "x-session-id",
        ] {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static("2"));
        }
        service.clone().oneshot(request).await.unwrap().into_body()
    };
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    for cookie in ["a=b", "__Host-session=x", &unknown] {
        assert_eq!(ask(cookie, "/").await, (None, None));
    }
    assert_eq!(ask(&cookie, "/exempt").await, (None, None));
    let (user, session) = ask(&cookie, "/").await;
    assert_eq!(user, Some(User::ada()));
    assert_ne!(session.unwrap().id(), SessionId::from_bytes([7; 16]));
}

/// The headers of the response to a signed-in request whose handler sets these.
async fn headers_after(status: StatusCode, set: &[(&'static str, &'static str)]) -> HeaderMap {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let set = set.to_vec();
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(move |_: Request<String>| {
            let mut response = Response::new(String::new());
            *response.status_mut() = status;
            for (name, value) in &set {
                let value = HeaderValue::from_static(value);
                response.headers_mut().append(*name, value);
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
    let (parts, _) = service
        .oneshot(request(&cookie))
        .await
        .unwrap()
        .into_parts();
    parts.headers
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

/// H06: a response that was made for somebody says so to caches, beside what the handler said.
#[tokio::test]
async fn a_page_for_somebody_is_private() {
    for (set, vary, control) in [
        (&[][..], vec!["cookie"], vec!["private"]),
        (&[("vary", "*")], vec!["*"], vec!["private"]),
        (&[("vary", "Cookie")], vec!["Cookie"], vec!["private"]),
        (
            &[("vary", "accept, COOKIE")],
            vec!["accept, COOKIE"],
            vec!["private"],
        ),
        (
            &[("vary", "accept"), ("vary", "origin")],
            vec!["accept", "origin", "cookie"],
            vec!["private"],
        ),
        (
            &[("cache-control", "no-store")],
            vec!["cookie"],
            vec!["no-store"],
        ),
        (
            &[("cache-control", "public, max-age=9")],
            vec!["cookie"],
            vec!["public, max-age=9"],
        ),
    ] {
        let headers = headers_after(StatusCode::OK, set).await;
        assert_eq!(values(&headers, "vary"), vary, "{set:?}");
        assert_eq!(values(&headers, "cache-control"), control, "{set:?}");
    }
}

/// H06: one call switches the cache headers off, and nothing else.
#[tokio::test]
async fn the_cache_headers_can_be_switched_off() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions).without_cache_headers())
        .service_fn(who);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(
        visible(&response),
        r#"HTTP/1.1 200 OK [] "ada@example.com""#
    );
}

/// H07: a page for nobody is as the handler made it, whatever cookie came with the request.
#[tokio::test]
async fn a_page_for_nobody_is_untouched() {
    let sessions = memory();
    let mut cases = rejected_cookies(&sessions).await;
    cases.push(("anonymous", vec![]));
    cases.push(("others", vec!["theme=dark".to_owned()]));
    let handler = service_fn(|_: Request<String>| async move {
        let response = Response::builder()
            .header(CACHE_CONTROL, "public, max-age=600")
            .header(VARY, "accept-encoding")
            .header("etag", "\"1\"");
        Ok::<_, Infallible>(response.body("page".to_owned()).unwrap())
    });
    let bare = handler.oneshot(request("a=b")).await.unwrap();
    let service = LoadUserLayer::new(sessions).layer(handler);
    for (case, lines) in cases {
        let mut request = Request::new(String::new());
        *request.headers_mut() = cookie_lines(&lines);
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(visible(&response), visible(&bare), "{case}");
        assert!(response.extensions().is_empty());
    }
}

/// H09: a 204, 206 or 304 gets what a 200 would get (RFC 9111 §4.3.4 merges a 304's headers), no
/// status is changed, and a 101 is no response to cache.
#[tokio::test]
async fn cache_headers_are_right_for_every_status() {
    for status in [200, 204, 206, 301, 304, 404, 500] {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = headers_after(status, &[("etag", "\"1\"")]).await;
        assert_eq!(headers.len(), 3, "{status} {headers:?}");
        assert_eq!(values(&headers, "vary"), ["cookie"], "{status}");
        assert_eq!(values(&headers, "cache-control"), ["private"], "{status}");
    }
    let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
    let headers = headers_after(StatusCode::SWITCHING_PROTOCOLS, &upgrade).await;
    assert_eq!(headers.len(), 2, "{headers:?}");
}

/// H09, H21, H22: the verdict does not depend on the method, the form of the target or the version,
/// and none of them makes a layer panic. A HEAD has the headers of the GET.
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

/// A body whose frames come only when the test lets them.
struct Held(tokio::sync::mpsc::UnboundedReceiver<&'static str>);

impl Default for Held {
    /// An empty body, for a refusal.
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

/// H14: the headers of a stream are there before its first byte, and the stream is the handler's own.
#[tokio::test]
async fn a_streaming_response_is_not_waited_for() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    let receive = Arc::new(Mutex::new(Some(receive)));
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
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

/// H15: a preflight has no cookie. CORS outside answers it; inside, `RequireUser` would refuse it.
/// Neither costs a question.
#[tokio::test]
async fn a_preflight_passes_when_cors_stands_outside() {
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

/// What hyper would put there; the type stands for `hyper::upgrade::OnUpgrade`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OnUpgrade(u8);

/// H18: an upgrade's request keeps its extension and its 101 comes out as it went in.
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

/// G05: nothing of one request is seen on the next through the same service.
#[tokio::test]
async fn nothing_stays_behind_for_the_next_request() {
    let sessions = memory();
    let ada = signed_in_cookie(&sessions, 1).await;
    let eve = signed_in_cookie(&sessions, 2).await;
    let mut service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(who::<String>);
    for (cookie, right) in [
        (&*ada, "ada@example.com"),
        ("a=b", "nobody"),
        (&eve, "eve@example.com"),
        ("__Host-session=x", "nobody"),
        (&ada, "ada@example.com"),
        (&eve, "eve@example.com"),
    ] {
        let ready = service.ready().await.unwrap();
        assert_eq!(ready.call(request(cookie)).await.unwrap().body(), right);
    }
}

/// G06: requests that take turns on one thread keep their own identity, at every point where one
/// can be suspended.
#[tokio::test(flavor = "current_thread")]
async fn interleaved_requests_on_one_thread_keep_their_identity() {
    let sessions = watched();
    let cookies = [
        signed_in_cookie(&sessions, 1).await,
        signed_in_cookie(&sessions, 2).await,
        "a=b".to_owned(),
    ];
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(|request: Request<String>| async move {
            tokio::task::yield_now().await;
            let before = request.extensions().get::<User>().cloned();
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            assert_eq!(before.as_ref(), request.extensions().get::<User>());
            who(request).await
        });
    sessions.store().answer(false);
    let mut tasks = Vec::new();
    for n in 0..300 {
        let call = service.clone().oneshot(request(&cookies[n % 3]));
        tasks.push((n, tokio::spawn(call)));
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    sessions.store().answer(true);
    for (n, task) in tasks {
        let right = ["ada@example.com", "eve@example.com", "nobody"][n % 3];
        assert_eq!(task.await.unwrap().unwrap().body(), right);
    }
}

/// G06: and there is no place in the source where an identity could stay behind with a thread or a
/// task.
#[test]
fn the_source_has_no_thread_or_task_locals() {
    for (path, text) in crate::support::sources() {
        for word in ["thread_local!", "task_local!", "LocalKey"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

/// Requests that the application exempts cost nothing, work without the store and see no user.
#[tokio::test]
async fn exempt_requests_cost_nothing_and_work_without_the_store() {
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
    let counts = sessions.counts();
    let response = ask("GET", "/health").await;
    assert_eq!(visible(&response), r#"HTTP/1.1 200 OK [] "nobody""#);
    assert_eq!(sessions.store().finds(), finds);
    assert_eq!(sessions.counts(), counts);
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

/// F01: while the store fails, whoever presents a token gets a 503 and the inner service is not
/// called; everybody else is served. When it works again, so does the token.
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
            r#"HTTP/1.1 503 Service Unavailable ["cache-control: no-store"] """#
        );
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.kind(), RejectionKind::Unavailable);
        assert!(!rejection.is_grpc());
        assert_eq!(rejection.error().unwrap().kind(), ErrorKind::Connection);
    }
    assert_eq!(calls.load(SeqCst), 0);
    assert_eq!(sessions.counts().unavailable, 2);
    for cookie in ["a=b", "__Host-session=x"] {
        let response = service.clone().oneshot(request(cookie)).await.unwrap();
        assert_eq!(response.body(), "nobody");
    }
    sessions.store().set_failing(false);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "ada@example.com");
    assert_eq!(calls.load(SeqCst), 3);
}

/// H19: a gRPC request is refused in gRPC's way: 200, the status in the headers, no body; and what
/// is no gRPC is refused in HTTP's.
#[tokio::test]
async fn grpc_requests_are_refused_in_grpcs_way() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(who);
    let ask = async |cookie: &str, content_type: &'static str| {
        let mut request = request(cookie);
        let value = HeaderValue::from_static(content_type);
        request.headers_mut().insert(header::CONTENT_TYPE, value);
        service.clone().oneshot(request).await.unwrap()
    };
    for (content_type, answered) in [
        ("application/grpc", Some("application/grpc")),
        ("application/grpc+proto", Some("application/grpc")),
        ("application/grpc;charset=utf-8", Some("application/grpc")),
        ("application/grpc-web", Some("application/grpc-web")),
        (
            "application/grpc-web+proto",
            Some("application/grpc-web+proto"),
        ),
        (
            "application/grpc-web-text",
            Some("application/grpc-web-text"),
        ),
        ("application/grpcx", None),
        ("application/json", None),
        ("text/html; a=application/grpc", None),
    ] {
        for (failing, http, grpc) in [(false, 401, "16"), (true, 503, "14")] {
            sessions.store().set_failing(failing);
            let cookie = if failing { &cookie } else { "a=b" };
            let response = ask(cookie, content_type).await;
            let headers = response.headers();
            assert_eq!(headers[CACHE_CONTROL], "no-store");
            assert!(response.body().is_empty());
            if let Some(answered) = answered {
                assert_eq!(response.status(), StatusCode::OK, "{content_type}");
                assert_eq!(headers["grpc-status"], grpc, "{content_type}");
                assert_eq!(headers[header::CONTENT_TYPE], answered);
                assert_eq!(headers.len(), 3, "{headers:?}");
            } else {
                assert_eq!(response.status().as_u16(), http, "{content_type}");
                assert!(!headers.contains_key("grpc-status"));
                let challenge = headers.contains_key(header::WWW_AUTHENTICATE);
                assert_eq!(challenge, http == 401);
            }
        }
    }
}

/// The application's own response is given as it is, and layers outside find the cause in it.
#[tokio::test]
async fn an_application_refuses_in_its_own_way() {
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
        r#"HTTP/1.1 418 I'm a teapot [] "nobody is signed in""#
    );
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Unauthenticated);

    sessions.store().set_failing(true);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert!(
        response.body().contains("cannot be reached"),
        "{response:?}"
    );
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.kind(), RejectionKind::Unavailable);
}

/// D07, D08, D09: signing out clears the cookie whatever the store does, and the caller learns
/// whether the session has ended. Only then is it dead.
#[tokio::test]
async fn signing_out_clears_the_cookie_even_without_the_store() {
    let logs = Logs::capture();
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let headers = cookie_lines([&cookie]);
    let cleared = |signed_out: &tower_user_session::SignedOut| {
        let mut headers = HeaderMap::new();
        signed_out.write_to(&mut headers);
        let value = headers[SET_COOKIE].to_str().unwrap().to_owned();
        value.starts_with("__Host-session=;") && value.contains("Max-Age=0")
    };
    sessions.store().set_failing(true);
    let signed_out = sessions.sign_out(&headers).await;
    assert!(cleared(&signed_out));
    assert_eq!(
        signed_out.ended().unwrap_err().kind(),
        ErrorKind::Connection
    );
    let errors = logs
        .events()
        .iter()
        .filter(|line| line.contains("ERROR"))
        .count();
    assert_eq!(errors, 1, "{:?}", logs.events());

    sessions.store().set_failing(false);
    let token = cookie.strip_prefix("__Host-session=").unwrap();
    let token = SessionToken::parse(token.as_bytes()).unwrap();
    assert_eq!(sessions.user(&token).await.unwrap(), Some(User::ada()));
    for ended in [true, false, false] {
        let signed_out = sessions.sign_out(&headers).await;
        assert!(cleared(&signed_out));
        assert_eq!(signed_out.ended().unwrap(), ended);
        assert_eq!(sessions.user(&token).await.unwrap(), None);
    }
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    assert!(cleared(&signed_out));
    assert!(!signed_out.ended().unwrap());
}

/// A16: where a request is ambiguous, signing out ends every session that it presents.
#[tokio::test]
async fn signing_out_ends_every_session_that_is_presented() {
    let sessions = memory();
    let ours = signed_in_cookie(&sessions, 1).await;
    let planted = signed_in_cookie(&sessions, 2).await;
    let headers = cookie_lines([format!("{planted}; __Host-session=x"), ours.clone()]);
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    for cookie in [ours, planted] {
        let token = cookie.strip_prefix("__Host-session=").unwrap();
        let token = SessionToken::parse(token.as_bytes()).unwrap();
        assert_eq!(sessions.user(&token).await.unwrap(), None);
    }
}

/// A16, A21: but no more of them than an honest client sends, so that a flood of tokens is no flood
/// of deletions.
#[tokio::test]
async fn signing_out_is_bounded() {
    let sessions = memory();
    let mut lines = Vec::new();
    for _ in 0..1_000 {
        lines.push(signed_in_cookie(&sessions, 1).await);
    }
    let headers = cookie_lines([lines.join("; ")]);
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    let mut ended = 0;
    for cookie in lines {
        let token = cookie.strip_prefix("__Host-session=").unwrap();
        let token = SessionToken::parse(token.as_bytes()).unwrap();
        ended += u32::from(sessions.user(&token).await.unwrap().is_none());
    }
    assert!((2..=16).contains(&ended), "{ended} sessions ended");
}

/// A16, I12: a flood of bad cookies is one event, and so is a flood of failures; each says how many
/// there were up to then. No event holds anything of the cookie.
#[tokio::test]
async fn floods_are_one_event_each() {
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
    assert_eq!(sessions.counts().rejected, 500);
    assert_eq!(sessions.counts().unavailable, 500);
}

/// J01: anonymous requests and bad cookies write nothing: the store is a `SessionLookup` only, which
/// cannot be written to.
#[tokio::test]
async fn the_layer_needs_no_store_that_can_be_written_to() {
    struct Nobody;
    impl tower_user_session::SessionLookup for Nobody {
        type User = User;
        async fn find(
            &self,
            digests: &[tower_user_session::TokenDigest],
        ) -> Result<Vec<tower_user_session::LookupAnswer<User>>, tower_user_session::Error>
        {
            let absent = digests
                .iter()
                .map(|d| tower_user_session::LookupAnswer::absent(*d));
            Ok(absent.collect())
        }
    }
    let service = LoadUserLayer::new(SessionService::new(Nobody)).layer(service_fn(who));
    let cookie = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "nobody");
}

/// C10 in memory: the user is what the store says at each request.
#[tokio::test]
async fn a_changed_user_is_seen_by_the_next_request() {
    let store = MemorySessionStore::new();
    store.add_user(1, User::ada());
    let sessions = SessionService::new(store);
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who));
    let mut renamed = User::ada();
    renamed.email = "countess@example.com".to_owned();
    sessions.store().add_user(1, renamed);
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "countess@example.com");
}
