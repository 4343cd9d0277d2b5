//! A primary with a streaming replica.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ephemeral_postgres::{Server, StopMode, TestDatabase};
use tower_user_session::{PgSessionStore, tokio_postgres::Config};

use super::{
    User,
    history::workload::{ADD_VALUE, connect, users},
    pool, sql,
};

pub struct Pair {
    pub primary: Arc<Server>,
    pub replica: Arc<Server>,
    pub database: TestDatabase,
}

/// Runs blocking code.
pub async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}

impl Pair {
    /// `None` if the server cannot be copied.
    pub async fn start(test: &str, settings: &'static [(&str, &str)]) -> Option<Self> {
        let primary = blocking(|| Arc::new(Server::start_private(&[]).unwrap())).await;
        if !primary.bin_dir()?.join("pg_basebackup").is_file() {
            ephemeral_postgres::skip(test, "this PostgreSQL has no pg_basebackup");
            return None;
        }
        let database = TestDatabase::create_on(&primary, &users()).await.unwrap();
        let store = PgSessionStore::<User>::new(pool(&database, 1));
        store.migrate().await.unwrap();
        sql(&database, ADD_VALUE).await;
        let source = Arc::clone(&primary);
        let replica = blocking(move || Server::replica_of(&source, settings).unwrap()).await;
        Some(Self {
            primary,
            replica: Arc::new(replica),
            database,
        })
    }

    /// The connection string of both servers, for the one that accepts writes, as
    /// [`PgSessionStore`] documents.
    pub fn config(&self) -> Config {
        let [primary, replica] =
            [&self.primary, &self.replica].map(|server| server.directory().unwrap().display());
        let database = self.database.name();
        format!(
            "host={primary},{replica} user=postgres dbname={database} \
             target_session_attrs=read-write connect_timeout=1"
        )
        .parse()
        .unwrap()
    }

    pub fn replica_config(&self) -> Config {
        let mut config = self.replica.config();
        config.dbname(self.database.name());
        config
    }

    /// From now on a write is acknowledged after the replica has received it.
    pub async fn synchronous(&self) {
        let names = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        self.on_primary(names).await;
        self.on_primary("SELECT pg_reload_conf()").await;
        self.until(
            &self.database.config(),
            "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'",
        )
        .await;
    }

    pub async fn on_primary(&self, statement: &str) {
        let client = self.database.client().await;
        client.batch_execute(statement).await.unwrap();
    }

    pub async fn on_replica(&self, statement: &str) {
        let client = connect(&self.replica_config()).await.unwrap();
        client.batch_execute(statement).await.unwrap();
    }

    /// Returns when the query returns a row.
    pub async fn until(&self, config: &Config, query: &str) {
        let client = connect(config).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.query_opt(query, &[]).await.unwrap().is_none() {
            assert!(Instant::now() < deadline, "never: {query}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The primary stops at once, and the replica is promoted.
    pub async fn fail_over(&self) {
        let (primary, replica) = (Arc::clone(&self.primary), Arc::clone(&self.replica));
        blocking(move || {
            primary.stop(StopMode::Immediate).unwrap();
            replica.promote().unwrap();
        })
        .await;
    }
}
