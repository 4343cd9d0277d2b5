//! A cluster under Patroni: results during and after a failover, without a restart of the process.
//!
//! One switchover, one thawed primary and one restored cluster are part of every test run. All
//! faults, with and without the cache, on the addresses of all nodes and through haproxy:
//!
//! ```sh
//! PATRONI_ROUNDS=5 cargo test --release --all-features --test it patroni::long -- --ignored --nocapture
//! ```

use std::{
    fs,
    path::Path,
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
    PATIENCE, PgSessions, User,
    fault::{ObservedFault, send},
    history::{
        checker::violations,
        record::History,
        report::{picture, text},
        workload::{ADD_VALUE, Process, Workload, connect, users},
    },
    pair::blocking,
    sign_out, time_limit,
};

struct Cluster(Arc<PatroniCluster>);

impl Cluster {
    /// Starts two nodes and creates the tables. Reports a skipped test and returns `None` if a
    /// program is missing.
    async fn start(test: &str) -> Option<Self> {
        time_limit::begin();
        if let Some(missing) = blocking(PatroniCluster::missing).await {
            skip(test, &missing);
            return None;
        }
        let cluster = blocking(|| Self(Arc::new(PatroniCluster::start(2).unwrap()))).await;
        let client = connect(&cluster.config()).await.unwrap();
        client.batch_execute(&users()).await.unwrap();
        let store = PgSessionStore::<User>::new(pool(&cluster.connector("migration")));
        store.migrate().await.unwrap();
        store.migrate().notify_on_user_change().await.unwrap();
        client.batch_execute(ADD_VALUE).await.unwrap();
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

    /// Returns the connector of a process with this name.
    fn connector(&self, process: &str) -> PgConnector {
        let mut config = self.config();
        config.application_name(process);
        PgConnector::new(config, NoTls)
    }

    /// Creates a service with connections of its own, like a process of the application.
    fn process(&self, name: &str) -> PgSessions {
        let pool = pool(&self.connector(name));
        SessionService::new(PgSessionStore::new(pool))
    }

    /// Creates a process with a cache.
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

/// Repeats lookups until every connection for lookups is open.
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

/// Repeats the lookup until the process has reached the new primary, on which the session has
/// ended.
async fn meet(process: &PgSessions, token: &SessionToken) -> Duration {
    let begun = Instant::now();
    while !matches!(process.user(token).await, Ok(None)) {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the new primary is never reached"
        );
    }
    begun.elapsed()
}

/// Returns the number of connections of a process to the server of this client. It does not count
/// new connections, which the process is about to reject. It also does not count a backend that
/// waits for a synchronous replica, because this backend does not notice that its client has
/// disconnected.
async fn connections(client: &Client, process: &str) -> i64 {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = '{process}' AND wait_event IS DISTINCT FROM 'SyncRep'
           AND backend_start < clock_timestamp() - interval '1 second'"
    );
    client.query_one(&query, &[]).await.unwrap().get(0)
}

async fn activity(client: &Client) -> String {
    let query = "SELECT string_agg(concat_ws(' ', state, wait_event, query), E'\\n')
        FROM pg_stat_activity WHERE usename = current_user";
    client.query_one(query, &[]).await.unwrap().get(0)
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
    absent: u32,
    errors: u32,
}

impl Answers {
    async fn ask(&mut self, process: &PgSessions, token: &SessionToken) {
        match process.user(token).await {
            Ok(Some(_)) => self.stale += 1,
            Ok(None) => self.absent += 1,
            Err(_) => self.errors += 1,
        }
    }
}

/// N09: a primary is frozen, a replica is promoted, a session ends there, and the previous primary is
/// thawed. A process that has reached the new primary rejects the previous one, also on new
/// connections. A process that has not reached it accepts stale results until Patroni stops the
/// previous primary: this proves that the previous primary responds.
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
    // The first host does not respond: each new connection waits for its time limit at most.
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
    while thawed.elapsed() < Duration::from_secs(2) || answers[..2].iter().any(|it| it.absent < 50)
    {
        assert!(thawed.elapsed() < PATIENCE, "{answers:?}");
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

/// A fault of the primary.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Switchover,
    Kill,
    FreezeAndThaw,
    Partition(Partition),
}

/// A node that loses etcd demotes itself: the server restarts as a replica under its clients.
const FAULTS: [(&str, Fault); 5] = [
    ("switchover", Fault::Switchover),
    ("kill -9", Fault::Kill),
    ("freeze and thaw", Fault::FreezeAndThaw),
    ("demotion", Fault::Partition(Partition::Etcd)),
    ("partition", Fault::Partition(Partition::All)),
];

/// How a process connects to the primary.
#[derive(Clone, Copy, Debug)]
enum Route {
    /// By the addresses of all nodes.
    Direct,
    Haproxy,
}

const COMBINATIONS: [(bool, Route); 4] = [
    (false, Route::Direct),
    (false, Route::Haproxy),
    (true, Route::Direct),
    (true, Route::Haproxy),
];

/// A user whom the workload neither signs in nor disables.
const UNCHANGED_USER: i64 = 20_000;
/// The application name of the processes under test.
const PROCESS: &str = "process";
/// The time in which each process reaches the new primary: an attempt for each host.
const REACHED: Duration = Duration::from_secs(4);
/// The time after which no connection to the previous primary is left.
const DISCONNECTED: Duration = Duration::from_secs(5);

impl Fault {
    /// Returns when there is another primary and the fault is over.
    async fn strike(self, cluster: &Cluster) {
        let old = cluster
            .run(move |cluster| {
                let old = cluster.wait_for_primary().unwrap();
                match self {
                    Self::Switchover => drop(cluster.switch_over().unwrap()),
                    Self::Kill => cluster.kill(old).unwrap(),
                    Self::FreezeAndThaw => cluster.freeze(old).unwrap(),
                    Self::Partition(partition) => cluster.partition(old, partition),
                }
                cluster.wait_for_primary_other_than(old).unwrap();
                old
            })
            .await;
        match self {
            Self::Switchover => {}
            Self::Kill => cluster.run(move |it| it.revive(old).unwrap()).await,
            Self::FreezeAndThaw => {
                // A process that has not reached the new primary accepts stale results.
                tokio::time::sleep(REACHED).await;
                // While its Patroni is frozen, the previous primary responds.
                cluster.run(move |it| it.thaw_server(old).unwrap()).await;
                let thawed = Instant::now();
                let client = connect(&cluster.0.node_config(old)).await.unwrap();
                while connections(&client, PROCESS).await > 0 {
                    assert!(
                        thawed.elapsed() < DISCONNECTED,
                        "{}",
                        activity(&client).await
                    );
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(connections(&client, PROCESS).await, 0);
                cluster.run(move |it| it.thaw(old).unwrap()).await;
            }
            Self::Partition(_) => cluster.run(move |it| it.heal(old)).await,
        }
    }
}

/// Runs one process for each route while these faults occur, and returns the history.
async fn work(
    cluster: &Cluster,
    caches: bool,
    routes: [Route; 3],
    faults: impl IntoIterator<Item = (&'static str, Fault)>,
    seed: u64,
) -> History {
    let mut processes = routes.map(|route| {
        let config: Config = match route {
            Route::Direct => cluster.config(),
            Route::Haproxy => cluster.0.haproxy_url().parse().unwrap(),
        };
        let mut named = config.clone();
        named.application_name(PROCESS);
        Process::new(pool(&PgConnector::new(named, NoTls)), config)
    });
    if caches {
        for process in &mut processes {
            let mut named = process.config.clone();
            named.application_name(PROCESS);
            process.enable_cache(named).await;
        }
    }
    let mut workload = Workload::start(&processes, seed).await;
    for (name, fault) in faults {
        cluster
            .run(|cluster| cluster.wait_for_replicas().unwrap())
            .await;
        let from = workload.now();
        fault.strike(cluster).await;
        workload.broken(name, from).await;
    }
    let history = workload.stop().await;
    for process in &processes {
        let signed_in = process.sessions.sign_in_without_request(UNCHANGED_USER);
        let _ = signed_in.await.unwrap();
    }
    history
}

/// N10: a switchover under load causes no wrong result, on the addresses of all nodes and through
/// haproxy, and no acknowledged operation is lost. Each process continues by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_under_load_needs_no_restart() {
    let Some(cluster) = Cluster::start("switchover").await else {
        return;
    };
    let routes = [Route::Direct, Route::Direct, Route::Haproxy];
    let history = work(&cluster, false, routes, [FAULTS[0]], 17).await;
    println!("{}", text(&history));
    assert!(violations(&history).is_empty());
}

/// N09, N10: the same for all faults, and for each combination of cache and route. `PATRONI_ROUNDS`
/// is the number of faults of each kind in each combination. The reports and the charts go to
/// `target/patroni`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half an hour by default"]
async fn long() {
    let rounds = std::env::var("PATRONI_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let Some(cluster) = Cluster::start("long").await else {
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/patroni");
    fs::create_dir_all(&folder).unwrap();
    let (mut requests, mut found) = (0, 0);
    for (seed, (caches, route)) in (0..).zip(COMBINATIONS) {
        let faults = (0..rounds).flat_map(|_| FAULTS);
        let history = work(&cluster, caches, [route; 3], faults, 100 * seed).await;
        let cache = if caches { "on" } else { "off" };
        let report = format!("cache {cache}, {route:?}\n{}", text(&history));
        println!("{report}");
        let name = format!("cache-{cache}-{route:?}");
        fs::write(folder.join(format!("{name}.txt")), report).unwrap();
        fs::write(folder.join(format!("{name}.svg")), picture(&history)).unwrap();
        requests += history.records.len();
        found += violations(&history).len();
    }
    println!("{requests} operations, {found} violations");
    assert_eq!(found, 0);
}

/// N11: a restored cluster has another system identifier and begins with timeline 1. The process
/// continues there by itself, with an empty cache and without a connection to the previous cluster.
#[tokio::test]
async fn a_restored_cluster_starts_a_new_epoch() {
    let Some(cluster) = Cluster::start("restored_cluster").await else {
        return;
    };
    let process = cluster.caching_process("caching").await;
    let fault = ObservedFault::begin("failover with synchronous replication", &process);
    cluster.run(|cluster| cluster.switch_over().unwrap()).await;
    let begun = Instant::now();
    let ada = loop {
        match process.sign_in_without_request(1).await {
            Ok(signed_in) => break signed_in,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error:?}"),
        }
    };
    open_connections(&process, ada.token()).await;
    let request = async || {
        send(&process, ada.token()).await;
    };
    fault.becomes_visible(request).await;
    fault.ends(request).await;

    let replaced = "the cluster is replaced by a cluster with another system identifier: a restored dump, or an upgrade";
    let fault = ObservedFault::begin(replaced, &process);
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
    fault.becomes_visible(request).await;
    fault.ends(request).await;
}
