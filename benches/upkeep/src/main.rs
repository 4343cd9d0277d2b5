//! The cost of last-seen updates and clean-up, on a table of a million sessions.
//!
//! ```sh
//! cargo run --release --manifest-path benches/upkeep/Cargo.toml
//! ```
//!
//! Everything is measured in one run, on a server that it starts itself. The processor time is what the
//! operating system charged to the server's processes.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
use ephemeral_postgres::{Server, TestDatabase};
use sha2::{Digest as _, Sha256};
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService, session::SessionToken,
};

const SESSIONS: u64 = 1_000_000;
const TASKS: u64 = 64;

#[derive(Clone)]
struct User {
    id: i64,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(User {
            id: row.user().get("id")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = tokio::task::spawn_blocking(|| {
        Server::start_private(&[
            ("shared_buffers", "1GB"),
            ("max_wal_size", "4GB"),
            ("autovacuum", "off"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("wal_level", "replica"),
        ])
    })
    .await??;
    let setup = "CREATE TABLE users (id bigint PRIMARY KEY, email text NOT NULL);
        INSERT INTO users SELECT n, 'user' || n || '@example.com' FROM generate_series(0, 99999) n";
    let database = TestDatabase::create_on(&server, setup).await?;
    let client = database.client().await;
    let pool = || {
        Pool::builder(Manager::new(database.config(), NoTls))
            .max_size(4)
            .build()
    };
    let store = PgSessionStore::<User>::new(pool()?);
    store.migrate().await?;
    fill(&client, 0, SESSIONS, "now() + interval '1 day'").await?;
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .await?;
    settle(&client).await?;

    println!("a million sessions of 100,000 users; {TASKS} lookups at once");
    touches(&client, SessionService::new(store)).await?;
    delete_expired(&client, SessionService::new(PgSessionStore::new(pool()?))).await?;
    devices(&client, SessionService::new(PgSessionStore::new(pool()?))).await
}

type Client = deadpool_postgres::tokio_postgres::Client;

/// Sessions whose tokens both sides derive from their number. They were last seen within the last
/// five minutes, as on a site where all users are active.
async fn fill(client: &Client, from: u64, to: u64, expires: &str) -> Result<(), BoxError> {
    let insert = format!(
        "INSERT INTO sessions (token_digest, user_id, expires_at, created_at, last_seen_at)
         SELECT sha256(sha256(('token ' || n)::bytea)), n % 100000, {expires}, now() - interval '1 hour',
                now() - random() * interval '5 minutes'
         FROM generate_series({from}, {to} - 1) AS n"
    );
    client.batch_execute(&insert).await?;
    Ok(())
}

async fn settle(client: &Client) -> Result<(), BoxError> {
    client.batch_execute("VACUUM ANALYZE").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

fn token(n: u64) -> SessionToken {
    let bytes = Sha256::digest(format!("token {n}"));
    SessionToken::parse(URL_SAFE_NO_PAD.encode(bytes).as_bytes()).unwrap_or_else(|| unreachable!())
}

async fn touches(client: &Client, sessions: Sessions) -> Result<(), BoxError> {
    // Into the steady state: updates that became due while the table was filled are written first.
    load(&sessions, Duration::from_secs(40)).await;
    let hot = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'";
    let row = client.query_one(hot, &[]).await?;
    let (updated, updated_hot): (i64, i64) = (row.get(0), row.get(1));
    let before = processor_time(client).await?;
    let (lookups, p99) = load(&sessions, Duration::from_secs(30)).await;
    let after = processor_time(client).await?;
    sessions.close().await;
    // Statistics are delayed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let row = client.query_one(hot, &[]).await?;
    let (updated, updated_hot) = (
        row.get::<_, i64>(0) - updated,
        row.get::<_, i64>(1) - updated_hot,
    );
    let (lookup_time, touch_time) = (after.0 - before.0, after.1 - before.1);
    println!(
        "touches: {lookups} lookups, p99 {p99:?}; {updated} touches, of which HOT {updated_hot}"
    );
    println!("  server's processor time: lookups {lookup_time:.2} s, touches {touch_time:.2} s");
    println!(
        "ratio touches/lookups processor-time {:.4}",
        touch_time / lookup_time
    );
    println!(
        "ratio hot/touches {:.4}",
        updated_hot as f64 / updated as f64
    );
    Ok(())
}

async fn delete_expired(client: &Client, sessions: Sessions) -> Result<(), BoxError> {
    fill(
        client,
        SESSIONS,
        2 * SESSIONS,
        "now() - interval '1 minute'",
    )
    .await?;
    settle(client).await?;
    load(&sessions, Duration::from_secs(5)).await;
    let (_, before) = load(&sessions, Duration::from_secs(15)).await;
    let start = Instant::now();
    let cleaning = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.delete_expired().await }
    });
    let mut during = Vec::new();
    while !cleaning.is_finished() {
        during.push(load(&sessions, Duration::from_secs(5)).await.1);
    }
    let (deleted, took) = (cleaning.await??, start.elapsed());
    let (_, after) = load(&sessions, Duration::from_secs(15)).await;
    during.sort();
    let median = during[during.len() / 2];
    println!(
        "cleaning up: {deleted} of {} sessions in {took:.1?}",
        2 * SESSIONS
    );
    println!(
        "  lookups' p99: before {before:?}, during {median:?} (worst {:?}), after {after:?}",
        during[during.len() - 1]
    );
    let without = before.max(after);
    println!(
        "ratio p99 during/without {:.2}",
        median.as_secs_f64() / without.as_secs_f64()
    );
    sessions.close().await;
    Ok(())
}

async fn devices(client: &Client, sessions: Sessions) -> Result<(), BoxError> {
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at)
        SELECT sha256(('device ' || n)::bytea), 7, now() + interval '1 day' FROM generate_series(1, 40) n";
    client.batch_execute(insert).await?;
    sessions.sessions_of(&7).await?;
    client
        .batch_execute("SELECT pg_stat_statements_reset()")
        .await?;
    let devices = sessions.sessions_of(&7).await?;
    let calls = "SELECT sum(calls)::bigint FROM pg_stat_statements
        WHERE query LIKE '%sessions%' AND query NOT LIKE '%pg_stat_statements%'";
    let statements: i64 = client.query_one(calls, &[]).await?.get(0);
    println!("listing {} devices: {statements} statement", devices.len());
    Ok(())
}

/// Looks sessions up at full speed. Returns how many, and the 99th percentile of their time.
async fn load(sessions: &Sessions, time: Duration) -> (u64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let lookups = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (sessions, stop, lookups) =
                (sessions.clone(), Arc::clone(&stop), Arc::clone(&lookups));
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut n = task * 7_919 + 1;
                while !stop.load(Relaxed) {
                    // A walk over all the sessions, in an order without locality for the database.
                    n = n
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let session = (n >> 33) % SESSIONS;
                    let token = token(session);
                    let start = Instant::now();
                    let user = sessions.user(&token).await;
                    times.push(start.elapsed());
                    let user = user.ok().flatten().map(|user| user.id.unsigned_abs());
                    assert_eq!(user, Some(session % 100_000), "the wrong user");
                }
                lookups.fetch_add(times.len() as u64, Relaxed);
                times
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap_or_default());
    }
    times.sort_unstable();
    (
        lookups.load(Relaxed),
        times
            .get(times.len() * 99 / 100)
            .copied()
            .unwrap_or_default(),
    )
}

/// The processor time of the backends whose last statement was a lookup, and of those whose last
/// one was a last-seen update.
async fn processor_time(client: &Client) -> Result<(f64, f64), BoxError> {
    let rows = client
        .query(
            "SELECT pid, query FROM pg_stat_activity WHERE backend_type = 'client backend'",
            &[],
        )
        .await?;
    let mut times = (0.0, 0.0);
    for row in rows {
        let (pid, query): (i32, String) = (row.get(0), row.get(1));
        let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let nanos: f64 = schedstat.split(' ').next().unwrap_or_default().parse()?;
        if query.contains("asked_digest") {
            times.0 += nanos / 1e9;
        } else if query.contains("last_seen_at = used") {
            times.1 += nanos / 1e9;
        }
    }
    Ok(times)
}
