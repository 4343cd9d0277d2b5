//! Allocations per request, counted.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::AllocationInfo;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceBuilder};
use tower_user_session::{
    LoadUserLayer, RequireUserLayer, SessionService, rejection::EmptyResponseForRejection,
    session::SessionToken, store::MemorySessionStore,
};

use crate::support::{
    MemorySessions, User, cookie_lines, manual_feed::ManualFeed, memory, recorded_logs,
    signed_in_cookie,
};

/// A service that allocates nothing itself.
#[derive(Clone)]
struct Inner;

impl Service<Request<()>> for Inner {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(())))
    }
}

fn with(headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    request
}

/// Counts the allocations of one call of this service, which needs no runtime.
fn measured<S>(service: &mut S, request: Request<()>) -> AllocationInfo
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let mut request = Some(request);
    let call = || {
        let mut context = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut context).is_ready());
        let call = pin!(service.call(request.take().unwrap()));
        let Poll::Ready(response) = call.poll(&mut context) else {
            panic!("the future was not ready at the first poll")
        };
        let _ = black_box(response);
    };
    recorded_logs::aside(|| allocation_counter::measure(call))
}

/// Responds like a handler that sets a content type.
#[derive(Clone)]
struct Page;

impl Service<Request<()>> for Page {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut response = Response::new(());
        let content_type = HeaderValue::from_static("text/html");
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        ready(Ok(response))
    }
}

/// A01, J04: `Vary` fits beside the header that a handler sets, without an allocation.
#[test]
fn the_vary_of_an_anonymous_page_allocates_nothing() {
    let layer = LoadUserLayer::new(memory()).rejection_response(EmptyResponseForRejection);
    let bare = measured(&mut Page, Request::new(())).count_total;
    let mut service = layer.layer(Page);
    for headers in [HeaderMap::new(), cookie_lines(["theme=dark"])] {
        assert_eq!(measured(&mut service, with(headers)).count_total, bare);
    }
    for no_page in no_pages() {
        assert_eq!(measured(&mut service, no_page).count_total, bare);
    }
}

/// Requests that no browser navigation sends, as from a program or a script.
fn no_pages() -> [Request<()>; 4] {
    let request = |method: &str, fields: &[(&'static str, &'static str)]| {
        let mut request = Request::new(());
        *request.method_mut() = method.parse().unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        request
    };
    [
        request("GET", &[("accept", "*/*")]),
        request("GET", &[("accept", "*/*"), ("sec-fetch-mode", "cors")]),
        request(
            "GET",
            &[("accept", "text/html"), ("sec-fetch-mode", "cors")],
        ),
        request("POST", &[("accept", "text/html")]),
    ]
}

/// A01: if a handler sets no header, `Vary` is the first one, and allocates what the first header
/// of a map allocates.
#[test]
fn the_vary_of_a_response_without_headers_is_its_first_header() {
    let first_header = recorded_logs::aside(|| {
        allocation_counter::measure(|| {
            let mut headers = HeaderMap::<HeaderValue>::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            let _ = black_box(headers);
        })
    });
    let layer = LoadUserLayer::new(memory()).rejection_response(EmptyResponseForRejection);
    let vary = measured(&mut layer.layer(Inner), Request::new(()));
    assert_eq!(vary.count_total, first_header.count_total);
    assert_eq!(vary.bytes_total, first_header.bytes_total);
}

/// A01, J04: a request without the session cookie, an exempt request, and one that cannot hold a
/// token allocate nothing, whatever else they carry.
#[test]
fn a_request_without_a_token_allocates_nothing() {
    let sessions = memory();
    let layer = LoadUserLayer::new(sessions)
        .rejection_response(EmptyResponseForRejection)
        .without_vary_for_anonymous()
        .exempt(|_, uri| uri.path() == "/exempt");
    let mut service = layer.layer(Inner);
    let others = "name=value; ".repeat(1_000);
    let token = SessionToken::generate().unwrap().expose();
    let mut exempt = with(cookie_lines([format!("__Host-session={token}")]));
    *exempt.uri_mut() = "/exempt".parse().unwrap();
    let requests = [
        with(HeaderMap::new()),
        with(cookie_lines(["theme=dark"])),
        with(cookie_lines([&others])),
        with(cookie_lines(["__Host-session=x"])),
        with(cookie_lines([format!("{others}__Host-session=x")])),
        with(cookie_lines(["__Host-session=x; __Host-session=y"])),
        exempt,
    ];
    for (n, request) in requests.into_iter().chain(no_pages()).enumerate() {
        let bare = measured(&mut Inner, Request::new(())).count_total;
        let layered = measured(&mut service, request).count_total;
        assert_eq!((bare, layered), (0, 0), "request {n}");
    }
}

/// A request that passes `RequireUser` allocates nothing there.
#[test]
fn require_user_passes_a_user_without_allocating() {
    let mut service = RequireUserLayer::<User>::new()
        .rejection_response(EmptyResponseForRejection)
        .layer(Inner);
    let mut request = Request::new(());
    request.extensions_mut().insert(User::ada());
    assert_eq!(measured(&mut service, request).count_total, 0);
}

/// J04: a request whose session is cached allocates for the two values in its extensions, and for
/// the map that holds them. The application's user type may allocate more when it is cloned.
#[test]
fn a_cached_session_costs_four_allocations() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let store = MemorySessionStore::<i64, i64>::new();
    store.add_user(1, 1);
    let builder = SessionService::builder(store).lease(Duration::from_secs(60));
    let sessions = builder.build().unwrap();
    let headers = runtime.block_on(async {
        sessions
            .enable_cache(ManualFeed::default(), 10)
            .await
            .unwrap();
        let signed_in = sessions.sign_in_without_request(1).await.unwrap();
        sessions.user(signed_in.token()).await.unwrap();
        cookie_lines([format!("__Host-session={}", signed_in.token().expose())])
    });
    let mut service = LoadUserLayer::new(sessions.clone())
        .rejection_response(EmptyResponseForRejection)
        .layer(Page);
    let before = sessions.metrics().from_cache;
    let hit = measured(&mut service, with(headers));
    assert_eq!(sessions.metrics().from_cache, before + 1);
    let bare = measured(&mut Page, Request::new(()));
    assert_eq!(hit.count_total - bare.count_total, 4);
}

/// Counts the allocations of a lookup, including those of the store and the task.
fn looked_up(sessions: &MemorySessions, headers: &HeaderMap) -> AllocationInfo {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()).rejection_response(EmptyResponseForRejection))
        .layer(RequireUserLayer::<User>::new().rejection_response(EmptyResponseForRejection))
        .service(Inner);
    let mut requests = [with(headers.clone()), with(headers.clone())].into_iter();
    // The first call may grow buffers that the runtime keeps for the next.
    let mut call = || {
        let request = requests.next().unwrap();
        let response = runtime.block_on(async { service.call(request).await });
        assert_eq!(response.unwrap().status(), 200);
    };
    recorded_logs::aside(|| {
        call();
        allocation_counter::measure(&mut call)
    })
}

/// J04, A21: a lookup allocates as much for a kilobyte of cookies as for a megabyte.
#[test]
fn a_lookup_allocates_the_same_whatever_the_cookies_size() {
    let sessions = memory();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ours = runtime.block_on(signed_in_cookie(&sessions, 1));
    let alone = looked_up(&sessions, &cookie_lines([&ours]));
    assert!(alone.count_total < 40, "{alone:?}");
    for others in [1, 100, 10_000, 100_000] {
        let filler = "name=value; ".repeat(others);
        for headers in [
            cookie_lines([format!("{filler}{ours}")]),
            cookie_lines([format!("{ours}; {filler}")]),
            cookie_lines([filler.as_str(), &ours, &filler]),
        ] {
            let beside = looked_up(&sessions, &headers);
            assert_eq!(beside.count_total, alone.count_total, "{others} others");
            assert_eq!(beside.bytes_total, alone.bytes_total, "{others} others");
        }
    }
}

/// J03: distinct unknown tokens leave no memory allocated: after 300,000 of them as much is in use
/// as after 3,000, and the peak is no higher.
#[test]
fn a_flood_of_unknown_tokens_leaves_no_memory_allocated() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let sessions = memory();
    let flood = |waves: u32| {
        allocation_counter::measure(|| {
            runtime.block_on(async {
                for _ in 0..waves {
                    let asked: [_; 100] = std::array::from_fn(|_| {
                        let sessions = sessions.clone();
                        let token = SessionToken::generate().unwrap();
                        tokio::spawn(async move { sessions.user(&token).await })
                    });
                    for user in asked {
                        assert_eq!(user.await.unwrap().unwrap(), None);
                    }
                }
            });
        })
    };
    let _ = flood(30);
    let (few, many) = (flood(30), flood(3_000));
    assert_eq!(sessions.metrics().lookups, 306_000);
    assert!(few.bytes_current.abs() < 16_384, "{few:?}");
    assert!(many.bytes_current.abs() < 16_384, "{many:?}");
    assert!(many.bytes_max < 2 * few.bytes_max, "{few:?} {many:?}");
}
