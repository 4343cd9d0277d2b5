//! A proxy in front of PostgreSQL that can stall and close connections.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tower_user_session::{
    BoxError,
    tokio_postgres::{Config, config::Host},
};

#[derive(Clone)]
pub(crate) struct Proxy {
    port: u16,
    socket: Arc<std::path::Path>,
    line: watch::Sender<Line>,
}

#[derive(Clone, Copy, Default)]
struct Line {
    /// Nothing is forwarded, but connections stay open and new ones are accepted.
    silent: bool,
    /// New connections are closed.
    refusing: bool,
    /// How often all connections were closed.
    cuts: u64,
}

impl Proxy {
    pub(crate) async fn before(config: &Config) -> Result<Self, BoxError> {
        let Some(Host::Unix(folder)) = config.get_hosts().first() else {
            return Err("the server has no socket".into());
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Self {
            port: listener.local_addr()?.port(),
            socket: folder.join(format!(".s.PGSQL.{port}")).into(),
            line: watch::Sender::new(Line::default()),
        };
        tokio::spawn(proxy.clone().serve(listener));
        Ok(proxy)
    }

    /// The connection string to a database through the proxy.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn silence(&self) {
        self.line.send_modify(|line| line.silent = true);
    }

    pub(crate) fn cut(&self, refusing: bool) {
        self.line.send_modify(|line| {
            line.cuts += 1;
            line.refusing = refusing;
        });
    }

    /// Everything is forwarded, including the held data.
    pub(crate) fn open(&self) {
        self.line.send_modify(|line| {
            line.silent = false;
            line.refusing = false;
        });
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            if !self.line.borrow().refusing {
                tokio::spawn(self.clone().relay(client));
            }
        }
    }

    async fn relay(self, mut client: TcpStream) {
        let mut line = self.line.subscribe();
        let cuts = line.borrow().cuts;
        let Ok(mut server) = UnixStream::connect(&self.socket).await else {
            return;
        };
        // As PostgreSQL and tokio-postgres do.
        let _ = client.set_nodelay(true);
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            () = self.pass(from_client, to_server) => {}
            () = self.pass(from_server, to_client) => {}
            _ = line.wait_for(|line| line.cuts != cuts) => {}
        }
    }

    async fn pass(&self, mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut line = self.line.subscribe();
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let _ = line.wait_for(|line| !line.silent).await;
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
