//! The same guarantees over real sockets: axum, and hyper on HTTP/1 and HTTP/2.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::State,
    http::HeaderMap,
    routing::{get, post},
};
use http::{
    Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, COOKIE, SET_COOKIE, VARY},
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use tower_user_session::{
    CurrentSession, CurrentUser, RequireUserLayer, SignedIn, SignedOut, cookie::SessionCookie,
    session::SessionToken,
};

use crate::support::{
    User, WatchedSessions,
    hyper_app::{load_user, plain_app},
    loopback::{Client, Http, serve},
    reference::browser::Browser,
    signed_in_cookie, watched,
};

// ---- The application on axum ----

fn axum_app(sessions: &WatchedSessions) -> Router {
    async fn who(user: Option<CurrentUser<User>>) -> String {
        user.map_or("anonymous".to_owned(), |CurrentUser(user)| user.email)
    }
    async fn account(CurrentUser(user): CurrentUser<User>) -> String {
        user.email
    }
    async fn sign_in(State(sessions): State<WatchedSessions>, headers: HeaderMap) -> SignedIn {
        let sign_in = sessions.sign_in(1, &headers).remember(true);
        sign_in.await.unwrap()
    }
    async fn sign_out(State(sessions): State<WatchedSessions>, headers: HeaderMap) -> SignedOut {
        sessions.sign_out(&headers).await
    }
    async fn session(session: Option<CurrentSession<User>>) -> String {
        session.map_or("none".to_owned(), |session| session.id().to_string())
    }
    async fn my_session(session: CurrentSession<User>) -> String {
        session.id().to_string()
    }
    let demanding = RequireUserLayer::<User>::new();
    Router::new()
        .route("/session", get(session))
        .route("/my-session", get(my_session))
        .route("/who", get(who))
        .route("/extractor", get(account))
        .route("/account", get(account).layer(demanding))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(load_user(sessions))
        .with_state(sessions.clone())
}

// ---- The guarantees ----

async fn guarantees_hold(sessions: &WatchedSessions, client: &Client) {
    let ada = signed_in_cookie(sessions, 1).await;
    let eve = signed_in_cookie(sessions, 2).await;
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );

    // A01, A14, A15, A16, A18, G05: each request resolves to its own user, one after the other on
    // one connection.
    for (cookies, right) in [
        (&[][..], "anonymous"),
        (&[&*ada], "ada@example.com"),
        (&["a=b"], "anonymous"),
        (&["a=b", &eve, "c=d"], "eve@example.com"),
        (&[&*ada, &*ada], "ada@example.com"),
        (&[&*ada, &*eve], "anonymous"),
        (&[&*unknown], "anonymous"),
        (&["__Host-session="], "anonymous"),
        (&["x=\u{1f600}", &eve], "eve@example.com"),
        (&[], "anonymous"),
    ] {
        let finds = sessions.store().finds();
        let (status, headers, text) = client.get("/who", cookies).await;
        assert_eq!((status, &*text), (StatusCode::OK, right), "{cookies:?}");
        // H06: each response varies with the cookie, and a signed-in user's response is private.
        assert_eq!(headers[VARY], "cookie");
        assert_eq!(headers.contains_key(CACHE_CONTROL), right != "anonymous");
        assert!(sessions.store().finds() - finds <= 1);
        // H20: the body and its length are the handler's.
        assert_eq!(headers[CONTENT_LENGTH], text.len().to_string());
    }

    // C13: all rejections look the same.
    for path in ["/account", "/extractor"] {
        let mut refusals = Vec::new();
        for cookie in ["a=b", "__Host-session=x", &unknown] {
            let (status, mut headers, text) = client.get(path, &[cookie]).await;
            headers.remove("date");
            refusals.push((status, format!("{headers:?}"), text));
        }
        assert_eq!(refusals[0].0, StatusCode::UNAUTHORIZED);
        assert!(refusals.iter().all(|refusal| *refusal == refusals[0]));
        assert_eq!(client.get(path, &[&ada]).await.2, "ada@example.com");
    }

    // H01, H10, D01, D07: signing in and out, through a browser model.
    let mut browser = Browser::default();
    let cookie_of = |browser: &Browser| {
        let headers = browser.request("app.example.com");
        let cookie = headers
            .get(COOKIE)
            .map(|value| value.to_str().unwrap().to_owned());
        cookie.unwrap_or_default()
    };
    let (status, headers, _) = client.ask("POST", "/sign-in", &[]).await;
    assert_eq!(
        (status, headers.get_all(SET_COOKIE).iter().count()),
        (StatusCode::OK, 1)
    );
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    browser.receive("app.example.com", &headers).unwrap();
    let first = cookie_of(&browser);
    assert_eq!(client.get("/account", &[&first]).await.2, "ada@example.com");
    let (_, headers, _) = client.ask("POST", "/sign-in", &[&first]).await;
    browser.receive("app.example.com", &headers).unwrap();
    let second = cookie_of(&browser);
    assert_eq!(client.get("/who", &[&first]).await.2, "anonymous");
    assert_eq!(client.get("/who", &[&second]).await.2, "ada@example.com");

    // F01, D09: if the store fails, a request with a token gets 503, one without gets its page, and
    // a sign-out clears the cookie.
    sessions.store().set_failing(true);
    for path in ["/who", "/account"] {
        let (status, headers, text) = client.get(path, &[&second]).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            text,
            "The service is unavailable at the moment. Please try again."
        );
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }
    assert_eq!(client.get("/who", &["a=b"]).await.2, "anonymous");
    let (status, headers, _) = client.ask("POST", "/sign-out", &[&second]).await;
    assert_eq!(status, StatusCode::OK);
    let mut forgetful = Browser::default();
    forgetful.receive("app.example.com", &headers).unwrap();
    assert_eq!(cookie_of(&forgetful), "");
    sessions.store().set_failing(false);
    assert_eq!(client.get("/who", &[&second]).await.2, "ada@example.com");
    let (_, headers, _) = client.ask("POST", "/sign-out", &[&second]).await;
    browser.receive("app.example.com", &headers).unwrap();
    assert_eq!(cookie_of(&browser), "");
    assert_eq!(client.get("/who", &[&second]).await.2, "anonymous");
}

/// A14 (split cookies arrive as lines and are read as such), C13, G05, H01, H06, H10, F01, D09 on
/// hyper.
#[tokio::test]
async fn hyper_over_http_1_and_2() {
    for http in [Http::One, Http::Two] {
        let sessions = watched();
        let address = serve(http, plain_app(&sessions)).await;
        guarantees_hold(&sessions, &Client::connect(http, address).await).await;
    }
}

/// The same on axum, with its own server and under hyper's HTTP/2.
#[tokio::test]
async fn axum_over_http_1_and_2() {
    let sessions = watched();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum_app(&sessions);
    tokio::spawn(async move { axum::serve(listener, app).await });
    guarantees_hold(&sessions, &Client::connect(Http::One, address).await).await;

    let sessions = watched();
    let address = serve(Http::Two, axum_app(&sessions)).await;
    guarantees_hold(&sessions, &Client::connect(Http::Two, address).await).await;
}

/// axum's extractors yield the session's public id, reject like the layer, or accept an anonymous
/// request.
#[tokio::test]
async fn axum_extracts_the_session() {
    let sessions = watched();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let cookie = format!("__Host-session={}", signed_in.token().expose());
    let id = signed_in.session().id().to_string();
    let address = serve(Http::One, axum_app(&sessions)).await;
    let client = Client::connect(Http::One, address).await;
    for path in ["/session", "/my-session"] {
        assert_eq!(client.get(path, &[&cookie]).await.2, id);
    }
    assert_eq!(client.get("/session", &[]).await.2, "none");
    let refused = client.get("/my-session", &[]).await;
    assert_eq!(refused.0, StatusCode::UNAUTHORIZED);
}

/// A14: cookies that HTTP/2 splits are not joined on the way: the reader sees the lines.
#[tokio::test]
async fn split_http_2_cookies_arrive_as_header_lines() {
    let service = service_fn(|request: Request<Incoming>| async move {
        let lines = request.headers().get_all(COOKIE).iter().count();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(lines.to_string())))
    });
    let address = serve(Http::Two, service).await;
    let client = Client::connect(Http::Two, address).await;
    let (.., lines) = client.get("/", &["a=b", "c=d", "e=f"]).await;
    assert_eq!(lines, "3");
}

/// G05: concurrent requests on one connection keep their own users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multiplexed_requests_keep_their_identity() {
    let sessions = watched();
    sessions.store().take_steps(3);
    let cookies = [
        signed_in_cookie(&sessions, 1).await,
        signed_in_cookie(&sessions, 2).await,
        "a=b".to_owned(),
    ];
    let address = serve(Http::Two, axum_app(&sessions)).await;
    let client = Arc::new(Client::connect(Http::Two, address).await);
    let calls: Vec<_> = (0..300)
        .map(|n| {
            let (client, cookie) = (Arc::clone(&client), cookies[n % 3].clone());
            tokio::spawn(async move { client.get("/who", &[&cookie]).await })
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let right = ["ada@example.com", "eve@example.com", "anonymous"][n % 3];
        assert_eq!(call.await.unwrap().2, right);
    }
}

/// G11: the layers fit where axum and hyper expect services, also with axum's bodies.
#[test]
fn the_layers_fit_every_router_method() {
    let sessions = watched();
    let _: Router = axum_app(&sessions);
    let _: Router = Router::new()
        .route("/", get(|| async { "hello" }).layer(load_user(&sessions)))
        .route_layer(RequireUserLayer::<User>::new())
        .fallback_service(
            ServiceBuilder::new()
                .layer(load_user(&sessions))
                .layer(RequireUserLayer::<User>::new())
                .service_fn(|_: Request<AxumBody>| async move {
                    Ok::<_, Infallible>(Response::new(AxumBody::empty()))
                }),
        );
    assert_eq!(SessionCookie::default().name(), sessions.cookie().name());
}
