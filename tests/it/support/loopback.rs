//! Servers and clients connected by a real socket.

use std::{convert::Infallible, net::SocketAddr};

use http::{HeaderMap, Request, Response, StatusCode, header::COOKIE};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use crate::support::patiently;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Http {
    One,
    Two,
}

/// Serves on loopback until the test's runtime ends.
pub async fn serve<S, B>(http: Http, service: S) -> SocketAddr
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
                // Clients of these tests disconnect. That is an error here and not the test's
                // failure.
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
pub enum Client {
    One(tokio::sync::Mutex<hyper::client::conn::http1::SendRequest<Full<Bytes>>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub async fn connect(http: Http, address: SocketAddr) -> Self {
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

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
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

    pub async fn get(&self, path: &str, cookies: &[&str]) -> (StatusCode, HeaderMap, String) {
        self.ask("GET", path, cookies).await
    }

    pub async fn ask(
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
