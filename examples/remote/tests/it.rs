//! Two services: one stores the sessions, the other sends its lookups to the first.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, Uri, header},
};
use ephemeral_postgres::TestDatabase;
use example_application::{Application, Credentials, Sessions};
use example_remote::RemoteLookup;
use http_body_util::BodyExt as _;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, task::JoinSet};
use tower_user_session::{SessionService, session::SessionToken};

/// Serves the router and returns its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Starts a service that uses the resolver at this address, and returns its own address.
async fn remote(resolver: &str) -> (SessionService<RemoteLookup>, String) {
    let resolver: Uri = format!("{resolver}/resolve").parse().unwrap();
    let sessions = SessionService::new(RemoteLookup::new(resolver));
    let address = serve(example_remote::router(sessions.clone())).await;
    (sessions, address)
}

async fn sign_up(application: &Application, email: &str) -> i64 {
    let credentials = Credentials {
        email: email.to_owned(),
        password: "correct horse".to_owned(),
    };
    application.accounts.sign_up(&credentials).await.unwrap()
}

async fn sign_in(sessions: &Sessions, user_id: i64) -> String {
    let signed_in = sessions.sign_in_without_request(user_id).await.unwrap();
    signed_in.token().expose()
}

async fn me(address: &str, token: &str) -> (StatusCode, String) {
    let request = Request::get(format!("{address}/api/me"))
        .header(header::COOKIE, format!("__Host-session={token}"))
        .body(Body::empty())
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn a_service_without_a_database_knows_who_is_signed_in() {
    let database = TestDatabase::create("").await;
    let application = Application::open(database.config()).await.unwrap();
    let resolver = serve(example_axum::internal(application.sessions.clone())).await;
    let (sessions, address) = remote(&resolver).await;

    let ada = sign_up(&application, "ada@example.com").await;
    let token = sign_in(&application.sessions, ada).await;
    let (status, body) = me(&address, &token).await;
    assert_eq!(
        (status, &*body),
        (StatusCode::OK, r#"{"id":1,"email":"ada@example.com"}"#)
    );
    let stranger = SessionToken::generate().unwrap().expose();
    assert_eq!(me(&address, &stranger).await.0, StatusCode::UNAUTHORIZED);

    // The times come from the clock of the database.
    let token = SessionToken::parse(token.as_bytes()).unwrap();
    let here = sessions.resolve(&token).await.unwrap().unwrap().session;
    let there = application
        .sessions
        .resolve(&token)
        .await
        .unwrap()
        .unwrap()
        .session;
    assert_eq!(here.id(), there.id());
    assert_eq!(here.times().created_at, there.times().created_at);
    assert_eq!(here.times().expires_at, there.times().expires_at);

    let client = database.client().await;
    client.batch_execute("DELETE FROM sessions").await.unwrap();
    // The service with the database uses its cache until the notification arrives.
    let start = Instant::now();
    while me(&address, &token.expose()).await.0 != StatusCode::UNAUTHORIZED {
        assert!(start.elapsed() < Duration::from_secs(2), "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn many_at_once_each_get_their_own_answer_and_share_questions() {
    let database = TestDatabase::create("").await;
    let application = Application::open(database.config()).await.unwrap();
    let resolver = serve(example_axum::internal(application.sessions.clone())).await;
    let (sessions, _) = remote(&resolver).await;

    let users = [
        sign_up(&application, "ada@example.com").await,
        sign_up(&application, "eve@example.com").await,
    ];
    let mut tokens = Vec::new();
    for n in 0..100 {
        tokens.push(sign_in(&application.sessions, users[n % 2]).await);
    }
    let mut lookups = JoinSet::new();
    for (n, token) in tokens.into_iter().enumerate() {
        let sessions = sessions.clone();
        lookups.spawn(async move {
            let token = SessionToken::parse(token.as_bytes()).unwrap();
            let user = sessions.user(&token).await.unwrap().unwrap();
            assert_eq!(user.id, users[n % 2]);
        });
    }
    lookups.join_all().await;

    assert_eq!(application.sessions.metrics().lookups, 100);
    let questions = sessions.metrics().statements;
    let statements = application.sessions.metrics().statements;
    assert!(
        questions < 20 && statements < 20,
        "{questions} questions, {statements} statements"
    );
}

#[tokio::test]
async fn where_nobody_answers_it_is_not_known_who_is_asking() {
    let token = SessionToken::generate().unwrap().expose();
    let (_, address) = remote("http://127.0.0.1:1").await;
    assert_eq!(
        me(&address, &token).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );

    // The server responds, but not with a result.
    for answer in ["{}", "[]", "nothing"] {
        let other = Router::new().fallback(move || async move { answer });
        let (_, address) = remote(&serve(other).await).await;
        let (status, _) = me(&address, &token).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    }
}
