//! The server, the contents of its tables, and the cookies that refer to them.
//!
//! Each session has a number. Its secret in each contestant's form and its user follow from the
//! number, so that each response can be checked. Real secrets are random; these are as long and as
//! evenly distributed.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ephemeral_postgres::Server;
use futures_util::{SinkExt as _, pin_mut};
use tokio_postgres::{Client, Config, NoTls};
use tower_sessions::session::{Id, Record};

use crate::{BoxError, delaying_proxy::Host};

/// Sessions whose cookies the load draws from, spread over the whole table.
pub(crate) const KNOWN: u32 = 100_000;

/// Stated in the report. All other settings are PostgreSQL's defaults.
pub(crate) const SETTINGS: [(&str, &str); 7] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_connections", "300"),
    // Only the contestants run while they are measured.
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
    ("max_wal_size", "8GB"),
];

/// How many sessions there are, and which users they belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) sessions: u32,
    pub(crate) users: u32,
}

impl Numbers {
    pub(crate) fn known(self) -> u32 {
        self.sessions.min(KNOWN)
    }

    /// The number in the table of the n-th session that the load draws from.
    pub(crate) fn session(self, n: u32) -> u32 {
        n * (self.sessions / self.known())
    }

    pub(crate) fn user_of(self, session: u32) -> i64 {
        1 + (i64::from(session) * 7_919) % i64::from(self.users)
    }
}

/// Starts a server. It listens on a Unix socket and on this address, if there is one.
pub(crate) fn start_server(address: Option<&Host>) -> Result<Server, BoxError> {
    let address = address.map(Host::to_string).unwrap_or_default();
    let mut settings = SETTINGS.to_vec();
    settings.push(("listen_addresses", &address));
    Ok(Server::start_private(&settings)?)
}

pub(crate) async fn connect(config: &Config) -> Result<Client, BoxError> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whether the server counts statements, which costs it time. Without the module nothing can be
/// counted, and the report says so.
pub(crate) async fn counting(client: &Client, counted: bool) -> Result<(), BoxError> {
    let track = if counted { "top" } else { "none" };
    client
        .batch_execute(&format!(
            "ALTER SYSTEM SET pg_stat_statements.track = '{track}'"
        ))
        .await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    // Backends read it when they are next idle.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Which contestants' session tables are needed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) tower_sessions: bool,
    pub(crate) axum_session: bool,
}

pub(crate) async fn fill(
    config: &Config,
    numbers: Numbers,
    tables: Tables,
) -> Result<(), BoxError> {
    let client = connect(config).await?;
    counting(&client, false).await?;
    users(&client, numbers).await?;
    ours(config, &client, numbers).await?;
    if tables.tower_sessions {
        tower_sessions_table(&client, numbers).await?;
    }
    if tables.axum_session {
        axum_session_table(&client, numbers).await?;
    }
    client.batch_execute("VACUUM (ANALYZE)").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

async fn users(client: &Client, numbers: Numbers) -> Result<(), BoxError> {
    client
        .batch_execute(&format!(
            "CREATE TABLE users (
                 id bigint PRIMARY KEY,
                 email text NOT NULL,
                 name text NOT NULL,
                 created_at timestamptz NOT NULL DEFAULT now()
             );
             INSERT INTO users (id, email, name)
             SELECT n, {EMAIL}, 'Person number ' || n FROM generate_series(1, {}) AS n",
            numbers.users,
        ))
        .await?;
    Ok(())
}

const EMAIL: &str = "'person' || n || '@example.com'";

pub(crate) fn email(user: i64) -> String {
    format!("person{user}@example.com")
}

/// The 32 bytes of a session's token: its number, after zeros.
fn token_bytes(session: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&u64::from(session).to_be_bytes());
    bytes
}

/// The digest of session number `n` in SQL, for an expression that yields the number.
pub(crate) fn digest_in_sql(n: &str) -> String {
    format!(r"sha256('\x{:048}'::bytea || int8send(({n})::bigint))", 0)
}

/// A session's token in the form of its cookie.
pub(crate) fn token(session: u32) -> String {
    URL_SAFE_NO_PAD.encode(token_bytes(session))
}

async fn ours(config: &Config, client: &Client, numbers: Numbers) -> Result<(), BoxError> {
    let manager = deadpool_postgres::Manager::new(config.clone(), NoTls);
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(1)
        .build()?;
    tower_user_session::PgSessionStore::<crate::contestants::user::User>::new(pool)
        .migrate()
        .await?;
    // The triggers of a million foreign keys would only check what holds by construction. The
    // sessions are marked as just seen, so that no last-seen update is due and reads are measured.
    client
        .batch_execute(&format!(
            "SET session_replication_role = replica;
             INSERT INTO sessions (token_digest, user_id, created_at, expires_at, last_seen_at)
             SELECT {}, 1 + (n::bigint * 7919) % {}, now() - interval '1 hour', now() + interval '30 days', now() + interval '6 hours'
             FROM generate_series(0, {}) AS n;
             RESET session_replication_role",
            digest_in_sql("n"),
            numbers.users,
            numbers.sessions - 1,
        ))
        .await?;
    Ok(())
}

pub(crate) fn tower_sessions_id(session: u32) -> Id {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&u64::from(session).to_be_bytes());
    Id(i128::from_le_bytes(bytes))
}

/// A session as axum-login leaves it after a sign-in.
pub(crate) fn tower_sessions_record(numbers: Numbers, session: u32) -> Record {
    let user = numbers.user_of(session);
    let data = serde_json::json!({ "user_id": user, "auth_hash": email(user).into_bytes() });
    Record {
        id: tower_sessions_id(session),
        data: std::iter::once(("axum-login.data".to_owned(), data)).collect(),
        expiry_date: time::OffsetDateTime::now_utc() + Duration::from_secs(30 * 86_400),
    }
}

async fn tower_sessions_table(client: &Client, numbers: Numbers) -> Result<(), BoxError> {
    use std::fmt::Write as _;
    // As its `migrate` creates it.
    client
        .batch_execute(
            r#"CREATE SCHEMA "tower_sessions";
               CREATE TABLE "tower_sessions"."session" (
                   id text PRIMARY KEY NOT NULL,
                   data bytea NOT NULL,
                   expiry_date timestamptz NOT NULL
               )"#,
        )
        .await?;
    let copy = r#"COPY "tower_sessions"."session" (id, data, expiry_date) FROM STDIN"#;
    let sink = client.copy_in::<_, bytes::Bytes>(copy).await?;
    pin_mut!(sink);
    let mut text = String::new();
    for session in 0..numbers.sessions {
        let record = tower_sessions_record(numbers, session);
        write!(text, "{}\t\\\\x", record.id)?;
        for byte in rmp_serde::to_vec(&record)? {
            write!(text, "{byte:02x}")?;
        }
        let expiry = record.expiry_date;
        writeln!(text, "\t{} {}+00", expiry.date(), expiry.time())?;
        if text.len() > 1 << 20 {
            sink.send(std::mem::take(&mut text).into()).await?;
        }
    }
    sink.send(text.into()).await?;
    sink.finish().await?;
    Ok(())
}

pub(crate) fn axum_session_id(session: u32) -> String {
    format!("00000000-0000-4000-8000-{session:012}")
}

async fn axum_session_table(client: &Client, numbers: Numbers) -> Result<(), BoxError> {
    client
        .batch_execute(&format!(
            r#"CREATE TABLE axum_sessions (
                   "id" varchar(128) NOT NULL PRIMARY KEY,
                   "expires" bigint NULL,
                   "session" text NOT NULL
               );
               INSERT INTO axum_sessions (id, expires, session)
               SELECT '00000000-0000-4000-8000-' || lpad(n::text, 12, '0'),
                      extract(epoch FROM now())::bigint + 30 * 86400,
                      json_build_object(
                          'data', json_build_object(
                              'user_auth_session_id', (1 + (n::bigint * 7919) % {})::text
                          ),
                          'longterm', true
                      )
               FROM generate_series(0, {}) AS n"#,
            numbers.users,
            numbers.sessions - 1,
        ))
        .await?;
    Ok(())
}
