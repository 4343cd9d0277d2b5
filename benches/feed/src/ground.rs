//! The server, a database per part, and its sessions.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{Server, TestDatabase};
use http::{HeaderMap, HeaderValue, header::COOKIE};
use sha2::{Digest as _, Sha256};
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService,
    session::SessionToken,
    tokio_postgres::{Client, Config, NoTls},
};

/// Serving processes.
pub(crate) const PROCESSES: usize = 4;

const SETUP: &str =
    "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL, disabled_at timestamptz)";

#[derive(Clone)]
pub(crate) struct User {
    #[expect(dead_code, reason = "what an application keeps of a user")]
    pub(crate) id: i64,
    #[expect(dead_code, reason = "what an application keeps of a user")]
    pub(crate) email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email";
    const CONDITION: &'static str = "u.disabled_at IS NULL";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(User {
            id: row.user().get("id")?,
            email: row.user().get("email")?,
        })
    }
}

pub(crate) type Sessions = SessionService<PgSessionStore<User>>;

pub(crate) struct Ground {
    server: Server,
    pub(crate) quick: bool,
}

impl Ground {
    pub(crate) async fn start(quick: bool) -> Result<Self, BoxError> {
        let start = || {
            Server::start_private(&[
                ("shared_buffers", "256MB"),
                ("max_connections", "900"),
                ("max_wal_size", "4GB"),
                ("fsync", "on"),
                ("synchronous_commit", "on"),
                ("full_page_writes", "on"),
                ("wal_level", "replica"),
            ])
        };
        let server = tokio::task::spawn_blocking(start).await??;
        println!("PostgreSQL: {}", server.source());
        Ok(Self { server, quick })
    }

    /// This many, or fewer in a quick run.
    pub(crate) const fn scaled(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// A database with this many sessions of as many users, all an hour old. A user and its session
    /// have the same number.
    pub(crate) async fn database(&self, sessions: u64) -> Result<TestDatabase, BoxError> {
        let database = self.quiet_database(sessions).await?;
        let store = PgSessionStore::<User>::new(pool(&database.config(), 1)?);
        store.migrate().notify_on_user_change().await?;
        Ok(database)
    }

    /// The same without the announcing triggers.
    pub(crate) async fn quiet_database(&self, sessions: u64) -> Result<TestDatabase, BoxError> {
        let database = TestDatabase::create_on(&self.server, SETUP).await?;
        let store = PgSessionStore::<User>::new(pool(&database.config(), 1)?);
        store.migrate().await?;
        fill(&database.client().await, sessions).await?;
        Ok(database)
    }
}

async fn fill(client: &Client, sessions: u64) -> Result<(), BoxError> {
    let insert = format!(
        "INSERT INTO users SELECT n, 'user' || n || '@example.com' FROM generate_series(0, {sessions} - 1) AS n;
         INSERT INTO sessions (token_digest, user_id, expires_at, created_at)
         SELECT sha256(sha256(('token ' || n)::bytea)), n, now() + interval '1 day', now() - interval '1 hour'
         FROM generate_series(0, {sessions} - 1) AS n"
    );
    client.batch_execute(&insert).await?;
    client.batch_execute("VACUUM ANALYZE").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

pub(crate) fn pool(config: &Config, size: usize) -> Result<Pool, BoxError> {
    let manager = Manager::new(config.clone(), NoTls);
    Ok(Pool::builder(manager).max_size(size).build()?)
}

pub(crate) fn sessions(config: &Config, connections: usize) -> Result<Sessions, BoxError> {
    Ok(Sessions::new(PgSessionStore::new(pool(
        config,
        connections,
    )?)))
}

/// The text of the token, which both sides derive from its number.
fn text(session: u64) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("token {session}")))
}

pub(crate) fn token(session: u64) -> Result<SessionToken, BoxError> {
    let token = SessionToken::parse(text(session).as_bytes());
    token.ok_or_else(|| "not a token".into())
}

/// The headers of a request with that token.
pub(crate) fn headers(session: u64) -> Result<HeaderMap, BoxError> {
    let cookie = HeaderValue::try_from(format!("__Host-session={}", text(session)))?;
    Ok(HeaderMap::from_iter([(COOKIE, cookie)]))
}
