//! A process that a supervisor stops.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
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
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::support::{ADA, Browser};

const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS: usize = 16;

/// The example's own program. It is killed on drop, no matter how the test ends.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(database: &TestDatabase) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_example-axum"))
            .env("DATABASE_URL", database.url())
            .env("ADDR", "127.0.0.1:0")
            .env("INTERNAL_ADDR", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let line = spawn_blocking(move || output.lines().next().unwrap().unwrap());
        let line = timeout(PATIENCE, line).await.unwrap().unwrap();
        let address = line.split("http://").nth(1).unwrap();
        let address = address.split(' ').next().unwrap().parse().unwrap();
        Self { child, address }
    }

    /// Sends SIGTERM. Every shell has the command `kill`; not every machine has a program of this
    /// name.
    fn terminate(&self) {
        let kill = format!("kill -s TERM {}", self.child.id());
        let killed = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(killed.unwrap().success());
    }

    async fn exit(&mut self) {
        for _ in 0..400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// O09: at SIGTERM an open stream ends, and every accepted request gets its response, none of them
/// 503.
#[tokio::test]
async fn a_stopping_process_ends_streams_and_answers_requests() {
    let database = TestDatabase::create("").await;
    for _ in 0..3 {
        let mut process = Process::start(&database).await;
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
