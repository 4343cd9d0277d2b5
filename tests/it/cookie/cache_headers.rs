//! `Vary` and `Cache-Control`: where the layers set them and where they do not.

use std::convert::Infallible;

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, VARY},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_user_session::{LoadUserLayer, SessionService, store::MemorySessionStore};

use crate::support::{
    User, cookie_lines, memory, rejected_cookies, request, signed_in_cookie, visible, who,
};

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

/// H06: a response for a signed-in user is marked private, in addition to the headers that the
/// handler set.
#[tokio::test]
async fn a_page_for_a_signed_in_user_is_private() {
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

/// H06: one setting disables the cache headers and changes nothing else.
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

/// H06, H07: an anonymous page varies with the cookie, so that no cache serves it to a signed-in
/// user. Nothing else is changed.
#[tokio::test]
async fn an_anonymous_page_varies_with_the_cookie() {
    for (set, vary, bearer) in [
        (&[][..], vec!["cookie"], false),
        (
            &[("vary", "accept-encoding")],
            vec!["accept-encoding", "cookie"],
            false,
        ),
        (&[("vary", "Cookie")], vec!["Cookie"], false),
        (&[("vary", "*")], vec!["*"], false),
        (
            &[("cache-control", "public, max-age=9")],
            vec!["cookie"],
            false,
        ),
        (&[], vec!["cookie", "authorization"], true),
        (&[("content-type", "application/grpc")], vec![], true),
        (
            &[("content-type", "application/grpc-web+proto")],
            vec![],
            false,
        ),
    ] {
        let store = MemorySessionStore::<i64, User>::new();
        let mut builder = SessionService::builder(store);
        if bearer {
            builder = builder.bearer_tokens();
        }
        let handler = service_fn(async |_: Request<String>| {
            let mut response = Response::new(String::new());
            for (name, value) in set {
                let value = HeaderValue::from_static(value);
                response.headers_mut().append(*name, value);
            }
            Ok::<_, Infallible>(response)
        });
        let service = LoadUserLayer::new(builder.build().unwrap()).layer(handler);
        for cookie in ["a=b", "__Host-session=x"] {
            let response = service.clone().oneshot(request(cookie)).await.unwrap();
            assert_eq!(values(response.headers(), "vary"), vary, "{set:?}");
            let control = set.iter().filter(|(name, _)| *name == "cache-control");
            let control: Vec<_> = control.map(|(_, value)| *value).collect();
            assert_eq!(values(response.headers(), "cache-control"), control);
        }
    }
}

/// H07: with one setting an anonymous page keeps the handler's headers, whatever cookie the request
/// carries. A page for a signed-in user is still private.
#[tokio::test]
async fn an_anonymous_static_page_is_unchanged() {
    let sessions = memory();
    let signed_in = signed_in_cookie(&sessions, 1).await;
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
    let service = LoadUserLayer::new(sessions)
        .without_vary_for_anonymous()
        .layer(handler);
    for (case, lines) in cases {
        let mut request = Request::new(String::new());
        *request.headers_mut() = cookie_lines(&lines);
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(visible(&response), visible(&bare), "{case}");
        assert!(response.extensions().is_empty());
    }
    let response = service.oneshot(request(&signed_in)).await.unwrap();
    assert_eq!(
        values(response.headers(), "vary"),
        ["accept-encoding", "cookie"]
    );
}

/// H09: a 204, 206 or 304 gets the headers that a 200 gets (RFC 9111 §4.3.4 merges the headers of a
/// 304). No status is changed. A 101 gets no cache headers.
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
