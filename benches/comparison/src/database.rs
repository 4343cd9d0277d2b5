//! The same data for everybody: users, sessions, and the tokens that the load presents.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ephemeral_postgres::{Server, TestDatabase};
use sha2::{Digest as _, Sha256};
use tower_user_session::{BoxError, PgSessionStore};

use crate::user::User;

pub const USERS: u64 = 100_000;
/// How many of the sessions the load knows, and presents at random.
pub const KNOWN: u64 = 100_000;

pub struct Database {
    pub server: Server,
    pub database: TestDatabase,
}

impl Database {
    pub async fn fill(sessions: u64) -> Result<Self, BoxError> {
        let server = tokio::task::spawn_blocking(|| {
            Server::start_private(&[
                ("shared_buffers", "1GB"),
                ("max_wal_size", "4GB"),
                ("autovacuum", "off"),
            ])
        })
        .await??;
        let setup = format!(
            "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL, name text NOT NULL,
                 created_at timestamptz NOT NULL DEFAULT now());
             INSERT INTO users SELECT n, 'user' || n || '@example.com', 'User ' || n
                 FROM generate_series(0, {USERS} - 1) AS n;"
        );
        let database = TestDatabase::create_on(&server, &setup).await?;
        let this = Self { server, database };
        PgSessionStore::<User>::new(this.pool(1)?).migrate().await?;
        let client = this.database.client().await;
        client
            .batch_execute(&format!(
                "INSERT INTO sessions (token_digest, user_id, expires_at, last_seen_at)
                 SELECT sha256(sha256(('token ' || n)::bytea)), n % {USERS}, now() + interval '1 day',
                        -- Seen so lately that none is due to be written down again in the run.
                        now() + interval '6 hours'
                 FROM generate_series(0, {sessions} - 1) AS n"
            ))
            .await?;
        client.batch_execute("VACUUM ANALYZE").await?;
        Ok(this)
    }

    pub fn pool(&self, size: usize) -> Result<deadpool_postgres::Pool, BoxError> {
        let no_tls = deadpool_postgres::tokio_postgres::NoTls;
        let manager = deadpool_postgres::Manager::new(self.database.config(), no_tls);
        Ok(deadpool_postgres::Pool::builder(manager)
            .max_size(size)
            .build()?)
    }

    /// The processor time of all backends but this one, in seconds.
    pub async fn processor_time(&self) -> Result<f64, BoxError> {
        let client = self.database.client().await;
        let query = "SELECT pid FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let mut seconds = 0.0;
        for row in client.query(query, &[]).await? {
            seconds += schedstat(&format!("/proc/{}/schedstat", row.get::<_, i32>(0)));
        }
        Ok(seconds)
    }
}

/// The 43 characters of a token that both sides can tell from its number.
pub fn token(n: u64) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("token {n}")))
}

/// The processor time of this process, in seconds.
pub fn own_processor_time() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .map(|task| schedstat(&format!("{}/schedstat", task.path().display())))
        .sum()
}

fn schedstat(path: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|nanos| nanos.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e9
}
