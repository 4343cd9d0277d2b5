//! Connections that close early, are rejected, or are upgraded.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{
    Request, Response, StatusCode,
    header::{COOKIE, UPGRADE},
};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceBuilder;
use tower_user_session::{LoadUserLayer, RequireUserLayer};

use crate::support::{
    PATIENCE, User,
    hyper_app::plain_app,
    loopback::{Client, Http, serve},
    patiently, signed_in_cookie, watched,
};

/// Waits for an effect in another task, behind a socket.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let patience = tokio::time::timeout(PATIENCE, wait);
    assert!(patience.await.is_ok(), "never observed: {what}");
}

/// Present in a request's extensions as long as any part of the request is alive.
#[derive(Clone)]
struct Alive(#[expect(dead_code, reason = "it is only counted")] Arc<()>);

async fn clients_go_away(http: Http) {
    const CLIENTS: usize = 300;
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let alive = Arc::new(());
    let mark = Arc::clone(&alive);
    let service = ServiceBuilder::new()
        .map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Alive(Arc::clone(&mark)));
            request
        })
        .service(plain_app(&sessions));
    let address = serve(http, service).await;
    let requests = || Arc::strong_count(&alive) - 2;
    // The service holds one mark for each connection too.
    let connected = match http {
        Http::One => CLIENTS,
        Http::Two => 1,
    };
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let tasks_before = tasks();

    for round in 0..3 {
        sessions.store().answer(false);
        let finds = sessions.store().finds();
        match http {
            Http::One => {
                let mut clients = Vec::new();
                for _ in 0..CLIENTS {
                    let mut client = TcpStream::connect(address).await.unwrap();
                    let text = format!("GET /who HTTP/1.1\r\nhost: a\r\ncookie: {ada}\r\n\r\n");
                    client.write_all(text.as_bytes()).await.unwrap();
                    clients.push(client);
                }
                eventually("all requests arrived", || requests() >= connected + CLIENTS).await;
                drop(clients);
            }
            Http::Two => {
                let client = Arc::new(Client::connect(http, address).await);
                let calls: Vec<_> = (0..CLIENTS)
                    .map(|_| {
                        let (client, ada) = (Arc::clone(&client), ada.clone());
                        tokio::spawn(async move { client.get("/who", &[&ada]).await })
                    })
                    .collect();
                eventually("all requests arrived", || requests() >= connected + CLIENTS).await;
                for call in calls {
                    // Drops the response's future: RST_STREAM.
                    call.abort();
                }
                // The connection stays open and serves requests.
                eventually("the streams are gone", || requests() <= connected).await;
                sessions.store().answer(true);
                assert_eq!(client.get("/who", &[&ada]).await.2, "ada@example.com");
            }
        }
        eventually("nothing is left of the requests", || requests() == 0).await;
        sessions.store().answer(true);
        eventually("no task is left", || tasks() <= tasks_before).await;
        // One lookup was in flight. Clients that disconnected before the next one were not looked
        // up.
        let asked = sessions.store().finds() - finds;
        let served = usize::from(http == Http::Two);
        assert_eq!(asked, 1 + served, "round {round}");
        let client = Client::connect(http, address).await;
        assert_eq!(client.get("/who", &[&ada]).await.2, "ada@example.com");
        drop(client);
        eventually("no task is left", || tasks() <= tasks_before).await;
    }
}

/// G04: HTTP/1 clients close the connection while their lookup is in flight.
#[tokio::test]
async fn disconnected_http_1_clients_leave_nothing_behind() {
    clients_go_away(Http::One).await;
}

/// G04, J08: HTTP/2 clients reset the stream while their lookup is in flight.
#[tokio::test]
async fn disconnected_http_2_clients_leave_nothing_behind() {
    clients_go_away(Http::Two).await;
}

/// A21: the server rejects headers beyond its limit, and no lookup is made.
#[tokio::test]
async fn oversized_headers_are_rejected_by_the_server() {
    let sessions = watched();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = plain_app(&sessions);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_buf_size(8 * 1024);
        let service = TowerToHyperService::new(service);
        let _ = builder
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    let ada = signed_in_cookie(&sessions, 1).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let filler = "name=value; ".repeat(1_000);
    let text = format!("GET /who HTTP/1.1\r\nhost: a\r\ncookie: {filler}{ada}\r\n\r\n");
    client.write_all(text.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    patiently(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(sessions.store().finds(), 0);
}

/// H18: a WebSocket handshake, or any other upgrade, passes both layers. The 101 is the handler's
/// own, and the connection belongs to the two ends. The user is the one of the handshake.
#[tokio::test]
async fn an_upgrade_passes_and_carries_bytes() {
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(|mut request: Request<Incoming>| {
            let user = request.extensions().get::<User>().unwrap().email.clone();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                io.write_all(user.as_bytes()).await.unwrap();
                let mut word = [0; 4];
                while io.read_exact(&mut word).await.is_ok() {
                    io.write_all(&word).await.unwrap();
                }
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(UPGRADE, "echo")
                .header("connection", "upgrade");
            let response = response.body(Full::<Bytes>::default()).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
    let address = serve(Http::One, service).await;
    let handshake = async |cookie: &str| {
        let client = Client::connect(Http::One, address).await;
        let request = Request::builder()
            .uri("/socket")
            .header("host", "app.example.com")
            .header(UPGRADE, "echo")
            .header("connection", "upgrade")
            .header(COOKIE, cookie);
        patiently(client.send(request.body(Full::default()).unwrap())).await
    };
    let refused = handshake("a=b").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);

    let response = handshake(&ada).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut names: Vec<_> = response
        .headers()
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["connection", "date", "upgrade"]);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut greeting = [0; 15];
    patiently(io.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"ada@example.com");
    for word in [b"ping", b"pong"] {
        io.write_all(word).await.unwrap();
        let mut echo = [0; 4];
        patiently(io.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, word);
    }
}
