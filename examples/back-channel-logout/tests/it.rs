//! Logout tokens, sent to processes of this program that share a database.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ephemeral_postgres::TestDatabase;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode, get_current_timestamp,
    jwk::{Jwk, JwkSet},
};
use serde_json::{Value, json};
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService,
    deadpool_postgres::{Manager, Pool},
    tokio_postgres::NoTls,
};

const ISSUER: &str = "https://id.example";
const CLIENT: &str = "my-client";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The lease of the feed, and some time for the requests of the test itself.
const LEASE: Duration = Duration::from_secs(1);

/// The key of the provider, and one of another provider.
const PROVIDERS: u8 = 1;
const FOREIGN: u8 = 2;

/// An Ed25519 key in PKCS #8 (RFC 8410, section 7).
fn key(seed: u8) -> EncodingKey {
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend([seed; 32]);
    EncodingKey::from_ed_der(&der)
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": ISSUER, "aud": CLIENT, "iat": now, "exp": now + 120, "jti": jti(),
        "sub": "eve", "sid": "one", "events": { EVENT: {} },
    })
}

fn jti() -> String {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed).to_string()
}

fn token(claims: &Value) -> String {
    sign(claims, "1", PROVIDERS)
}

fn sign(claims: &Value, kid: &str, seed: u8) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.to_owned());
    header.typ = Some("logout+jwt".to_owned());
    encode(&header, claims, &key(seed)).unwrap()
}

#[derive(Clone)]
struct User;

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const SESSION_COLUMNS: &'static [&'static str] = &["idp_sid"];

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// Processes over one database.
struct Site {
    processes: Vec<(Child, SocketAddr)>,
    database: TestDatabase,
    sessions: SessionService<PgSessionStore<User>>,
    jwks: PathBuf,
}

impl Site {
    async fn start(processes: usize) -> Self {
        let database = TestDatabase::create("").await;
        let mut jwk = Jwk::from_encoding_key(&key(PROVIDERS), Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some("1".to_owned());
        let jwks = env::temp_dir().join(format!("jwks-{}.json", database.name()));
        let set = serde_json::to_vec(&JwkSet { keys: vec![jwk] }).unwrap();
        fs::write(&jwks, set).unwrap();
        let pool = Pool::builder(Manager::new(database.config(), NoTls)).build();
        let store = PgSessionStore::new(pool.unwrap());
        let mut site = Self {
            processes: Vec::new(),
            sessions: SessionService::new(store),
            database,
            jwks,
        };
        for _ in 0..processes {
            let process = site.process();
            site.processes.push(process);
        }
        let users = "INSERT INTO users (id, subject) VALUES (1, 'ada'), (2, 'eve');
            -- Old enough to be cached.
            ALTER TABLE sessions ALTER created_at SET DEFAULT now() - interval '1 hour'";
        site.sql(users).await;
        site
    }

    fn process(&self) -> (Child, SocketAddr) {
        // The listener closes at once, so that its port is free for the program.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let program = Command::new(env!("CARGO_BIN_EXE_example-back-channel-logout"))
            .env("DATABASE_URL", self.database.url())
            .env("IDP_ISSUER", ISSUER)
            .env("IDP_CLIENT", CLIENT)
            .env("IDP_JWKS", &self.jwks)
            .env("ADDR", address.to_string())
            .stderr(Stdio::null())
            .spawn();
        let mut program = program.unwrap();
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(program.try_wait().unwrap().is_none(), "it ended");
            assert!(start.elapsed() < Duration::from_secs(30), "no listener");
            sleep(Duration::from_millis(20));
        }
        (program, address)
    }

    async fn sql(&self, statements: &str) {
        let client = self.database.client().await;
        client.batch_execute(statements).await.unwrap();
    }

    /// Signs the user in, and returns the cookie.
    async fn sign_in(&self, user: i64, sid: &str) -> String {
        let sign_in = self.sessions.sign_in_without_request(user);
        let signed_in = sign_in.set("idp_sid", sid.to_owned()).await.unwrap();
        format!("__Host-session={}", signed_in.token().expose())
    }

    fn send(&self, process: usize, line: &str, cookie: &str, form: &str) -> u16 {
        let address = self.processes[process].1;
        let mut stream = TcpStream::connect(address).unwrap();
        let length = form.len();
        write!(
            stream,
            "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncookie: {cookie}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response[9..12].parse().unwrap()
    }

    fn log_out(&self, process: usize, token: &str) -> u16 {
        let form = format!("logout_token={token}");
        self.send(process, "POST /back-channel-logout", "", &form)
    }

    fn is_live(&self, process: usize, cookie: &str) -> bool {
        match self.send(process, "GET /account", cookie, "") {
            200 => true,
            401 => false,
            other => panic!("status {other}"),
        }
    }

    /// Returns the time after which the process rejects the session.
    fn until_rejected(&self, process: usize, cookie: &str) -> Duration {
        let start = Instant::now();
        while self.is_live(process, cookie) {
            assert!(
                start.elapsed() < 2 * LEASE,
                "process {process} accepts an ended session"
            );
        }
        start.elapsed()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for (process, _) in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_file(&self.jwks);
    }
}

/// The name, the claim and its value, the status, and which sessions are left.
type Change = (&'static str, &'static str, Option<Value>, u16, [bool; 3]);

/// Each line changes a claim, or removes it, and has the status and which of the sessions are left:
/// "one" and "two" of Eve, and "one" of Ada.
fn changes() -> Vec<Change> {
    let now = get_current_timestamp();
    let all = [true; 3];
    vec![
        (
            "as it is",
            "jti",
            Some(json!("x")),
            200,
            [false, true, true],
        ),
        (
            "several audiences",
            "aud",
            Some(json!(["x", CLIENT])),
            200,
            [false, true, true],
        ),
        ("only the user", "sid", None, 200, [false, false, true]),
        ("only the session", "sub", None, 200, [false, true, false]),
        (
            "another session",
            "sid",
            Some(json!("two")),
            200,
            [true, false, true],
        ),
        ("an unknown session", "sid", Some(json!("three")), 200, all),
        ("an unknown user", "sub", Some(json!("mallory")), 200, all),
        (
            "a session of another user",
            "sub",
            Some(json!("ada")),
            200,
            [true, true, false],
        ),
        ("another client", "aud", Some(json!("other")), 400, all),
        ("no client", "aud", None, 400, all),
        (
            "another issuer",
            "iss",
            Some(json!("https://id.example.net")),
            400,
            all,
        ),
        ("no issuer", "iss", None, 400, all),
        ("expired", "exp", Some(json!(now - 60)), 400, all),
        ("no expiry", "exp", None, 400, all),
        ("from the future", "iat", Some(json!(now + 3600)), 400, all),
        ("no time", "iat", None, 400, all),
        ("no event", "events", None, 400, all),
        (
            "another event",
            "events",
            Some(json!({ "x": {} })),
            400,
            all,
        ),
        (
            "an event that is no object",
            "events",
            Some(json!({ EVENT: 1 })),
            400,
            all,
        ),
        ("an ID token", "nonce", Some(json!("n")), 400, all),
        ("no id", "jti", None, 400, all),
    ]
}

/// P06: a logout token ends exactly the sessions that it names, and an unsuitable one ends none.
#[tokio::test]
async fn only_a_valid_token_ends_the_named_sessions() {
    let site = Site::start(1).await;
    for (name, claim, value, status, left) in changes() {
        site.sql("DELETE FROM sessions; DELETE FROM logout_tokens")
            .await;
        let sessions = [
            site.sign_in(2, "one").await,
            site.sign_in(2, "two").await,
            site.sign_in(1, "one").await,
        ];
        let mut claims = claims();
        match value {
            Some(value) => claims[claim] = value,
            None => drop(claims.as_object_mut().unwrap().remove(claim)),
        }
        assert_eq!(site.log_out(0, &token(&claims)), status, "{name}");
        let live = sessions.map(|cookie| site.is_live(0, &cookie));
        assert_eq!(live, left, "{name}");
    }

    let neither = {
        let mut claims = claims();
        claims["sub"] = Value::Null;
        claims["sid"] = Value::Null;
        claims
    };
    let unsigned = {
        let parts: Vec<_> = token(&claims()).split('.').map(str::to_owned).collect();
        // {"alg":"none","kid":"1"}
        format!("eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.{}.", parts[1])
    };
    let mac = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("1".to_owned());
        // The public key as a secret.
        let public = Jwk::from_encoding_key(&key(PROVIDERS), Algorithm::EdDSA).unwrap();
        let public = serde_json::to_vec(&public).unwrap();
        encode(
            &header,
            &claims(),
            &EncodingKey::from_secret(&public).unwrap(),
        )
        .unwrap()
    };
    let eve = site.sign_in(2, "one").await;
    for (name, token) in [
        ("another key", sign(&claims(), "1", FOREIGN)),
        ("an unknown key", sign(&claims(), "2", FOREIGN)),
        ("neither user nor session", token(&neither)),
        ("no signature", unsigned),
        ("a MAC", mac),
        ("no token", "x".to_owned()),
    ] {
        assert_eq!(site.log_out(0, &token), 400, "{name}");
        assert!(site.is_live(0, &eve), "{name}");
    }
}

/// P06: a token that was accepted is rejected afterwards, in every process and also at the same time.
#[tokio::test]
async fn a_token_is_accepted_once() {
    let site = Site::start(2).await;
    let first = site.sign_in(2, "one").await;
    let token = token(&claims());
    let mut statuses = std::thread::scope(|scope| {
        let sent: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let (site, token) = (&site, &token);
                    move || site.log_out(n % 2, token)
                })
            })
            .collect();
        sent.into_iter()
            .map(|sent| sent.join().unwrap())
            .collect::<Vec<_>>()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400, 400, 400, 400, 400, 400, 400]);
    for process in 0..2 {
        site.until_rejected(process, &first);
    }
    // The provider's session has begun another one here.
    let second = site.sign_in(2, "one").await;
    for process in 0..2 {
        assert_eq!(site.log_out(process, &token), 400);
        assert!(site.is_live(process, &second));
    }
}

/// P06: if the database fails, the provider can send the token again.
#[tokio::test]
async fn a_failed_logout_can_be_repeated() {
    let site = Site::start(1).await;
    let eve = site.sign_in(2, "one").await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE ''refused''; END';
        CREATE TRIGGER refuse BEFORE DELETE ON sessions EXECUTE FUNCTION refuse()";
    site.sql(refuse).await;
    let token = token(&claims());
    assert_eq!(site.log_out(0, &token), 503);
    assert!(site.is_live(0, &eve));
    site.sql("DROP TRIGGER refuse ON sessions").await;
    assert_eq!(site.log_out(0, &token), 200);
    assert!(!site.is_live(0, &eve));
    assert_eq!(site.log_out(0, &token), 400);
}

/// P06: four processes with caches reject the ended session within the lease, and the process that
/// received the token at once. `ROUNDS` sets the number of logouts.
#[tokio::test]
async fn four_processes_reject_the_session_within_the_lease() {
    let rounds = env::var("ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let site = Site::start(4).await;
    let others = [site.sign_in(2, "other").await, site.sign_in(1, "one").await];
    let mut times = Vec::new();
    for round in 0..rounds {
        let eve = site.sign_in(2, "one").await;
        for process in 0..4 {
            // The second request is served from the cache.
            assert!(site.is_live(process, &eve) && site.is_live(process, &eve));
            assert!(others.iter().all(|other| site.is_live(process, other)));
        }
        let receiver = round % 4;
        assert_eq!(site.log_out(receiver, &token(&claims())), 200);
        assert!(!site.is_live(receiver, &eve));
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|process| {
                    scope.spawn({
                        let (site, eve) = (&site, &eve);
                        move || site.until_rejected(process, eve)
                    })
                })
                .collect();
            times.extend(waiting.into_iter().map(|waiting| waiting.join().unwrap()));
        });
        for process in 0..4 {
            assert!(!site.is_live(process, &eve));
            assert!(others.iter().all(|other| site.is_live(process, other)));
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{} rejections by four processes: p50 {:?}, p99 {:?}, longest {:?}",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
    assert!(at(100) <= LEASE, "{:?}", at(100));
}
