//! The user of a request comes from the store, for each request anew, and from nowhere else.

use std::{convert::Infallible, time::SystemTime};

use http::{HeaderValue, Request, Response, header};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_user_session::{
    CurrentSession, LoadUserLayer, RequireUserLayer, SessionService,
    rejection::{EmptyResponseForRejection, Rejection, RejectionKind},
    session::{Session, SessionId, SessionTimestamps, SessionToken},
    store::MemorySessionStore,
};

use crate::support::{
    User, cookie_lines, memory, rejected_cookies, request, signed_in_cookie, visible, watched, who,
};

/// C13: for each kind of invalid cookie the client sees the same bytes, with and without
/// `RequireUserLayer`, over HTTP and gRPC. They equal those that an anonymous client sees.
#[tokio::test]
async fn every_rejected_cookie_gets_the_same_response() {
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
        assert_eq!(open, r#"HTTP/1.1 200 OK ["vary: cookie"] "anonymous""#);
        for (case, this_open, this_closed) in answers {
            assert_eq!(this_open, open, "{case}");
            assert_eq!(this_closed, closed, "{case}");
        }
    }
}

/// C14: a user that the request claims or an outer layer attached is removed before the inner
/// service sees it, on exempt and anonymous requests too.
#[tokio::test]
async fn the_user_comes_from_the_store_only() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .map_request(|mut request: Request<String>| {
            let times = SessionTimestamps::at(SystemTime::UNIX_EPOCH);
            let forged = Session::new(SessionId::from_bytes([7; 16]), times);
            request.extensions_mut().insert(User::eve());
            request
                .extensions_mut()
                .insert(CurrentSession::<User>::new(forged));
            request.extensions_mut().insert("something else");
            request
        })
        .layer(
            LoadUserLayer::new(sessions.clone())
                .rejection_response(EmptyResponseForRejection)
                .exempt(|_, uri| uri.path() == "/exempt"),
        )
        .service_fn(|request: Request<String>| async move {
            let seen = (
                request.extensions().get::<User>().cloned(),
                request.extensions().get::<CurrentSession<User>>().copied(),
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

/// G05: no state of one request is visible in the next one through the same service.
#[tokio::test]
async fn no_state_leaks_into_the_next_request() {
    let sessions = memory();
    let ada = signed_in_cookie(&sessions, 1).await;
    let eve = signed_in_cookie(&sessions, 2).await;
    let mut service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(who::<String>);
    for (cookie, right) in [
        (&*ada, "ada@example.com"),
        ("a=b", "anonymous"),
        (&eve, "eve@example.com"),
        ("__Host-session=x", "anonymous"),
        (&ada, "ada@example.com"),
        (&eve, "eve@example.com"),
    ] {
        let ready = service.ready().await.unwrap();
        assert_eq!(ready.call(request(cookie)).await.unwrap().body(), right);
    }
}

/// G06: requests interleaved on one thread keep their own users, at each suspension point.
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
        let right = ["ada@example.com", "eve@example.com", "anonymous"][n % 3];
        assert_eq!(task.await.unwrap().unwrap().body(), right);
    }
}

/// G06: the source uses no thread-local or task-local storage, in which a user could remain.
#[test]
fn the_source_has_no_thread_or_task_locals() {
    for (path, text) in crate::support::sources() {
        for word in ["thread_local!", "task_local!", "LocalKey"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

/// J01: anonymous requests and invalid cookies write nothing: the store implements only
/// `SessionLookup`, which cannot write.
#[tokio::test]
async fn the_layer_needs_a_read_only_store() {
    struct ReadOnly;
    impl tower_user_session::store::SessionLookup for ReadOnly {
        type User = User;
        async fn find(
            &self,
            digests: &[tower_user_session::session::TokenDigest],
        ) -> Result<Vec<tower_user_session::store::LookupResult<User>>, tower_user_session::Error>
        {
            let absent = digests
                .iter()
                .map(|d| tower_user_session::store::LookupResult::absent(*d));
            Ok(absent.collect())
        }
    }
    let service = LoadUserLayer::new(SessionService::new(ReadOnly)).layer(service_fn(who));
    let cookie = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    let response = service.oneshot(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "anonymous");
}

/// C10 in memory: each request gets the user as the store has it then.
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
