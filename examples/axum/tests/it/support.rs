//! A running site and a simple HTTP client with cookies.

use std::net::SocketAddr;

use axum::{
    Router,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
};
use axum_client_ip::ClientIpSource;
use bytes::Bytes;
use ephemeral_postgres::{Server, TestDatabase};
use example_application::{Application, Sessions};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tower_user_session::tokio_postgres;

pub(crate) const ADA: &str = "email=ada%40example.com&password=correct+horse";

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) sessions: Sessions,
    pub(crate) database: Option<TestDatabase>,
}

impl Site {
    pub(crate) async fn open() -> Self {
        let database = TestDatabase::create("").await;
        let application = Application::open(database.config()).await.unwrap();
        let mut site = Self::serve(application).await;
        site.database = Some(database);
        site
    }

    /// Starts another process over the same database.
    pub(crate) async fn beside(&self) -> Self {
        let database = self.database.as_ref().unwrap();
        Self::serve(Application::open(database.config()).await.unwrap()).await
    }

    pub(crate) async fn serve(application: Application) -> Self {
        Self::serve_router(&application, example_axum::router(application.clone())).await
    }

    pub(crate) async fn serve_behind(source: ClientIpSource, application: Application) -> Self {
        let router = example_axum::router_behind(source, application.clone());
        Self::serve_router(&application, router).await
    }

    async fn serve_router(application: &Application, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = application.sessions.clone();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async { axum::serve(listener, service).await.unwrap() });
        Self {
            address,
            sessions,
            database: None,
        }
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::at(self.address)
    }

    /// Returns a browser in which Ada is signed in.
    pub(crate) async fn adas_browser(&self) -> Browser {
        let mut browser = self.browser();
        browser.post("/sign-up", ADA).await;
        let answer = browser.post("/sign-in", ADA).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        browser
    }
}

#[derive(Clone)]
pub(crate) struct Browser {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) cookie: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            cookie: None,
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&mut self, path: &str, form: &str) -> Answer {
        self.send(Method::POST, path, &[], form).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        form: &str,
    ) -> Answer {
        let (head, body) = self.ask(method, path, headers, form).await.into_parts();
        if let Some(cookie) = head.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = (!cookie.ends_with('=')).then(|| cookie.to_owned());
        }
        let mut headers = head.headers;
        headers.remove(header::DATE);
        Answer {
            status: head.status,
            headers,
            body: String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap(),
        }
    }

    /// A response that can be a stream.
    pub(crate) async fn open(&self, path: &str) -> Response<Incoming> {
        self.ask(Method::GET, path, &[], "").await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        form: &str,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(form.to_owned().into()).unwrap();
        self.client.request(request).await.unwrap()
    }
}

/// Returns the metrics as the internal address serves them.
pub(crate) async fn metrics(sessions: &Sessions) -> String {
    let internal = example_axum::internal(sessions.clone());
    let request = Request::get("/metrics").body(axum::body::Body::empty());
    let response = internal.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().into()).unwrap()
}

/// Connects to a private server.
pub(crate) async fn connect(server: &Server) -> tokio_postgres::Client {
    let connected = server.config().connect(tokio_postgres::NoTls).await;
    let (client, connection) = connected.unwrap();
    tokio::spawn(connection);
    client
}
