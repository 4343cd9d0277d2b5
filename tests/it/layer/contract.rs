//! The layers among other tower services: readiness, cancellation, panics of the inner service, and
//! trait bounds.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Mutex,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode, header::COOKIE, header::SET_COOKIE};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit};
use tower_http::catch_panic::CatchPanicLayer;
use tower_user_session::{
    Error, LoadUserLayer, RequireUserLayer, SessionService,
    load_user::{self, LoadUser},
    rejection::{EmptyResponseForRejection, Rejection},
    require_user::{self, RequireUser},
    session::SessionToken,
    store::{MemorySessionStore, SessionStore},
};

use crate::support::{
    User, database, memory, patiently, poll_once, request, sessions, signed_in_cookie, watched, who,
};

// ---- Readiness ----

/// Panics if it is called without having been ready. A clone has not been ready.
struct NeedsReady {
    ready: bool,
    /// How often it is pending before it is ready.
    pending: usize,
    fails: bool,
}

impl NeedsReady {
    fn new() -> Self {
        Self {
            ready: false,
            pending: 0,
            fails: false,
        }
    }
}

impl Clone for NeedsReady {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            ..*self
        }
    }
}

impl Service<Request<String>> for NeedsReady {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, &'static str>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = !self.fails;
        Poll::Ready(if self.fails { Err("made up") } else { Ok(()) })
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        assert!(self.ready, "called without having been ready");
        self.ready = false;
        Box::pin(async move { Ok(who(request).await.unwrap()) })
    }
}

/// G02: the service that was polled ready is the one that is called, on every path through the
/// layer, and each call uses one readiness.
#[tokio::test]
async fn the_service_that_reported_readiness_is_called() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone()).exempt(|_, uri| uri.path() == "/exempt");
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .service(NeedsReady::new());
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    for _ in 0..3 {
        for (cookie, path, right) in [
            (&*cookie, "/", "ada@example.com"),
            (&unknown, "/", "anonymous"),
            ("a=b", "/", "anonymous"),
            ("__Host-session=x", "/", "anonymous"),
            (&cookie, "/exempt", "anonymous"),
        ] {
            let mut request = request(cookie);
            *request.uri_mut() = path.parse().unwrap();
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            assert_eq!(response.body(), right);
            let mut clone = service.clone();
            let request = self::request(cookie);
            clone.ready().await.unwrap().call(request).await.unwrap();
        }
        // Rejected before the inner service is called, after it was ready.
        sessions.store().set_failing(true);
        let refused = service.ready().await.unwrap().call(request(&cookie)).await;
        assert_eq!(refused.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        sessions.store().set_failing(false);
    }
    let require = RequireUserLayer::<User>::new();
    let mut service = require.layer(NeedsReady::new());
    let mut with_user = request("");
    with_user.extensions_mut().insert(User::ada());
    let response = service.ready().await.unwrap().call(with_user).await;
    assert_eq!(response.unwrap().body(), "ada@example.com");
}

/// G03: the layer's readiness and its errors are those of the inner service, and no lookup starts
/// before it is ready.
#[tokio::test]
async fn readiness_is_that_of_the_inner_service() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone());
    let mut inner = NeedsReady::new();
    inner.pending = 100;
    let mut service = layer.layer(inner);
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        service.poll_ready(cx)
    })
    .await
    .unwrap();
    assert_eq!((polls, sessions.metrics().lookups), (101, 0));
    let response = service.call(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "ada@example.com");

    let mut inner = NeedsReady::new();
    inner.fails = true;
    let mut service = layer.layer(inner);
    assert_eq!(service.ready().await.err(), Some("made up"));
    assert_eq!(sessions.store().finds(), 1);
}

/// G02: under a concurrency limit of one the layers never wait for themselves. A dropped or
/// rejected call releases its permit.
#[tokio::test]
async fn a_concurrency_limit_of_one_does_not_deadlock() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layers = || {
        ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .layer(RequireUserLayer::<User>::new())
    };
    let inner = ConcurrencyLimit::new(NeedsReady::new(), 1);
    let service = layers().service(inner);
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(service.clone().oneshot(request(&cookie))))
        .collect();
    for call in calls {
        let response = patiently(call).await.unwrap().unwrap();
        assert_eq!(response.body(), "ada@example.com");
    }

    let mut service = service;
    let dropped = service.ready().await.unwrap().call(request(&cookie));
    assert!(poll_once(pin!(service.ready())).is_pending());
    drop(dropped);
    sessions.store().set_failing(true);
    let call = patiently(service.ready())
        .await
        .unwrap()
        .call(request(&cookie));
    assert_eq!(
        call.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    sessions.store().set_failing(false);
    let call = patiently(service.ready())
        .await
        .unwrap()
        .call(request(&cookie));
    assert_eq!(call.await.unwrap().body(), "ada@example.com");
}

/// G02: a buffer inside or outside changes nothing.
#[tokio::test]
async fn buffered_services_work_inside_and_outside() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone());
    let inside = layer.layer(Buffer::new(NeedsReady::new(), 1));
    let outside = Buffer::new(layer.layer(NeedsReady::new()), 1);
    for _ in 0..20 {
        let response = patiently(inside.clone().oneshot(request(&cookie))).await;
        assert_eq!(response.unwrap().body(), "ada@example.com");
        let response = patiently(outside.clone().oneshot(request(&cookie))).await;
        assert_eq!(response.unwrap().body(), "ada@example.com");
    }
}

// ---- Cancellation ----

/// Drops a future after this many polls, each at one of its own wake-ups.
async fn cancelled_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn dropping_a_call_affects_no_other<S>(sessions: SessionService<S>)
where
    S: SessionStore<UserId = i64, User = User>,
{
    let ada = signed_in_cookie(&sessions, 1).await;
    let eve = signed_in_cookie(&sessions, 2).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(|request: Request<String>| async move {
            yield_now().await;
            who(request).await
        });
    let eve_is_served = async || {
        let response = patiently(service.clone().oneshot(request(&eve))).await;
        assert_eq!(response.unwrap().body(), "eve@example.com");
    };
    let mut finished = 0;
    for polls in 0..8 {
        let call = service.clone().oneshot(request(&ada));
        if let Some(response) = cancelled_after(polls, call).await {
            assert_eq!(response.unwrap().body(), "ada@example.com");
            finished += 1;
        }
        eve_is_served().await;
    }
    assert!((1..8).contains(&finished), "{finished} calls finished");
    // The lookup continues without its caller: drop the call at each step of it.
    for steps in 0..25 {
        let calls: Vec<_> = (0..=steps % 5)
            .map(|_| {
                let mut call = Box::pin(service.clone().oneshot(request(&ada)));
                assert!(poll_once(call.as_mut()).is_pending());
                call
            })
            .collect();
        for _ in 0..steps {
            yield_now().await;
        }
        drop(calls);
        eve_is_served().await;
    }
}

/// G01: a call that is dropped at any point leaves nothing behind.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind_in_memory() {
    dropping_a_call_affects_no_other(memory()).await;
    let sessions = watched();
    sessions.store().take_steps(5);
    dropping_a_call_affects_no_other(sessions).await;
}

/// G01: the same with PostgreSQL: the pool keeps its connections, and no result is taken for
/// another.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind_in_postgresql() {
    let database = database().await;
    let sessions = sessions(&database);
    dropping_a_call_affects_no_other(sessions.clone()).await;
    let status = sessions.store().pool().status();
    assert_eq!((status.available, status.waiting), (status.size, 0));
}

/// G01: a caller that is dropped while it waits is not looked up.
#[tokio::test]
async fn a_dropped_request_is_not_looked_up() {
    let sessions = watched();
    let tokens: Vec<_> = (0..10).map(|_| SessionToken::generate().unwrap()).collect();
    sessions.store().answer(false);
    let mut calls: Vec<_> = tokens
        .iter()
        .map(|token| Box::pin(sessions.user(token)))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    yield_now().await;
    assert_eq!(sessions.store().finds(), 2);
    drop(calls);
    sessions.store().answer(true);
    patiently(sessions.close()).await;
    assert_eq!(sessions.store().finds(), 2);
}

// ---- Panics of the inner service ----

/// G07: a panic of the inner service propagates outwards. A layer there makes it a 500, which sets
/// no cookie, and the session is unchanged.
#[tokio::test]
async fn a_panic_of_the_inner_service_propagates_and_changes_nothing() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(|request: Request<String>| {
            let path = request.uri().path().to_owned();
            assert_ne!(path, "/call", "panic in call");
            async move {
                assert_ne!(path, "/first", "panic at the first poll");
                yield_now().await;
                assert_ne!(path, "/second", "panic at the second poll");
                who(request).await
            }
        });
    for path in ["/call", "/first", "/second"] {
        let mut request = request(&cookie);
        *request.uri_mut() = path.parse().unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(SET_COOKIE));
        let response = service
            .clone()
            .oneshot(self::request(&cookie))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

// ---- Trait bounds ----

type Store = MemorySessionStore<i64, User>;

/// The layers accept each of these types, `Sync` or not, `Send` or not.
#[derive(Clone)]
struct Inner;

assert_impl_all!(SessionService<Store>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(LoadUserLayer<Store>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(LoadUser<Inner, Store>: Send, Sync, Clone, Unpin);
assert_impl_all!(RequireUserLayer<User>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(RequireUser<Inner, User>: Send, Sync, Clone, Unpin);
// A user type that is neither Send nor Clone does not affect the layers' bounds.
assert_impl_all!(RequireUserLayer<Rc<()>>: Send, Sync, Clone);
assert_impl_all!(Rejection: Send, Sync, Clone, std::error::Error);
assert_impl_all!(Error: Send, Sync, Clone, std::error::Error);
assert_impl_all!(
    load_user::ResponseFuture<NeedsReady, Store, fn(&Rejection) -> Response<String>, String>: Send
);
assert_impl_all!(
    require_user::ResponseFuture<std::future::Ready<Result<Response<()>, Infallible>>, ()>: Send
);
assert_not_impl_any!(
    require_user::ResponseFuture<std::future::Pending<Result<Response<Rc<()>>, Infallible>>, Rc<()>>:
        Send
);

/// G11: with a body that is not `Sync`, like most bodies of hyper and axum, the future is still
/// `Send`.
#[tokio::test]
async fn bodies_that_are_not_sync_are_accepted() {
    #[derive(Default)]
    struct NotSync(std::cell::Cell<u8>);
    assert_not_impl_any!(NotSync: Sync);
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions).rejection_response(EmptyResponseForRejection))
        .layer(RequireUserLayer::<User>::new().rejection_response(EmptyResponseForRejection))
        .service_fn(|request: Request<NotSync>| async move {
            let n = request.into_body().0.get();
            Ok::<_, Infallible>(Response::new(NotSync((n + 1).into())))
        });
    let request = Request::builder().header(COOKIE, cookie);
    let call = service.oneshot(request.body(NotSync(6.into())).unwrap());
    let response = tokio::spawn(call).await.unwrap().unwrap();
    assert_eq!(response.into_body().0.get(), 7);
}

#[derive(Debug, PartialEq)]
struct Plain(i32);

/// Returns the borrowed body, in a future that is neither `Send` nor `Unpin`.
#[derive(Clone)]
struct Local(Rc<Mutex<u32>>);

impl<'a> Service<Request<&'a str>> for Local {
    type Response = Response<&'a str>;
    type Error = Plain;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Plain>> + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Plain>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<&'a str>) -> Self::Future {
        let calls = Rc::clone(&self.0);
        Box::pin(async move {
            *calls.lock().unwrap() += 1;
            match request.into_body() {
                "" => Err(Plain(7)),
                text => Ok(Response::new(text)),
            }
        })
    }
}

/// G12: a borrowed body, an error that is not a `std::error::Error`, and futures and services that
/// are not `Send` are accepted.
#[tokio::test]
async fn borrowed_bodies_and_local_services_are_accepted() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let text = String::from("borrowed");
    let calls = Rc::new(Mutex::new(0));
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions).rejection_response(EmptyResponseForRejection))
        .layer(RequireUserLayer::<User>::new().rejection_response(EmptyResponseForRejection))
        .service(Local(Rc::clone(&calls)));
    let ask = |text| {
        let request = Request::builder().header(COOKIE, &cookie);
        service.clone().oneshot(request.body(text).unwrap())
    };
    assert_eq!(*ask(text.as_str()).await.unwrap().body(), "borrowed");
    assert_eq!(ask("").await.unwrap_err(), Plain(7));
    assert_eq!(*calls.lock().unwrap(), 2);
}
