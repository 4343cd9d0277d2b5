//! The same promises over real sockets: axum, hyper on HTTP/1 and HTTP/2, and tonic.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body as AxumBody,
    extract::State,
    http::HeaderMap,
    routing::{get, post},
};
use http::{
    Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, COOKIE, SET_COOKIE, UPGRADE, VARY},
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::tokio_stream::{self, StreamExt as _},
};
use tower::{Service, ServiceBuilder, service_fn};
use tower_user_session::{
    CurrentSession, CurrentUser, LoadUserLayer, RequireUserLayer, SessionCookie, SessionToken,
    SignedIn, SignedOut,
};

use crate::{
    reference::browser::Browser,
    support::{PATIENCE, User, WatchedSessions, patiently, signed_in_cookie, watched},
};

/// Waits for what another task, behind a socket, is about to do.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let patience = tokio::time::timeout(PATIENCE, wait);
    assert!(patience.await.is_ok(), "it never came about that {what}");
}

// ---- The application, on axum and by hand ----

fn axum_app(sessions: &WatchedSessions) -> Router {
    async fn who(user: Option<CurrentUser<User>>) -> String {
        user.map_or("nobody".to_owned(), |CurrentUser(user)| user.email)
    }
    async fn account(CurrentUser(user): CurrentUser<User>) -> String {
        user.email
    }
    async fn sign_in(State(sessions): State<WatchedSessions>, headers: HeaderMap) -> SignedIn {
        let sign_in = sessions.sign_in(1).request(&headers).remember(true);
        sign_in.await.unwrap()
    }
    async fn sign_out(State(sessions): State<WatchedSessions>, headers: HeaderMap) -> SignedOut {
        sessions.sign_out(&headers).await
    }
    async fn session(session: Option<CurrentSession>) -> String {
        session.map_or("none".to_owned(), |session| session.id().to_string())
    }
    async fn my_session(session: CurrentSession) -> String {
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

fn load_user(sessions: &WatchedSessions) -> LoadUserLayer<crate::support::WatchedStore> {
    LoadUserLayer::new(sessions.clone()).exempt(|_, uri| uri.path() == "/sign-out")
}

type Page = Response<Full<Bytes>>;

/// The same without a framework.
fn plain_app(
    sessions: &WatchedSessions,
) -> impl Service<Request<Incoming>, Response = Page, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let demanding = ServiceBuilder::new()
        .layer(RequireUserLayer::<User>::new())
        .service_fn(page);
    let sessions_too = sessions.clone();
    ServiceBuilder::new().layer(load_user(sessions)).service_fn(
        move |request: Request<Incoming>| {
            let (sessions, mut demanding) = (sessions_too.clone(), demanding.clone());
            async move {
                match request.uri().path() {
                    "/account" | "/extractor" => demanding.call(request).await,
                    "/sign-in" => {
                        let sign_in = sessions
                            .sign_in(1)
                            .request(request.headers())
                            .remember(true);
                        let mut response = Response::default();
                        sign_in.await.unwrap().write_to(response.headers_mut());
                        Ok(response)
                    }
                    "/sign-out" => {
                        let signed_out = sessions.sign_out(request.headers()).await;
                        let mut response = Response::default();
                        signed_out.write_to(response.headers_mut());
                        Ok(response)
                    }
                    _ => page(request).await,
                }
            }
        },
    )
}

async fn page(request: Request<Incoming>) -> Result<Page, Infallible> {
    let user = request.extensions().get::<User>();
    let text = user.map_or("nobody".to_owned(), |user| user.email.clone());
    Ok(Response::new(Full::from(text)))
}

// ---- Servers and clients ----

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Http {
    One,
    Two,
}

/// Serves on loopback until the test's runtime ends.
async fn serve<S, B>(http: Http, service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                // Clients of these tests break off; that is an error here and none of the test's.
                match http {
                    Http::One => {
                        let builder = hyper::server::conn::http1::Builder::new();
                        let connection = builder.serve_connection(io, service);
                        let _ = connection.with_upgrades().await;
                    }
                    Http::Two => {
                        let mut builder =
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.max_concurrent_streams(1_000);
                        let _ = builder.serve_connection(io, service).await;
                    }
                }
            });
        }
    });
    address
}

/// One connection of a real client.
enum Client {
    One(tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<Full<Bytes>>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn connect(http: Http, address: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        match http {
            Http::One => {
                let (client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Self::One(client.into())
            }
            Http::Two => {
                let executor = TokioExecutor::new();
                let (client, connection) = hyper::client::conn::http2::handshake(executor, io)
                    .await
                    .unwrap();
                tokio::spawn(connection);
                Self::Two(client)
            }
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let response = match self {
            Self::One(client) => {
                let mut client = client.lock().await;
                client.ready().await.unwrap();
                client.send_request(request).await
            }
            Self::Two(client) => client.clone().send_request(request).await,
        };
        response.unwrap()
    }

    async fn get(&self, path: &str, cookies: &[&str]) -> (StatusCode, HeaderMap, String) {
        self.ask("GET", path, cookies).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        cookies: &[&str],
    ) -> (StatusCode, HeaderMap, String) {
        let uri = match self {
            Self::One(_) => path.to_owned(),
            Self::Two(_) => format!("http://app.example.com{path}"),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "app.example.com");
        for cookie in cookies {
            request = request.header(COOKIE, *cookie);
        }
        let request = request.body(Full::default()).unwrap();
        let (head, body) = patiently(self.send(request)).await.into_parts();
        let body = patiently(body.collect()).await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (head.status, head.headers, text)
    }
}

// ---- The promises ----

async fn promises_hold(sessions: &WatchedSessions, client: &Client) {
    let ada = signed_in_cookie(sessions, 1).await;
    let eve = signed_in_cookie(sessions, 2).await;
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );

    // A01, A14, A15, A16, A18, G05: whose request it is, one after the other on one connection.
    for (cookies, right) in [
        (&[][..], "nobody"),
        (&[&*ada], "ada@example.com"),
        (&["a=b"], "nobody"),
        (&["a=b", &eve, "c=d"], "eve@example.com"),
        (&[&*ada, &*ada], "ada@example.com"),
        (&[&*ada, &*eve], "nobody"),
        (&[&*unknown], "nobody"),
        (&["__Host-session="], "nobody"),
        (&["x=\u{1f600}", &eve], "eve@example.com"),
        (&[], "nobody"),
    ] {
        let finds = sessions.store().finds();
        let (status, headers, text) = client.get("/who", cookies).await;
        assert_eq!((status, &*text), (StatusCode::OK, right), "{cookies:?}");
        // H06, H07: caches are told where somebody is signed in and nowhere else.
        assert_eq!(headers.contains_key(VARY), right != "nobody");
        assert_eq!(headers.contains_key(CACHE_CONTROL), right != "nobody");
        assert!(sessions.store().finds() - finds <= 1);
        // H20: the body is the handler's, and so is its length.
        assert_eq!(headers[CONTENT_LENGTH], text.len().to_string());
    }

    // C13: one refusal for all.
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

    // H01, H10, D01, D07: signing in and out, with a browser between.
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
    assert_eq!(client.get("/who", &[&first]).await.2, "nobody");
    assert_eq!(client.get("/who", &[&second]).await.2, "ada@example.com");

    // F01, D09: the store fails: 503 with a token, pages without one as ever, and sign-out clears.
    sessions.store().set_failing(true);
    for path in ["/who", "/account"] {
        let (status, headers, text) = client.get(path, &[&second]).await;
        assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, ""));
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }
    assert_eq!(client.get("/who", &["a=b"]).await.2, "nobody");
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
    assert_eq!(client.get("/who", &[&second]).await.2, "nobody");
}

/// A14 (crumbs arrive as lines and are read as such), C13, G05, H01, H06, H10, F01, D09 on hyper.
#[tokio::test]
async fn hyper_over_http_1_and_2() {
    for http in [Http::One, Http::Two] {
        let sessions = watched();
        let address = serve(http, plain_app(&sessions)).await;
        promises_hold(&sessions, &Client::connect(http, address).await).await;
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
    promises_hold(&sessions, &Client::connect(Http::One, address).await).await;

    let sessions = watched();
    let address = serve(Http::Two, axum_app(&sessions)).await;
    promises_hold(&sessions, &Client::connect(Http::Two, address).await).await;
}

/// axum's extractors give the session's public id, or refuse like the layer, or take anybody.
#[tokio::test]
async fn axum_extracts_the_session() {
    let sessions = watched();
    let signed_in = sessions.sign_in(1).await.unwrap();
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

/// A14: what arrives over HTTP/2 as crumbs is not joined on the way: our reader sees the lines.
#[tokio::test]
async fn http_2_crumbs_arrive_as_lines() {
    let service = service_fn(|request: Request<Incoming>| async move {
        let lines = request.headers().get_all(COOKIE).iter().count();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(lines.to_string())))
    });
    let address = serve(Http::Two, service).await;
    let client = Client::connect(Http::Two, address).await;
    let (.., lines) = client.get("/", &["a=b", "c=d", "e=f"]).await;
    assert_eq!(lines, "3");
}

/// G05: many requests at once on one connection keep their own identity.
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
        let right = ["ada@example.com", "eve@example.com", "nobody"][n % 3];
        assert_eq!(call.await.unwrap().2, right);
    }
}

// ---- Clients that go away ----

/// Present in the extensions of a request for as long as anything of it is alive.
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
                // The connection lives on and serves.
                eventually("the streams are gone", || requests() <= connected).await;
                sessions.store().answer(true);
                assert_eq!(client.get("/who", &[&ada]).await.2, "ada@example.com");
            }
        }
        eventually("nothing is left of the requests", || requests() == 0).await;
        sessions.store().answer(true);
        eventually("no task is left", || tasks() <= tasks_before).await;
        // One question was under way; who had gone before the next was not asked for.
        let asked = sessions.store().finds() - finds;
        let served = usize::from(http == Http::Two);
        assert_eq!(asked, 1 + served, "round {round}");
        let client = Client::connect(http, address).await;
        assert_eq!(client.get("/who", &[&ada]).await.2, "ada@example.com");
        drop(client);
        eventually("no task is left", || tasks() <= tasks_before).await;
    }
}

/// G04: HTTP/1 clients that close the connection while their lookup is in flight.
#[tokio::test]
async fn http_1_clients_that_go_away_leave_nothing_behind() {
    clients_go_away(Http::One).await;
}

/// G04, J08: HTTP/2 clients that reset the stream while their lookup is in flight.
#[tokio::test]
async fn http_2_clients_that_go_away_leave_nothing_behind() {
    clients_go_away(Http::Two).await;
}

/// A21: headers beyond the server's limit are the server's to refuse; nobody is asked.
#[tokio::test]
async fn oversized_headers_are_the_servers_to_refuse() {
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

// ---- Upgrades ----

/// H18: a WebSocket's handshake, or any other upgrade, passes both layers; its 101 is the handler's
/// own and the connection belongs to the two ends. The verdict is that of the handshake.
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

// ---- tonic ----

/// Messages are bytes, so that no generated code is needed.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

/// `test.Who/One` answers with one message, `test.Who/Many` with three and then an error.
#[derive(Clone)]
struct Who;

fn email<T>(request: &tonic::Request<T>) -> Vec<u8> {
    let user = request.extensions().get::<User>();
    user.map_or(b"nobody".to_vec(), |user| user.email.clone().into_bytes())
}

impl tonic::server::UnaryService<Vec<u8>> for Who {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<tonic::Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let mut response = tonic::Response::new(email(&request));
        response
            .metadata_mut()
            .insert("x-kept", "yes".parse().unwrap());
        std::future::ready(Ok(response))
    }
}

impl tonic::server::ServerStreamingService<Vec<u8>> for Who {
    type Response = Vec<u8>;
    type ResponseStream = tokio_stream::Iter<std::vec::IntoIter<Result<Vec<u8>, Status>>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let email = email(&request);
        let mut all: Vec<_> = vec![Ok(email.clone()), Ok(email.clone()), Ok(email)];
        all.push(Err(Status::data_loss("made up")));
        std::future::ready(Ok(tonic::Response::new(tokio_stream::iter(all))))
    }
}

impl Service<Request<tonic::body::Body>> for Who {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.Who/One" => grpc.unary(Who, request).await,
                _ => grpc.server_streaming(Who, request).await,
            })
        })
    }
}

impl tonic::server::NamedService for Who {
    const NAME: &'static str = "test.Who";
}

/// Three tonic servers: without our layers, with the one that loads, with both.
fn tonic_servers(sessions: &WatchedSessions) -> [SocketAddr; 3] {
    let mut addresses = Vec::new();
    for layers in 0..3 {
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
        let incoming = incoming.unwrap();
        addresses.push(incoming.local_addr().unwrap());
        let (load, require) = (
            LoadUserLayer::new(sessions.clone()),
            RequireUserLayer::<User>::new(),
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

struct GrpcClient(tonic::client::Grpc<tonic::transport::Channel>);

impl GrpcClient {
    async fn connect(address: SocketAddr) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = patiently(endpoint.unwrap().connect()).await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    fn request(cookies: &[&str]) -> tonic::Request<Vec<u8>> {
        let mut request = tonic::Request::new(b"hello".to_vec());
        for cookie in cookies {
            request
                .metadata_mut()
                .append("cookie", cookie.parse().unwrap());
        }
        request
    }

    async fn one(&mut self, cookies: &[&str]) -> Result<String, Status> {
        self.0.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.Who/One");
        let response = patiently(self.0.unary(Self::request(cookies), path, Raw)).await?;
        Ok(String::from_utf8(response.into_inner()).unwrap())
    }

    async fn many(&mut self, cookies: &[&str]) -> Result<(Vec<String>, Status), Status> {
        self.0.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.Who/Many");
        let call = self.0.server_streaming(Self::request(cookies), path, Raw);
        let mut stream = patiently(call).await?.into_inner();
        let mut messages = Vec::new();
        loop {
            match patiently(stream.next()).await.unwrap() {
                Ok(message) => messages.push(String::from_utf8(message).unwrap()),
                Err(status) => return Ok((messages, status)),
            }
        }
    }
}

/// H19, A14, A16, F01: unary and streaming calls see their user, and who is refused gets a status
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
        assert_eq!(open.one(cookies).await.unwrap(), right.unwrap_or("nobody"));
        let (messages, end) = open.many(cookies).await.unwrap();
        assert_eq!(messages, [right.unwrap_or("nobody"); 3]);
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
    assert_eq!(open.one(&["a=b"]).await.unwrap(), "nobody");
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
        unreachable!("that is what was asked for")
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

/// H20: with our layers a call's headers, messages, sizes and trailers are those without, but for
/// the two headers to caches, which stand in the headers and not in the trailers.
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
            let before = with.headers.len();
            with.headers
                .retain(|line| !line.starts_with("vary") && !line.starts_with("cache-control"));
            assert_eq!(before - with.headers.len(), 2);
            let text = String::from_utf8_lossy(&with.data).into_owned();
            assert!(text.contains("ada@example.com"), "{text:?}");
            with.data = without.data.clone();
            assert_eq!(with, without);
        }
    }
}

/// H19: a refusal is "trailers-only": status 200 and one block of headers that ends the stream.
#[tokio::test]
async fn grpc_refusals_are_trailers_only() {
    let sessions = watched();
    let ada = signed_in_cookie(&sessions, 1).await;
    let [_, load, both] = tonic_servers(&sessions);
    let refused = on_the_wire(both, "One", "a=b").await;
    sessions.store().set_failing(true);
    let unavailable = on_the_wire(load, "Many", &ada).await;
    for (response, status) in [(refused, 16), (unavailable, 14)] {
        assert_eq!(response.status, StatusCode::OK);
        assert!(response.ends_with_headers, "{response:?}");
        assert_eq!((response.data.len(), &response.trailers), (0, &None));
        let right = [
            "cache-control: \"no-store\"".to_owned(),
            "content-type: \"application/grpc\"".to_owned(),
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

/// G11: the layers fit where axum and hyper want services, with axum's bodies too.
#[test]
fn the_layers_fit_every_place_for_a_layer() {
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
