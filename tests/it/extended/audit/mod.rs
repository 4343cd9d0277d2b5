//! Each begin and each end of a session is exactly once in the audit trail, under faults and if the
//! process is killed between the commit and its response.
//!
//! The long form begins 50,000 sessions under each fault of the history checker:
//!
//! ```sh
//! cargo test --release --all-features --test it extended::audit::long -- --ignored --nocapture
//! ```

mod killed_process;
mod workers;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use ephemeral_postgres::TestDatabase;

use self::{
    killed_process::{Victim, live},
    workers::{Ledger, Worker},
};
use crate::support::{
    audit::{assert_exactly_once, install},
    history::{
        dice::Dice,
        nemesis::{ALL, Nemesis, strike_together},
        world::{World, world},
    },
    number, sql, until_number,
};

const WORKERS: usize = 4;
/// Statements of workers that were cancelled can still run.
const OTHERS_RUN: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";

/// P05: two faults, and one process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short() {
    run(400, 1, &[Nemesis::KilledBackends, Nemesis::CutConnections]).await;
}

/// P05: each fault alone and several at once, and twenty killed processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes five minutes"]
async fn long() {
    run(50_000, 20, ALL).await;
}

/// The process that a test kills; see `killed_process.rs`.
#[tokio::test]
#[ignore = "the other process of the other tests"]
async fn victim() {
    live().await;
}

/// Begins at least this many sessions while these faults strike.
#[expect(clippy::print_stdout, reason = "prints the report of a run")]
async fn run(sessions: i64, killed: i64, nemeses: &[Nemesis]) {
    let start = Instant::now();
    let (world, processes) = world(false).await;
    let database = &world.database;
    install(database, &[]).await;
    let ledger = Arc::new(Ledger::default());
    let mut workers = Vec::new();
    for (process, number) in processes.iter().cycle().zip(0..processes.len() * WORKERS) {
        let worker = Worker::new(&ledger, process, number);
        workers.push(tokio::spawn(worker.work()));
    }

    let mut dice = Dice::new(3);
    strike_until(&world, nemeses, &mut dice, sessions).await;
    ledger.stop.store(true, Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    until_number(database, OTHERS_RUN, 0).await;
    for process in processes {
        process.sessions.close().await;
    }
    check(database, &ledger).await;
    let before = [began(database).await, number(database, ENDS).await];
    kill_processes(database, killed).await;

    // All sessions that are left end with their users or with the table.
    sql(database, "DELETE FROM users WHERE id % 2 = 0").await;
    assert_exactly_once(database, "cascade").await;
    sql(database, "TRUNCATE sessions").await;
    assert_exactly_once(database, "TRUNCATE").await;
    let [begins, ends] = [began(database).await, number(database, ENDS).await];
    assert_eq!(begins, ends);
    assert!(begins >= sessions);
    println!(
        "{begins} begins and {ends} ends, each once; {} and {} of them under faults, {} operations \
         with an unknown outcome, {} re-authentications, {:?}",
        before[0],
        before[1],
        ledger.unknown_begins.load(Relaxed) + ledger.unknown_rotations.load(Relaxed),
        ledger.rotated.lock().unwrap().len(),
        start.elapsed()
    );
}

const ENDS: &str = "SELECT count(*) FROM sessions_audit WHERE event IN ('ended', 'expired')";

async fn began(database: &TestDatabase) -> i64 {
    let began = "SELECT count(*) FROM sessions_audit WHERE event = 'began'";
    number(database, began).await
}

/// Applies each fault, and then random ones, until enough sessions have begun.
async fn strike_until(world: &World, nemeses: &[Nemesis], dice: &mut Dice, sessions: i64) {
    for nemesis in nemeses {
        tokio::time::sleep(Duration::from_millis(300)).await;
        nemesis.strike(world).await;
    }
    while began(&world.database).await < sessions {
        tokio::time::sleep(Duration::from_secs(1)).await;
        strike_together(nemeses, world, dice).await;
    }
}

/// Compares the trail with what the workers know.
async fn check(database: &TestDatabase, ledger: &Ledger) {
    assert_exactly_once(database, "faults").await;
    for (condition, acknowledged, unknown) in [
        ("event = 'began'", &ledger.began, &ledger.unknown_begins),
        (
            "event = 'rotated'",
            &ledger.rotated,
            &ledger.unknown_rotations,
        ),
    ] {
        let recorded = ids(database, condition).await;
        let acknowledged = acknowledged.lock().unwrap().clone();
        let count = |ids: &[String]| i64::try_from(ids.len()).unwrap();
        let known: BTreeSet<_> = acknowledged.iter().collect();
        let found: BTreeSet<_> = recorded.iter().collect();
        assert!(known.is_subset(&found), "{condition}");
        let most = count(&acknowledged) + unknown.load(Relaxed);
        assert!(
            (count(&acknowledged)..=most).contains(&count(&recorded)),
            "{condition}: {} rows, {} acknowledged",
            recorded.len(),
            acknowledged.len()
        );
    }
    let ended = ids(database, "event IN ('ended', 'expired')").await;
    let ended: BTreeSet<_> = ended.iter().collect();
    let acknowledged = ledger.ended.lock().unwrap();
    let missing = acknowledged.iter().filter(|id| !ended.contains(id));
    assert_eq!(missing.count(), 0, "acknowledged ends without a row");
    assert!(acknowledged.len() > 100, "too few ends");
}

async fn ids(database: &TestDatabase, condition: &str) -> Vec<String> {
    let client = database.client().await;
    let ids = format!("SELECT session_id::text FROM sessions_audit WHERE {condition}");
    let rows = client.query(&ids, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Kills processes whose sign-in is committed and not acknowledged, and then processes whose
/// revocation is.
async fn kill_processes(database: &TestDatabase, count: i64) {
    for _ in 0..count {
        let begun = began(database).await;
        let victim = Victim::start(database, "sign in").await;
        until_number(
            database,
            "SELECT count(*) FROM sessions_audit WHERE event = 'began'",
            begun + 1,
        )
        .await;
        victim.kill().await;
        assert_eq!(began(database).await, begun + 1);

        let ended = number(database, ENDS).await;
        let victim = Victim::start(database, "revoke").await;
        until_number(database, ENDS, ended + 1).await;
        victim.kill().await;
        assert_eq!(number(database, ENDS).await, ended + 1);
        assert_exactly_once(database, "killed process").await;
    }
}
