//! A PostgreSQL with TLS, certificates for it, and a recorder of its clients' messages.

use std::{
    net::IpAddr,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use ephemeral_postgres::{Server, TestDatabase, skip};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};
use tower_user_session::PgSessionStore;

use crate::support::{USERS, User, pool};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The chain and the key, in PEM.
pub fn signed(
    authority: &Authority,
    names: &[&str],
    common_name: &str,
    year: i32,
) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A private server that listens on the loopback interface too, and a database on it.
pub struct Listening {
    pub server: Server,
    pub port: u16,
    pub database: TestDatabase,
}

impl Listening {
    /// Returns `None` and skips the test if there is no PostgreSQL with TLS.
    pub async fn start(test: &str) -> Option<Self> {
        Self::start_on(test, &[]).await
    }

    /// The same, on these addresses of the machine too.
    pub async fn start_on(test: &str, addresses: &[IpAddr]) -> Option<Self> {
        let loopback = std::iter::once("127.0.0.1".to_owned());
        let listen: Vec<_> = loopback
            .chain(addresses.iter().map(IpAddr::to_string))
            .collect();
        let listen = listen.join(",");
        let started = tokio::task::spawn_blocking(move || {
            // Below the ports that the system assigns, so that no other test gets it meanwhile.
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let port = loop {
                let n = std::process::id().wrapping_mul(7) + NEXT.fetch_add(1, SeqCst);
                let port = u16::try_from(20_000 + n % 10_000).unwrap();
                if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
                    break port;
                }
            };
            let settings = [("listen_addresses", &*listen), ("port", &port.to_string())];
            (Server::start_private(&settings), port)
        });
        let (server, port) = started.await.unwrap();
        let server = server.unwrap();
        if server.is_bundled() {
            skip(test, "the bundled PostgreSQL has no TLS");
            return None;
        }
        let database = TestDatabase::create_on(&server, USERS).await.unwrap();
        let store = PgSessionStore::<User>::new(pool(&database, 1));
        store.migrate().await.unwrap();
        Some(Self {
            server,
            port,
            database,
        })
    }

    /// Writes a file in the server's data directory that only the server can read.
    pub fn write(&self, name: &str, text: &str) {
        let data: PathBuf = self.server.directory().unwrap().join("data");
        let owner = std::fs::metadata(&data).unwrap();
        let path = data.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Sets the server's certificate from now on.
    pub async fn present(&self, (chain, key): (String, String)) {
        self.write("server.crt", &chain);
        self.write("server.key", &key);
        self.run("ALTER SYSTEM SET ssl = on").await;
        self.run("ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
        self.reload().await;
        assert!(
            !self
                .server
                .log()
                .contains("SSL configuration was not reloaded")
        );
    }

    /// Sets the lines of `pg_hba.conf` from now on, besides the one for the Unix socket.
    pub async fn let_in(&self, lines: &str) {
        self.write("pg_hba.conf", &format!("local all all trust\n{lines}\n"));
        self.reload().await;
    }

    /// Reloads settings, certificates and `pg_hba.conf`. Returns when new connections see them,
    /// which a setting that changes each time shows.
    pub async fn reload(&self) {
        const MARK: &str = "log_autovacuum_min_duration";
        let seen = format!("SELECT setting::int FROM pg_settings WHERE name = '{MARK}'");
        let read = async || -> i32 {
            let client = self.database.client().await;
            client.query_one(&seen, &[]).await.unwrap().get(0)
        };
        let next = read().await.max(600_000) + 1;
        self.run(&format!("ALTER SYSTEM SET {MARK} = {next}")).await;
        self.run("SELECT pg_reload_conf()").await;
        while read().await != next {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn run(&self, statement: &str) {
        let client = self.database.client().await;
        client.batch_execute(statement).await.unwrap();
    }

    /// A connection string that leads here as if to another host, with further options.
    pub fn elsewhere(&self, port: u16, options: &str) -> String {
        let name = self.database.name();
        format!("postgres://postgres@db.example:{port}/{name}?hostaddr=127.0.0.1{options}")
    }
}

/// Forwards everything to the port, and records what clients send.
pub async fn recorder(to: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let record = Arc::clone(&record);
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let mut buffer = [0; 8192];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    record.lock().unwrap().extend_from_slice(&buffer[..read]);
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
        }
    });
    (port, said)
}
