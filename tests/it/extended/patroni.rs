//! A cluster under Patroni: what is answered while and after it fails over, without a restart of the process.
//!
//! One switchover, one thawed primary and one restored cluster are part of every test run. All faults, with and without
//! the cache, on the addresses of all nodes and through haproxy, so many times:
//!
//! ```sh
//! PATRONI_ROUNDS=20 cargo test --release --all-features --test it patroni::long -- --ignored --nocapture
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use ephemeral_postgres::{Partition, PatroniCluster, skip};
use tower_user_session::{
    PgSessionStore, SessionService,
    postgres::PgConnector,
    session::SessionToken,
    tokio_postgres::{Client, Config, NoTls},
};

use crate::support::{
    PgSessions, User,
    history::{
        checker::violations,
        report::text,
        workload::{Process, Workload, connect, users},
    },
    pair::blocking,
    sign_out,
};

struct Cluster(Arc<PatroniCluster>);

impl Cluster {
    /// One of two nodes with the tables. `None`, and the test is skipped aloud, if the programs are missing.
    async fn start(test: &str) -> Option<Self> {
        if let Some(missing) = blocking(PatroniCluster::missing).await {
            skip(test, &missing);
            return None;
        }
        let cluster = blocking(|| Self(Arc::new(PatroniCluster::start(2).unwrap()))).await;
        let client = connect(&cluster.config()).await.unwrap();
        client.batch_execute(&users()).await.unwrap();
        let store = PgSessionStore::<User>::new(pool(&cluster.connector("migration")));
        store.migrate().await.unwrap();
        store.migrate().notify_on_revocation().await.unwrap();
        Some(cluster)
    }

    async fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce(&PatroniCluster) -> T + Send + 'static,
    ) -> T {
        let cluster = Arc::clone(&self.0);
        blocking(move || run(&cluster)).await
    }

    fn config(&self) -> Config {
        self.0.url().parse().unwrap()
    }

    /// As a process of this name connects.
    fn connector(&self, process: &str) -> PgConnector {
        let mut config = self.config();
        config.application_name(process);
        PgConnector::new(config, NoTls)
    }

    /// A process of the application, as far as the database sees it.
    fn process(&self, name: &str) -> PgSessions {
        let pool = pool(&self.connector(name));
        SessionService::new(PgSessionStore::new(pool))
    }

    /// A process that follows the sessions that end and answers from memory.
    async fn caching_process(&self, name: &str) -> PgSessions {
        let process = self.process(name);
        let feed = process.store().feed_with(&self.connector(name));
        process.enable_cache(feed, 1_000).await.unwrap();
        process
    }
}

fn pool(connector: &PgConnector) -> Pool {
    let pool = Pool::builder(connector.manager());
    pool.max_size(4).build().unwrap()
}

/// Looks up until every connection for lookups is open.
async fn open_connections(sessions: &PgSessions, token: &SessionToken) {
    for _ in 0..50 {
        let lookups = (0..8).map(|_| {
            let token = SessionToken::parse(token.expose().as_bytes()).unwrap();
            let sessions = sessions.clone();
            tokio::spawn(async move { sessions.user(&token).await.unwrap() })
        });
        for lookup in lookups.collect::<Vec<_>>() {
            assert_eq!(lookup.await.unwrap(), Some(User::ada()));
        }
    }
}

/// Looks up until the process has met the new primary, which has ended the session.
async fn meet(process: &PgSessions, token: &SessionToken) -> Duration {
    let begun = Instant::now();
    while !matches!(process.user(token).await, Ok(None)) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is never met");
    }
    begun.elapsed()
}

/// Connections of a process to the server that this client is connected to.
async fn connections(client: &Client, process: &str) -> i64 {
    let query =
        format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{process}'");
    client.query_one(&query, &[]).await.unwrap().get(0)
}

async fn kill_connections(client: &Client, process: &str) {
    let kill = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{process}'"
    );
    client.batch_execute(&kill).await.unwrap();
}

#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    stale: u32,
    nobody: u32,
    errors: u32,
}

impl Answers {
    async fn ask(&mut self, process: &PgSessions, token: &SessionToken) {
        match process.user(token).await {
            Ok(Some(_)) => self.stale += 1,
            Ok(None) => self.nobody += 1,
            Err(_) => self.errors += 1,
        }
    }
}

/// N09: a primary is frozen, a replica promoted, a session ended there and the old primary thawed. A process that has
/// met the new primary refuses the old one, also on new connections. A process that has not believes it until Patroni
/// stops it: that proves that the old primary answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thawed_primary_is_rejected_after_an_answer_of_the_new_one() {
    const MET: [&str; 2] = ["met", "caching"];
    let Some(cluster) = Cluster::start("thawed_primary").await else {
        return;
    };
    let unmet = cluster.process("unmet");
    let met = [
        cluster.process(MET[0]),
        cluster.caching_process(MET[1]).await,
    ];
    let ada = unmet.sign_in_without_request(1).await.unwrap();
    let token = ada.token();
    for process in met.iter().chain([&unmet]) {
        open_connections(process, token).await;
    }

    let old = cluster
        .run(|cluster| cluster.wait_for_primary().unwrap())
        .await;
    let new = cluster
        .run(move |cluster| {
            cluster.freeze(old).unwrap();
            cluster.wait_for_primary_other_than(old).unwrap()
        })
        .await;
    // The first host of the pools is silent, and costs each new connection its time limit at most.
    let ending = cluster.process("ending");
    assert!(sign_out(&ending, token).await.unwrap());
    for process in &met {
        println!("met after {:?}", meet(process, token).await);
    }

    cluster
        .run(move |cluster| cluster.thaw_server(old).unwrap())
        .await;
    let on_old = connect(&cluster.0.node_config(old)).await.unwrap();
    let on_new = connect(&cluster.0.node_config(new)).await.unwrap();
    let thawed = Instant::now();
    let mut answers = [Answers::default(); 3];
    while thawed.elapsed() < Duration::from_secs(2) {
        for name in MET {
            kill_connections(&on_new, name).await;
        }
        for _ in 0..10 {
            for (process, answers) in met.iter().chain([&unmet]).zip(&mut answers) {
                answers.ask(process, token).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{answers:?}");
    let [met_first, met_caching, unmet_before] = answers;
    assert_eq!((met_first.stale, met_caching.stale), (0, 0));
    assert!(met_first.nobody > 100 && met_caching.nobody > 100);
    assert!(unmet_before.stale > 0, "the old primary does not answer");
    for name in MET {
        assert_eq!(connections(&on_old, name).await, 0, "{name}");
    }
    assert!(connections(&on_old, "unmet").await > 0);

    cluster.run(move |cluster| cluster.thaw(old).unwrap()).await;
    meet(&unmet, token).await;
    for process in met.iter().chain([&unmet]) {
        assert!(process.sign_in_without_request(1).await.is_ok());
    }
}

/// What befalls a primary.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Switchover,
    Kill,
    FreezeAndThaw,
    Partition(Partition),
}

const FAULTS: [(&str, Fault); 5] = [
    ("switchover", Fault::Switchover),
    ("kill -9", Fault::Kill),
    ("freeze and thaw", Fault::FreezeAndThaw),
    ("partition from etcd", Fault::Partition(Partition::Etcd)),
    ("partition", Fault::Partition(Partition::All)),
];

impl Fault {
    /// Returns when there is another primary.
    fn strike(self, cluster: &PatroniCluster) {
        let old = cluster.wait_for_primary().unwrap();
        match self {
            Self::Switchover => drop(cluster.switch_over().unwrap()),
            Self::Kill => cluster.kill(old).unwrap(),
            Self::FreezeAndThaw => cluster.freeze(old).unwrap(),
            Self::Partition(partition) => cluster.partition(old, partition),
        }
        cluster.wait_for_primary_other_than(old).unwrap();
        match self {
            Self::Switchover => {}
            Self::Kill => cluster.revive(old).unwrap(),
            Self::FreezeAndThaw => {
                // As long as Patroni does not stop it, the old primary answers.
                cluster.thaw_server(old).unwrap();
                std::thread::sleep(Duration::from_secs(1));
                cluster.thaw(old).unwrap();
            }
            Self::Partition(_) => cluster.heal(old),
        }
    }
}

/// Three processes that work while these faults strike.
#[expect(clippy::print_stdout, reason = "the report is for the developer")]
async fn work(cluster: &Cluster, caches: bool, faults: &[(&'static str, Fault)], seed: u64) {
    let haproxy: Config = cluster.0.haproxy_url().parse().unwrap();
    let mut processes = [cluster.config(), cluster.config(), haproxy].map(|config| {
        let connector = PgConnector::new(config.clone(), NoTls);
        Process::new(pool(&connector), config)
    });
    if caches {
        for process in &mut processes {
            process.enable_cache(process.config.clone()).await;
        }
    }
    let mut workload = Workload::start(&processes, seed).await;
    for &(name, fault) in faults {
        cluster
            .run(|cluster| cluster.wait_for_replicas().unwrap())
            .await;
        let from = workload.now();
        cluster.run(move |cluster| fault.strike(cluster)).await;
        workload.broken(name, from).await;
    }
    let history = workload.stop().await;
    println!("{}", text(&history));
    assert!(violations(&history).is_empty());
    for process in &processes {
        assert!(process.sessions.sign_in_without_request(1).await.is_ok());
    }
}

/// N10: a switchover under load gives no wrong answer, on the addresses of all nodes and through haproxy, and nothing
/// that was acknowledged is lost. Each process goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_under_load_needs_no_restart() {
    let Some(cluster) = Cluster::start("switchover").await else {
        return;
    };
    work(&cluster, false, &FAULTS[..1], 17).await;
}

/// N09, N10: the same for all faults, `PATRONI_ROUNDS` times, with and without the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told to"]
async fn long() {
    let rounds = std::env::var("PATRONI_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let Some(cluster) = Cluster::start("long").await else {
        return;
    };
    for round in 0..rounds {
        for caches in [false, true] {
            println!("round {round}, cache {caches}");
            work(&cluster, caches, &FAULTS, round).await;
        }
    }
}

/// N11: a restored cluster has another system identifier and begins with timeline 1. The process goes on there by
/// itself, with an empty cache, and keeps no connection to the cluster before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_starts_a_new_epoch() {
    let Some(cluster) = Cluster::start("restored_cluster").await else {
        return;
    };
    let process = cluster.caching_process("caching").await;
    cluster.run(|cluster| cluster.switch_over().unwrap()).await;
    let begun = Instant::now();
    let ada = loop {
        match process.sign_in_without_request(1).await {
            Ok(signed_in) => break signed_in,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}"),
        }
    };
    open_connections(&process, ada.token()).await;
    let primary = cluster
        .run(|cluster| {
            let before = cluster.dump().unwrap();
            cluster.restore(&before).unwrap();
            cluster.wait_for_primary().unwrap()
        })
        .await;
    assert_eq!(
        cluster.run(move |cluster| cluster.timeline(primary)).await,
        Some(1)
    );
    let client = connect(&cluster.0.node_config(primary)).await.unwrap();
    client.batch_execute("DELETE FROM sessions").await.unwrap();
    meet(&process, ada.token()).await;
    assert!(process.sign_in_without_request(1).await.is_ok());
}
