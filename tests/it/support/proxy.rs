//! A proxy in front of PostgreSQL that counts a client's messages and injects faults.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tower_user_session::tokio_postgres::{Config, NoTls, config::Host};

/// What the proxy does with the server's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Forwards them.
    Open,
    /// Forwards them byte by byte.
    Trickling,
    /// Forwards all of them after this delay.
    Delayed(Duration),
    /// Holds them back, and the client's messages too.
    Silent,
    /// Drops them and closes the connection. The client's messages reached the server.
    Unanswered,
    /// Forwards them until a client sends `COMMIT`, then [`Unanswered`](Self::Unanswered).
    UnansweredCommit,
    /// Forwards them until a client sends `COMMIT`, which is not forwarded, then [`Cut`](Self::Cut).
    LostCommit,
    /// Closes all connections, including new ones.
    Cut,
}

#[derive(Clone)]
pub struct Proxy {
    port: u16,
    config: Config,
    sent: Arc<Mutex<BTreeMap<char, u64>>>,
    round_trips: Arc<AtomicU64>,
    line: watch::Sender<Line>,
}

impl Proxy {
    pub async fn before(database: &TestDatabase) -> Self {
        Self::to(database.config()).await
    }

    /// Starts a proxy in front of the server that this configuration connects to.
    pub async fn to(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            config,
            sent: Arc::default(),
            round_trips: Arc::default(),
            line: watch::Sender::new(Line::Open),
        };
        tokio::spawn(proxy.clone().serve(listener));
        proxy
    }

    /// How to connect through the proxy.
    pub fn config(&self) -> Config {
        config_through(self.port, &self.config)
    }

    /// A pool whose connections go through the proxy.
    pub fn pool(&self, size: usize) -> Pool {
        pool_through(self.port, &self.config, size)
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Returns how many messages of each type clients have sent since the last call: `B` binds
    /// parameters, `E` executes, `P` parses, `Q` is a simple query; `n` stands for a `P` with a
    /// name.
    pub fn sent(&self) -> BTreeMap<char, u64> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// Returns how often clients have sent something after they had received something, since the
    /// last call. What a client sends without a response in between counts once. Delay the line, so
    /// that no response overtakes the rest of what the client sends together.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.swap(0, SeqCst)
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            // Otherwise the second of several small responses waits for the client's delayed
            // acknowledgment of the first, 40 ms.
            client.set_nodelay(true).unwrap();
            if *self.line.borrow() == Line::Cut {
                continue;
            }
            // While the server is down, so is its proxy.
            if let Some(server) = dial(&self.config).await {
                tokio::spawn(self.clone().relay(client, server));
            }
        }
    }

    async fn relay(self, client: TcpStream, server: Box<dyn Stream>) {
        let mut cut = self.line.subscribe();
        let client_has_received = AtomicBool::new(true);
        let client_has_received = &client_has_received;
        let drains = &AtomicBool::new(false);
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = tokio::io::split(server);
        let requests = async {
            let mut message = Vec::new();
            let mut buffer = [0; 8192];
            let mut started = false;
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                if client_has_received.swap(false, SeqCst) {
                    self.round_trips.fetch_add(1, SeqCst);
                }
                message.extend_from_slice(&buffer[..read]);
                let commits = self.count(&mut message, &mut started);
                if commits {
                    self.replace_line(Line::LostCommit, Line::Cut);
                }
                if *self.line.borrow() == Line::Cut {
                    return;
                }
                self.speaking().await;
                if to_server.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                // Not earlier: the response to an earlier message would close the connection.
                if commits && self.replace_line(Line::UnansweredCommit, Line::Unanswered) {
                    // A server can lose messages that it has not read if its responses are not read.
                    drains.store(true, SeqCst);
                    let _ = to_server.shutdown().await;
                    return pending().await;
                }
            }
        };
        let (on_the_way, mut arriving) = mpsc::channel(64);
        let proxy = &self;
        let receiving = async move {
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                let delay = match *proxy.line.borrow() {
                    Line::Delayed(delay) => delay,
                    _ => Duration::ZERO,
                };
                let part = (Instant::now() + delay, buffer[..read].to_vec());
                if on_the_way.send(part).await.is_err() {
                    return;
                }
            }
        };
        let delivering = async move {
            while let Some((due, part)) = arriving.recv().await {
                // A timer takes a moment even without a delay.
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                proxy.speaking().await;
                if *proxy.line.borrow() == Line::Unanswered {
                    if drains.load(SeqCst) {
                        continue;
                    }
                    return;
                }
                client_has_received.store(true, SeqCst);
                let trickling = *proxy.line.borrow() == Line::Trickling;
                for part in part.chunks(if trickling { 1 } else { part.len() }) {
                    if to_client.write_all(part).await.is_err() {
                        return;
                    }
                    if trickling {
                        let _ = to_client.flush().await;
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        tokio::select! {
            () = requests => {}
            // After the server has closed, until all of it is forwarded.
            ((), ()) = async { tokio::join!(receiving, delivering) } => {}
            _ = cut.wait_for(|line| *line == Line::Cut) => {}
        }
    }

    async fn speaking(&self) {
        let _ = self
            .line
            .subscribe()
            .wait_for(|line| *line != Line::Silent)
            .await;
    }

    fn replace_line(&self, current: Line, new: Line) -> bool {
        self.line.send_if_modified(|line| {
            let is_current = *line == current;
            if is_current {
                *line = new;
            }
            is_current
        })
    }

    /// Removes whole messages from the front, and returns whether one of them is `COMMIT`. The first
    /// one has no type.
    fn count(&self, message: &mut Vec<u8>, started: &mut bool) -> bool {
        let mut commits = false;
        loop {
            let head = usize::from(*started);
            let Some(length) = message.get(head..head + 4) else {
                return commits;
            };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize + head;
            if message.len() < length {
                return commits;
            }
            if *started {
                commits |= message.starts_with(b"Q") && message[5..].starts_with(b"COMMIT");
                let named = message[0] == b'P' && message[5] != 0;
                let types = [char::from(message[0]), 'n'];
                for seen in &types[..=usize::from(named)] {
                    *self.sent.lock().unwrap().entry(*seen).or_default() += 1;
                }
            }
            *started = true;
            message.drain(..length);
        }
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A new connection to the server, on which nothing was sent yet.
pub async fn dial(config: &Config) -> Option<Box<dyn Stream>> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    Some(match &config.get_hosts()[0] {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            Box::new(UnixStream::connect(path).await.ok()?)
        }
        Host::Tcp(name) => {
            let stream = TcpStream::connect((&**name, port)).await.ok()?;
            stream.set_nodelay(true).ok()?;
            Box::new(stream)
        }
    })
}

/// A pool that connects to the server through a program on this port.
pub fn pool_through(port: u16, server: &Config, size: usize) -> Pool {
    Pool::builder(Manager::new(config_through(port, server), NoTls))
        .max_size(size)
        .build()
        .unwrap()
}

fn config_through(port: u16, server: &Config) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port);
    config.user(server.get_user().unwrap());
    config.dbname(server.get_dbname().unwrap());
    if let Some(password) = server.get_password() {
        config.password(password);
    }
    config
}
