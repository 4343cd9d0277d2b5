//! The history checker: processes that share a database work at random while something breaks, and
//! what they have seen is held against what the crate promises.
//!
//! A short run is part of every test run. A long one, with a report and a picture in
//! `target/history`:
//!
//! ```sh
//! HISTORY_MINUTES=30 cargo test --release --all-features --test it history::long -- --ignored --nocapture
//! ```

mod checker;
mod checker_tests;
mod dice;
mod nemesis;
mod other_process;
mod report;
mod worker;
mod workload;

use std::{sync::Arc, time::Duration};

use ephemeral_postgres::{Server, TestDatabase};
use tower_user_session::PgSessionStore;

pub use self::{
    checker::{History, Operation, Outcome, violations},
    report::text,
    workload::{Process, Workload, connect, users},
};
use self::{
    dice::Dice,
    nemesis::{ALL, Nemesis, World, strike_together},
};
use crate::{
    proxy::Proxy,
    support::{User, pool},
};

const POOL: usize = 4;
/// The lookups' own connections of one service.
const LOOKUPS: usize = 2;

/// A server of its own, and three processes: two behind a proxy, one that reaches it directly.
async fn world() -> (World, Vec<Process>) {
    let server = tokio::task::spawn_blocking(|| Server::start_private(&[]).unwrap());
    let server = server.await.unwrap();
    let database = TestDatabase::create_on(&server, &users()).await.unwrap();
    let direct = pool(&database, POOL);
    PgSessionStore::<User>::new(direct.clone())
        .migrate()
        .await
        .unwrap();
    let proxy = Proxy::before(&database).await;
    let config = database.config();
    let processes =
        [proxy.pool(POOL), proxy.pool(POOL), direct].map(|pool| Process::new(pool, config.clone()));
    let world = World {
        server: Arc::new(server),
        database: Arc::new(database),
        proxy,
    };
    (world, processes.into())
}

/// So many connections to the database there are, besides the one that asks.
async fn connections(world: &World) -> usize {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE datname LIKE 'test%' AND backend_type = 'client backend'";
    let client = connect(&world.server.config()).await.unwrap();
    let count: i64 = client.query_one(query, &[]).await.unwrap().get(0);
    usize::try_from(count).unwrap()
}

/// Nothing has been left behind: the pools lend what they have, and no connection is left over, neither
/// while the processes live nor after them.
async fn check_leftovers(world: &World, processes: Vec<Process>) {
    for Process { pool, .. } in &processes {
        // What is written in the background borrows from it as well.
        let whole = || pool.status().available == pool.status().size;
        until(async || whole()).await;
        let status = pool.status();
        assert!(status.size <= POOL && status.waiting == 0, "{status:?}");
    }
    until_connections(world, processes.len() * (POOL + LOOKUPS)).await;
    for process in processes {
        process.sessions.close().await;
    }
    until_connections(world, 0).await;
}

/// A backend needs a moment to see that its client has gone.
async fn until_connections(world: &World, most: usize) {
    until(async || connections(world).await <= most).await;
}

async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waiting.await.expect("something was left behind");
}

fn check(history: &History) {
    let violations = violations(history);
    assert!(violations.is_empty(), "{}", text(history));
    // It has seen something.
    let count = |operation| {
        let records = history.records.iter();
        records
            .filter(|record| record.operation == operation)
            .count()
    };
    assert!(count(Operation::Lookup) > 1000 && count(Operation::SignIn) > 100);
    assert!(count(Operation::Revoke) > 50 && count(Operation::RevokeAll) > 5);

    // Tables that change are not seen by anybody who looks a session up.
    let changing = |at| {
        let mut changes = history
            .faults
            .iter()
            .filter(|fault| fault.name == Nemesis::ChangedTables.name());
        changes.any(|fault| (fault.from..fault.to).contains(&at))
    };
    let seen = history.records.iter().find(|record| {
        let lookup = record.operation == Operation::Lookup && changing(record.invoked);
        lookup && record.result.is_error()
    });
    assert_eq!(seen, None);
}

/// E01, E05, D02, D07, F03, F04, F05, F06, F09, F10, F26: each fault alone, then some at once, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short() {
    let (world, processes) = world().await;
    let mut workload = Workload::start(&processes, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for nemesis in ALL {
        let from = workload.now();
        nemesis.strike(&world).await;
        workload.broken(nemesis.name(), from).await;
    }
    let from = workload.now();
    strike_together(&world, &mut Dice::new(3)).await;
    workload.broken("several at once", from).await;
    let history = workload.stop().await;
    println!("{}", text(&history));
    check(&history);
    check_leftovers(&world, processes).await;
}

/// F26: the same for `HISTORY_MINUTES`, 10 by default, in random order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told to"]
async fn long() {
    let number = |name, default| {
        let value = std::env::var(name);
        value.map_or(default, |value| value.parse().unwrap())
    };
    let minutes = number("HISTORY_MINUTES", 10);
    let seed = number("HISTORY_SEED", u64::from(std::process::id()));
    println!("HISTORY_SEED={seed}");
    let (world, processes) = world().await;
    let mut dice = Dice::new(seed);
    let mut workload = Workload::start(&processes, seed).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let descriptors = open_files();
    while workload.now() < Duration::from_secs(60 * minutes) {
        let at = usize::try_from(dice.below(10)).unwrap();
        let from = workload.now();
        if let Some(nemesis) = ALL.get(at) {
            nemesis.strike(&world).await;
            workload.broken(nemesis.name(), from).await;
        } else {
            strike_together(&world, &mut dice).await;
            workload.broken("several at once", from).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let descriptors = (descriptors, open_files());
    let history = workload.stop().await;
    let (before, after) = descriptors;
    let report = format!(
        "seed {seed}, {minutes} minutes\n{}open files: {before} before, {after} after\n",
        text(&history)
    );
    println!("{report}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/history");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("report.txt"), &report).unwrap();
    std::fs::write(folder.join("errors.svg"), report::picture(&history)).unwrap();
    check(&history);
    assert!(after <= before + 10, "{before} open files, then {after}");
    check_leftovers(&world, processes).await;
}

/// Half of the others; see `other_process.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that the other tests start"]
async fn other_process() {
    other_process::live().await;
}

/// How many files and sockets this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}
