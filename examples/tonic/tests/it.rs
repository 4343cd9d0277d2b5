//! The application over a socket, with a gRPC client and a real PostgreSQL.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::time::Duration;

use ephemeral_postgres::TestDatabase;
use example_application::Application;
use example_tonic::proto::{
    CountdownRequest, Credentials, Nothing, accounts_client::AccountsClient, me_client::MeClient,
};
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tower_user_session::{feed::DEFAULT_LEASE, service::SessionServiceBuilder};

/// H19: every method responds to an anonymous call with status 16.
#[tokio::test]
async fn a_client_signs_up_signs_in_calls_and_signs_out() {
    let database = TestDatabase::create("").await;
    let (_, channel) = process(&database).await;
    let mut accounts = AccountsClient::new(channel.clone());
    let mut me = MeClient::new(channel);
    let refused = me.who_am_i(Nothing {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = me
        .countdown(CountdownRequest { times: 1 })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let ada = ada();
    accounts.sign_up(ada.clone()).await.unwrap();
    let taken = accounts.sign_up(ada.clone()).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    let wrong = Credentials {
        password: "wrong horse".to_owned(),
        ..ada.clone()
    };
    let refused = accounts.sign_in(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let signed_in = accounts.sign_in(ada).await.unwrap();
    let cookie = example_tonic::cookie(signed_in.metadata()).unwrap();
    let user = me.who_am_i(with(cookie, Nothing {})).await.unwrap();
    assert_eq!(user.into_inner().email, "ada@example.com");
    let mut request = Request::new(Nothing {});
    let bearer = format!("Bearer {}", signed_in.get_ref().token)
        .parse()
        .unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let user = me.who_am_i(request).await.unwrap();
    assert_eq!(user.into_inner().email, "ada@example.com");
    let countdown = me
        .countdown(with(cookie, CountdownRequest { times: 2 }))
        .await;
    let mut countdown = countdown.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(remaining) = countdown.message().await.unwrap() {
        said.push(remaining.seconds);
    }
    assert_eq!(said.len(), 2);
    assert!(said[1] < said[0], "{said:?}");

    accounts.sign_out(with(cookie, Nothing {})).await.unwrap();
    let refused = me.who_am_i(with(cookie, Nothing {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

/// H17, H19: a stream ends with status 16 when its session ends in another process over the same
/// database, and with 14 when the process shuts down.
#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let database = TestDatabase::create("").await;
    let (here, channel) = process(&database).await;
    let (elsewhere, _) = process(&database).await;
    let mut accounts = AccountsClient::new(channel.clone());
    let mut me = MeClient::new(channel);
    accounts.sign_up(ada()).await.unwrap();

    for (last, code) in [(false, Code::Unauthenticated), (true, Code::Unavailable)] {
        let signed_in = accounts.sign_in(ada()).await.unwrap();
        let cookie = example_tonic::cookie(signed_in.metadata()).unwrap();
        let for_ever = CountdownRequest { times: u32::MAX };
        let countdown = me.countdown(with(cookie, for_ever)).await.unwrap();
        let mut countdown = countdown.into_inner();
        assert!(countdown.message().await.unwrap().is_some());

        if last {
            here.sessions.close().await;
        } else {
            elsewhere.sessions.revoke_all(&1).await.unwrap();
        }
        let ended = async {
            loop {
                if let Err(status) = countdown.message().await.map(Option::unwrap) {
                    break status;
                }
            }
        };
        let status = timeout(DEFAULT_LEASE + SLACK, ended).await.unwrap();
        assert_eq!(status.code(), code);
    }
}

/// A tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// Starts a process over this database and connects to it.
async fn process(database: &TestDatabase) -> (Application, Channel) {
    let application =
        Application::open_with(database.config(), SessionServiceBuilder::bearer_tokens)
            .await
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let never = std::future::pending();
    tokio::spawn(example_tonic::serve(listener, application.clone(), never));
    let endpoint = Endpoint::from_shared(server).unwrap();
    (application, endpoint.connect().await.unwrap())
}

fn ada() -> Credentials {
    Credentials {
        email: "ada@example.com".to_owned(),
        password: "correct horse".to_owned(),
    }
}

fn with<T>(cookie: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("cookie", cookie.parse().unwrap());
    request
}
