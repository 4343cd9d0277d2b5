//! A cluster under Patroni does what a test needs.

use std::fs;
use std::time::{Duration, Instant};

use ephemeral_postgres::{Partition, PatroniCluster, skip};

/// In one test, because a cluster takes a while to start. The tests of tower-user-session run a switchover
/// and a freeze by default.
#[test]
#[ignore = "part of the extended tests: takes up to two minutes"]
fn cluster_fails_over_and_leaves_nothing_behind() {
    if let Some(missing) = PatroniCluster::missing() {
        return skip("patroni", &missing);
    }
    let begun = Instant::now();
    let said = |what: &str| println!("{:6.2?} {what}", begun.elapsed());
    let cluster = PatroniCluster::start(2).unwrap();
    said("started");
    let folder = cluster.directory().to_owned();
    let first = cluster.wait_for_primary().unwrap();
    assert_eq!((first, cluster.timeline(first)), ("a", Some(1)));

    let second = cluster.switch_over().unwrap();
    said("switched over");
    assert_eq!((second, cluster.timeline(second)), ("b", Some(2)));
    cluster.wait_for_replicas().unwrap();
    said("replicating");

    cluster.freeze("b").unwrap();
    let third = cluster.wait_for_primary_other_than("b").unwrap();
    said("promoted after a freeze");
    assert_eq!((third, cluster.timeline(third)), ("a", Some(3)));
    cluster.thaw("b").unwrap();
    cluster.wait_for_replicas().unwrap();
    said("replicating");

    cluster.partition("a", Partition::All);
    assert_eq!(cluster.wait_for_primary_other_than("a").unwrap(), "b");
    said("promoted after a partition");
    cluster.heal("a");
    cluster.wait_for_replicas().unwrap();
    said("replicating");

    cluster.kill("b").unwrap();
    assert_eq!(cluster.wait_for_primary_other_than("b").unwrap(), "a");
    said("promoted after a kill");
    cluster.revive("b").unwrap();
    cluster.wait_for_replicas().unwrap();
    said("replicating");

    let dump = cluster.dump().unwrap();
    cluster.restore(&dump).unwrap();
    said("restored");
    let restored = cluster.wait_for_primary().unwrap();
    assert_eq!(cluster.timeline(restored), Some(1));

    // Processes that are stopped do not stay behind either.
    cluster.freeze(restored).unwrap();
    drop(cluster);
    said("stopped");
    assert!(!folder.exists());
    assert_eq!(processes_in(&folder), [0; 0]);
    assert!(begun.elapsed() < Duration::from_secs(180));
}

fn processes_in(folder: &std::path::Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            let cwd = fs::read_link(entry.path().join("cwd"));
            // The folder is removed: Linux appends that to the path.
            cwd.is_ok_and(|cwd| {
                cwd.to_string_lossy()
                    .starts_with(&*folder.to_string_lossy())
            })
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
