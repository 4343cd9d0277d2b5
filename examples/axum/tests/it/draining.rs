//! A process that a supervisor stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use ephemeral_postgres::TestDatabase;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    process::{PATIENCE, Process},
    support::{ADA, Browser},
};

const CLIENTS: usize = 16;

/// O09: at SIGTERM an open stream ends, and every accepted request gets its response, none of them
/// 503.
#[tokio::test]
async fn a_stopping_process_ends_streams_and_answers_requests() {
    let database = TestDatabase::create("").await;
    for _ in 0..3 {
        let mut process = Process::start(&database.url()).await;
        let mut browser = Browser::at(process.address);
        browser.post("/sign-up", ADA).await;
        browser.post("/sign-in", ADA).await;
        let cookie = browser.cookie.clone().unwrap();
        let mut events = browser.open("/events").await.into_body();

        let (answered, others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (answered, others) = (Arc::clone(&answered), Arc::clone(&others));
            let (cookie, address) = (cookie.clone(), process.address);
            clients.spawn(async move {
                let client: Client<HttpConnector, Full<Bytes>> =
                    Client::builder(TokioExecutor::new()).build_http();
                loop {
                    let request = Request::get(format!("http://{address}/account"));
                    let request = request.header(header::COOKIE, &cookie);
                    // The server no longer accepts connections: a client would try the next
                    // process.
                    let Ok(response) = client.request(request.body(Full::default()).unwrap()).await
                    else {
                        return;
                    };
                    let counter = match response.status() {
                        StatusCode::OK => &answered,
                        _ => &others,
                    };
                    counter.fetch_add(1, SeqCst);
                    let body = response.into_body().collect().await;
                    assert!(body.is_ok(), "an answer broke off");
                }
            });
        }
        while answered.load(SeqCst) < 20 * CLIENTS {
            sleep(Duration::from_millis(5)).await;
        }
        // A request that the server has partly read.
        let mut half = TcpStream::connect(process.address).await.unwrap();
        let head = format!("GET /account HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\n");
        half.write_all(head.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(100)).await;

        process.terminate();
        let stream = async { while events.frame().await.is_some_and(|frame| frame.is_ok()) {} };
        timeout(PATIENCE, stream).await.unwrap();
        half.write_all(b"connection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let reading = half.read_to_string(&mut answer);
        timeout(PATIENCE, reading).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        process.exit().await;
        timeout(PATIENCE, clients.join_all()).await.unwrap();
        assert_eq!(others.load(SeqCst), 0, "of {}", answered.load(SeqCst));
    }
}
