//! gRPC: how requests are rejected, and the same guarantees with tonic's servers and clients.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderValue, Request, StatusCode,
    header::{self, CACHE_CONTROL, COOKIE},
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use tonic::Code;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, RequireUserLayer, rejection::EmptyResponseForRejection, session::SessionToken,
};

use crate::support::{
    User, WatchedSessions,
    grpc::{GrpcClient, Who},
    loopback::{Client, Http},
    memory, patiently, request, signed_in_cookie, watched, who,
};

/// H19: a gRPC request is rejected with status 200, the gRPC status in the headers, and no body. A
/// request that is not gRPC is rejected with an HTTP status.
#[tokio::test]
async fn grpc_requests_are_rejected_with_a_grpc_status() {
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
            assert_eq!(response.body().is_empty(), answered.is_some());
            if let Some(answered) = answered {
                assert_eq!(response.status(), StatusCode::OK, "{content_type}");
                assert_eq!(headers["grpc-status"], grpc, "{content_type}");
                assert_eq!(headers[header::CONTENT_TYPE], answered);
                assert!(headers.contains_key("grpc-message"));
                assert_eq!(headers.len(), 4, "{headers:?}");
            } else {
                assert_eq!(response.status().as_u16(), http, "{content_type}");
                assert!(!headers.contains_key("grpc-status"));
                let challenge = headers.contains_key(header::WWW_AUTHENTICATE);
                assert_eq!(challenge, http == 401);
            }
        }
    }
}

// ---- tonic ----

/// Three tonic servers: without the layers, with `LoadUserLayer`, with both layers.
fn tonic_servers(sessions: &WatchedSessions) -> [SocketAddr; 3] {
    let mut addresses = Vec::new();
    for layers in 0..3 {
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
        let incoming = incoming.unwrap();
        addresses.push(incoming.local_addr().unwrap());
        let (load, require) = (
            LoadUserLayer::new(sessions.clone()).rejection_response(EmptyResponseForRejection),
            RequireUserLayer::<User>::new().rejection_response(EmptyResponseForRejection),
        );
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder();
            match layers {
                0 => {
                    let mut server = server;
                    server.add_service(Who).serve_with_incoming(incoming).await
                }
                1 => {
                    server
                        .layer(load)
                        .add_service(Who)
                        .serve_with_incoming(incoming)
                        .await
                }
                _ => {
                    let mut server = server.layer(load).layer(require);
                    server.add_service(Who).serve_with_incoming(incoming).await
                }
            }
        });
    }
    addresses.try_into().unwrap()
}

/// H19, A14, A16, F01: unary and streaming calls see their user, and rejected calls get a status
/// that gRPC clients understand.
#[tokio::test]
async fn tonic_clients_get_statuses_that_they_understand() {
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let eve = signed_in_cookie(&sessions, 2).await;
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    let [_, load, both] = tonic_servers(&sessions);
    let mut open = GrpcClient::connect(load).await;
    let mut closed = GrpcClient::connect(both).await;
    for (cookies, right) in [
        (&[&*ada][..], Some("ada@example.com")),
        (&["a=b", &eve], Some("eve@example.com")),
        (&[&*unknown], None),
        (&[&*ada, &*eve], None),
        (&["__Host-session=x"], None),
        (&[], None),
    ] {
        assert_eq!(
            open.one(cookies).await.unwrap(),
            right.unwrap_or("anonymous")
        );
        let (messages, end) = open.many(cookies).await.unwrap();
        assert_eq!(messages, [right.unwrap_or("anonymous"); 3]);
        assert_eq!((end.code(), end.message()), (Code::DataLoss, "made up"));
        if let Some(right) = right {
            assert_eq!(closed.one(cookies).await.unwrap(), right);
            assert_eq!(closed.many(cookies).await.unwrap().0, [right; 3]);
        } else {
            let refused = closed.one(cookies).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
            let refused = closed.many(cookies).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        }
    }
    sessions.store().set_failing(true);
    for client in [&mut open, &mut closed] {
        assert_eq!(
            client.one(&[&ada]).await.unwrap_err().code(),
            Code::Unavailable
        );
        assert_eq!(
            client.many(&[&ada]).await.unwrap_err().code(),
            Code::Unavailable
        );
    }
    assert_eq!(open.one(&["a=b"]).await.unwrap(), "anonymous");
}

/// A gRPC response as HTTP/2 carries it.
#[derive(Debug, PartialEq)]
struct OnTheWire {
    status: StatusCode,
    headers: Vec<String>,
    ends_with_headers: bool,
    size_hint: (u64, Option<u64>),
    data: Bytes,
    trailers: Option<Vec<String>>,
}

async fn on_the_wire(address: SocketAddr, path: &str, cookie: &str) -> OnTheWire {
    let sorted = |headers: &HeaderMap| {
        let mut all: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        all.retain(|line| !line.starts_with("date"));
        all.sort();
        all
    };
    let Client::Two(mut client) = Client::connect(Http::Two, address).await else {
        unreachable!("the test makes no other call")
    };
    let request = Request::post(format!("http://{address}/test.Who/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(COOKIE, cookie)
        .body(Full::from(&b"\0\0\0\0\x05hello"[..]))
        .unwrap();
    let response = patiently(client.send_request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let ends_with_headers = body.is_end_stream();
    let size_hint = (body.size_hint().lower(), body.size_hint().upper());
    let body = patiently(body.collect()).await.unwrap();
    OnTheWire {
        status: head.status,
        headers: sorted(&head.headers),
        ends_with_headers,
        size_hint,
        trailers: body.trailers().map(sorted),
        data: body.to_bytes(),
    }
}

/// H20: the layers change no header, message, size or trailer of a call. A gRPC response is never
/// cached, so it gets no cache headers.
#[tokio::test]
async fn grpc_messages_and_trailers_are_unchanged() {
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let [bare, load, both] = tonic_servers(&sessions);
    for path in ["One", "Many"] {
        let without = on_the_wire(bare, path, "a=b").await;
        assert_eq!(on_the_wire(load, path, "a=b").await, without);
        assert!(without.trailers.is_some(), "{without:?}");
        for address in [load, both] {
            let mut with = on_the_wire(address, path, &ada).await;
            let text = String::from_utf8_lossy(&with.data).into_owned();
            assert!(text.contains("ada@example.com"), "{text:?}");
            with.data = without.data.clone();
            assert_eq!(with, without);
        }
    }
}

/// H19: a rejection is "trailers-only": status 200 and one block of headers that ends the stream.
#[tokio::test]
async fn grpc_refusals_are_trailers_only() {
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let [_, load, both] = tonic_servers(&sessions);
    let refused = on_the_wire(both, "One", "a=b").await;
    sessions.store().set_failing(true);
    let unavailable = on_the_wire(load, "Many", &ada).await;
    for (response, status, message) in [
        (refused, 16, "Please sign in."),
        (
            unavailable,
            14,
            "The service is unavailable at the moment. Please try again.",
        ),
    ] {
        assert_eq!(response.status, StatusCode::OK);
        assert!(response.ends_with_headers, "{response:?}");
        assert_eq!((response.data.len(), &response.trailers), (0, &None));
        let right = [
            "cache-control: \"no-store\"".to_owned(),
            "content-type: \"application/grpc\"".to_owned(),
            format!("grpc-message: \"{message}\""),
            format!("grpc-status: \"{status}\""),
        ];
        let headers: Vec<_> = response
            .headers
            .iter()
            .filter(|line| !line.starts_with("content-length"))
            .collect();
        assert_eq!(headers, right.iter().collect::<Vec<_>>());
    }
}
