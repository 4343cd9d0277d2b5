//! A test's own database, connections to it, and statements that tests run on it.

use std::{path::PathBuf, process::Command, time::Instant};

use deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
use ephemeral_postgres::{Server, TestDatabase};
use tower_user_session::{PgSessionStore, tokio_postgres::Client};

use super::{
    recorded_logs, time_limit,
    users::{USERS, User},
    waiting::PATIENCE,
};

/// Schema changes that no lookup may notice. They end as they began.
pub const COMPATIBLE_CHANGES: [&str; 6] = [
    "ALTER TABLE users ADD COLUMN nickname text",
    "ALTER TABLE users ALTER COLUMN email TYPE varchar(200)",
    "ALTER TABLE sessions ADD COLUMN note text",
    "ALTER TABLE users ALTER COLUMN email TYPE text",
    "ALTER TABLE users DROP COLUMN nickname",
    "ALTER TABLE sessions DROP COLUMN note",
];

pub const ROWS: &str = "SELECT count(*) FROM sessions";

/// The first statement of a process that cleans up.
pub const TAKE_THE_TURN: &str = "SELECT pg_advisory_xact_lock(hashtextextended(concat('clean up ', 'sessions'::regclass::oid), 0))";

/// Creates a database for one test, with the users table and the sessions table.
pub async fn database() -> TestDatabase {
    let database = TestDatabase::create(USERS).await;
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    database
}

/// Returns whether the server has timers. If not, this reports that the test is skipped. Without
/// timers there is no lock timeout, no statement timeout and no detection of deadlocks.
pub async fn has_timers(test: &str) -> bool {
    let server = tokio::task::spawn_blocking(Server::for_tests).await;
    let bundled = server.unwrap().is_bundled();
    if bundled {
        ephemeral_postgres::skip(test, "the bundled PostgreSQL has no timers");
    }
    !bundled
}

pub fn pool(database: &TestDatabase, size: usize) -> Pool {
    recorded_logs::begin();
    time_limit::begin();
    Pool::builder(Manager::new(database.config(), NoTls))
        .max_size(size)
        .build()
        .unwrap()
}

/// Runs one statement with its values in the text, such as moving a row in time.
pub async fn sql(database: &TestDatabase, statement: &str) -> u64 {
    database
        .client()
        .await
        .execute(statement, &[])
        .await
        .unwrap()
}

/// Returns the result of a query for a single number.
pub async fn number(database: &TestDatabase, query: &str) -> i64 {
    database
        .client()
        .await
        .query_one(query, &[])
        .await
        .unwrap()
        .get(0)
}

/// Returns when the query for a single number returns this one.
pub async fn until_number(database: &TestDatabase, query: &str, expected: i64) {
    let patience = Instant::now() + PATIENCE;
    while number(database, query).await != expected {
        assert!(Instant::now() < patience, "never {expected}: {query}");
        tokio::task::yield_now().await;
    }
}

/// Kills the connections to this database that run lookups, and returns their number.
pub async fn kill_lookups(database: &TestDatabase) -> i64 {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%asked_digest%' AND pid <> pg_backend_pid()";
    number(database, kill).await
}

/// Finds the server's own `psql`, or the one on the `PATH`.
pub async fn psql() -> Option<PathBuf> {
    let server = tokio::task::spawn_blocking(Server::for_tests)
        .await
        .unwrap();
    let beside = server
        .bin_dir()
        .map(|bin| bin.join("psql"))
        .filter(|psql| psql.exists());
    let psql = beside.unwrap_or_else(|| PathBuf::from("psql"));
    let runs = Command::new(&psql).arg("--version").output().is_ok();
    runs.then_some(psql)
}

/// Returns the number of connections to this client's database that wait for a lock.
pub async fn waiting(client: &Client) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    client.query_one(waiting, &[]).await.unwrap().get(0)
}

/// Returns when this many connections to this database wait for a lock. Other tests' connections do
/// not count.
pub async fn until_waiting(database: &TestDatabase, connections: i64) {
    let client = database.client().await;
    let patience = Instant::now() + PATIENCE;
    while waiting(&client).await < connections {
        assert!(
            Instant::now() < patience,
            "too few connections wait for a lock"
        );
        tokio::task::yield_now().await;
    }
}
