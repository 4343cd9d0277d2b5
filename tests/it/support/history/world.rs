//! A server, a database and the processes that share it. Also checks that they leave nothing
//! behind.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use deadpool_postgres::Pool;
use ephemeral_postgres::{Server, TestDatabase};
use tower_user_session::{PgSessionStore, tokio_postgres::Config};

use super::workload::{ADD_VALUE, Process, Sessions, connect, users};
use crate::support::{User, pool, proxy::Proxy, sql};

const POOL: usize = 4;
/// The own connections of one store: two for lookups, two for writes, one for clean-up.
const OWN: usize = 5;

/// The parts that faults affect.
#[derive(Clone)]
pub struct World {
    pub server: Arc<Server>,
    pub database: Arc<TestDatabase>,
    /// The proxy between some processes and the server.
    pub proxy: Proxy,
    /// The proxy between their feeds and the server.
    pub feeds: Proxy,
    /// The pools of the processes.
    pub pools: Vec<Pool>,
    /// The services of the processes that have a feed, and how the feed connects.
    pub following: Vec<(Sessions, Config)>,
    /// How often a feed was replaced.
    pub replaced: Arc<AtomicUsize>,
    caches: bool,
}

/// Starts a private server and three processes: two behind a proxy, one that connects directly.
pub async fn world(caches: bool) -> (World, Vec<Process>) {
    let server = tokio::task::spawn_blocking(|| Server::start_private(&[]).unwrap());
    let server = server.await.unwrap();
    let database = TestDatabase::create_on(&server, &users()).await.unwrap();
    let direct = pool(&database, POOL);
    let store = PgSessionStore::<User>::new(direct.clone());
    store.migrate().await.unwrap();
    sql(&database, ADD_VALUE).await;
    let proxy = Proxy::before(&database).await;
    let feeds = Proxy::before(&database).await;
    let config = database.config();
    let pools = [proxy.pool(POOL), proxy.pool(POOL), direct];
    let mut processes: Vec<_> = pools
        .clone()
        .map(|pool| Process::new(pool, config.clone()))
        .into();
    let mut following = Vec::new();
    if caches {
        store.migrate().notify_on_user_change().await.unwrap();
        // Each session is old enough to be cached from its beginning on.
        let older = "ALTER TABLE sessions ALTER created_at SET DEFAULT now() - interval '1 hour'";
        sql(&database, older).await;
        let feeds = [feeds.config(), feeds.config(), config];
        for (process, feed) in processes.iter_mut().zip(feeds) {
            process.enable_cache(feed.clone()).await;
            following.push((process.sessions.clone(), feed));
        }
    }
    let world = World {
        server: Arc::new(server),
        database: Arc::new(database),
        proxy,
        feeds,
        pools: pools.into(),
        following,
        replaced: Arc::default(),
        caches,
    };
    (world, processes)
}

/// The number of connections to the database, besides the one that counts.
async fn connections(world: &World) -> usize {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname LIKE 'test%' AND backend_type = 'client backend'";
    let client = connect(&world.server.config()).await.unwrap();
    let count: i64 = client.query_one(query, &[]).await.unwrap().get(0);
    usize::try_from(count).unwrap()
}

/// Nothing is left behind: the pools can lend all their connections, and no other connection is
/// open, neither while the processes live nor afterwards.
pub async fn check_leftovers(world: &World, processes: Vec<Process>) {
    for Process { pool, .. } in &processes {
        // The last-seen writer uses the pool too.
        let whole = || pool.status().available == pool.status().size;
        until(async || whole()).await;
        let status = pool.status();
        assert!(status.size <= POOL && status.waiting == 0, "{status:?}");
    }
    let most = POOL + OWN + usize::from(world.caches);
    until_connections(world, processes.len() * most).await;
    for process in processes {
        process.sessions.close().await;
    }
    until_connections(world, 0).await;
}

/// A backend needs a moment to detect that its client disconnected.
async fn until_connections(world: &World, most: usize) {
    until(async || connections(world).await <= most).await;
}

async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waiting.await.expect("connections were left behind");
}
