//! Checks histories: processes that share a database work at random while faults strike, and their records
//! must be possible under the documented guarantees.
//!
//! Each test run has a short form, with and without a cache. The long form writes a report and a chart to
//! `target/history`; `HISTORY_CACHE=1` adds the cache:
//!
//! ```sh
//! HISTORY_MINUTES=30 cargo test --release --all-features --test it linearizability::long -- --ignored --nocapture
//! ```

mod checker_tests;
mod update_tests;

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use crate::support::history::{
    checker::violations,
    dice::Dice,
    nemesis::{ALL, ALL_WITH_CACHE, Nemesis, strike_together},
    other_process,
    record::{History, Operation},
    report::{self, text},
    workload::{Process, Workload},
    world::{World, check_leftovers, world},
};

fn check(history: &History) {
    let violations = violations(history);
    assert!(violations.is_empty(), "{}", text(history));
    // Proves that the run covered enough operations.
    let count = |operation| {
        let records = history.records.iter();
        records
            .filter(|record| record.operation == operation)
            .count()
    };
    assert!(count(Operation::Lookup) > 1000 && count(Operation::SignIn) > 100);
    assert!(count(Operation::Revoke) > 50 && count(Operation::RevokeAll) > 5);
    assert!(count(Operation::Update) > 50, "{}", text(history));
    for change in [
        Operation::Disable,
        Operation::DisableSlowly,
        Operation::Suspend,
    ] {
        assert!(count(change) > 0, "no {change:?}");
    }

    // Some faults cause no failed lookup.
    let unseen = |at| {
        let mut spared = history.faults.iter().filter(|fault| {
            let mut all = ALL_WITH_CACHE.iter();
            all.any(|nemesis| nemesis.name() == fault.name && nemesis.spares_lookups())
        });
        spared.any(|fault| (fault.from..fault.to).contains(&at))
    };
    let seen = history.records.iter().find(|record| {
        let lookup = record.operation == Operation::Lookup && unseen(record.invoked);
        lookup && record.result.is_error()
    });
    assert_eq!(seen, None);
}

/// A sufficient share of the lookups was answered from the cache.
#[expect(clippy::print_stdout, reason = "prints the report of a run")]
fn check_cache(history: &History, processes: &[Process], world: &World) {
    let from_cache = |process: &Process| process.sessions.metrics().from_cache;
    let from_cache: u64 = processes.iter().map(from_cache).sum();
    let lookups = history.records.iter().filter(|record| {
        let here = record
            .process
            .is_some_and(|number| number < processes.len());
        here && record.operation == Operation::Lookup
    });
    let lookups = lookups.count() as u64;
    println!("{from_cache} of {lookups} lookups were answered from memory");
    assert!(10 * from_cache > lookups);
    let replaced = world.replaced.load(Relaxed);
    println!("feeds were replaced {replaced} times");
    assert!(replaced > 0);
}

/// E01, E05, D02, D07, F03, F04, F05, F06, F09, F10, F26: each fault alone, then several at once,
/// under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short() {
    run_short(false).await;
}

/// N01, N02, E05, D07, F03, F04, F05, F26: the same with a cache and with faults of the feeds. A
/// session is invalid at once in the process that ended it, and within the lease elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_with_cache() {
    run_short(true).await;
}

/// The faults that can strike.
fn nemeses(caches: bool) -> &'static [Nemesis] {
    if caches { ALL_WITH_CACHE } else { ALL }
}

#[expect(clippy::print_stdout, reason = "prints the report of a run")]
async fn run_short(caches: bool) {
    let (world, processes) = world(caches).await;
    let mut workload = Workload::start(&processes, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Faults of the tables do not affect cached results.
    let alone = |nemesis: &&Nemesis| !caches || !nemesis.strikes_tables();
    for nemesis in nemeses(caches).iter().filter(alone) {
        let from = workload.now();
        nemesis.strike(&world).await;
        workload.broken(nemesis.name(), from).await;
    }
    let from = workload.now();
    strike_together(nemeses(caches), &world, &mut Dice::new(3)).await;
    workload.broken("several at once", from).await;
    let history = workload.stop().await;
    println!("{}", text(&history));
    check(&history);
    if caches {
        check_cache(&history, &processes, &world);
    }
    check_leftovers(&world, processes).await;
}

/// F26: the same for `HISTORY_MINUTES`, 10 by default, in random order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes HISTORY_MINUTES, 10 by default"]
async fn long() {
    let number = |name, default| {
        let value = std::env::var(name);
        value.map_or(default, |value| value.parse().unwrap())
    };
    let minutes = number("HISTORY_MINUTES", 10);
    let seed = number("HISTORY_SEED", u64::from(std::process::id()));
    println!("HISTORY_SEED={seed}");
    let caches = std::env::var_os("HISTORY_CACHE").is_some_and(|value| value == "1");
    let all = nemeses(caches);
    let (world, processes) = world(caches).await;
    let mut dice = Dice::new(seed);
    let mut workload = Workload::start(&processes, seed).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let descriptors = open_files();
    while workload.now() < Duration::from_secs(60 * minutes) {
        let at = dice.index(all.len() + 3);
        let from = workload.now();
        if let Some(nemesis) = all.get(at) {
            nemesis.strike(&world).await;
            workload.broken(nemesis.name(), from).await;
        } else {
            strike_together(all, &world, &mut dice).await;
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
    if caches {
        check_cache(&history, &processes, &world);
    }
    assert!(after <= before + 10, "{before} open files, then {after}");
    check_leftovers(&world, processes).await;
}

/// The second process of the other tests; see `support/history/other_process.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the second process of the other tests"]
async fn other_process() {
    other_process::live().await;
}

/// The number of files and sockets that this process has open.
fn open_files() -> usize {
    std::fs::read_dir("/dev/fd").unwrap().count()
}
