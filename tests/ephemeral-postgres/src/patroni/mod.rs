//! A cluster that fails over by itself: PostgreSQL under Patroni, with etcd, behind haproxy.

mod network;
mod node;
mod process;
mod relay;
mod rest;
mod tools;

use std::cell::Cell;
use std::fmt::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tokio_postgres::Config;

use self::network::Network;
use self::node::Node;
use self::tools::Tools;
use crate::error::{Error, Kind};
use crate::folder::{Folder, own};
use crate::program;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Long enough for a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The time after which replicas are copied again if none is synchronous.
const STUCK: Duration = Duration::from_secs(20);

/// The extent of a network partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partition {
    /// The node's Patroni does not reach etcd. Clients still reach the server.
    Etcd,
    /// In addition, nothing reaches the server and its Patroni. Connections hang and are not refused.
    /// The node's own connections to other hosts than etcd still work.
    All,
}

/// PostgreSQL servers under Patroni, in synchronous mode, with one etcd and one haproxy. The cluster is
/// private: it has a temporary folder and its own loopback addresses, and it leaves nothing behind when
/// the process ends, also after `SIGKILL`.
///
/// Patroni's `ttl` is 5 s: a replica is promoted 5 s after the last sign of the primary. The servers and
/// etcd write without `fsync`. The database `app` belongs to the role `app`. This role and the superuser
/// `postgres` connect without a password.
///
/// Every method blocks. The nodes are `a`, `b` and `c`. A method panics if there is no node of the given
/// name.
#[derive(Debug)]
pub struct PatroniCluster {
    // The order of the fields is the order in which they are dropped.
    nodes: Vec<Node>,
    others: Vec<Child>,
    folder: Folder,
    network: Network,
    tools: Tools,
}

/// The contents of the database at the time of [`PatroniCluster::dump`].
#[derive(Clone, Debug)]
pub struct Dump(PathBuf);

impl PatroniCluster {
    /// Returns which program is missing on this machine, if any. A test that needs a cluster is then skipped.
    pub fn missing() -> Option<String> {
        Tools::find().err()
    }

    /// Starts a cluster of two or three nodes. Returns when it accepts writes and has a synchronous replica.
    ///
    /// # Errors
    ///
    /// If a program is [missing](Self::missing) or does not start.
    ///
    /// # Panics
    ///
    /// If `nodes` is neither 2 nor 3.
    pub fn start(nodes: u8) -> Result<Self, Error> {
        assert!((2..=3).contains(&nodes), "two or three nodes");
        let tools = Tools::find().map_err(|missing| {
            Error::system("start a cluster")(io::Error::new(io::ErrorKind::NotFound, missing))
        })?;
        let mut cluster = Self {
            nodes: Vec::new(),
            others: Vec::new(),
            folder: Folder::create(false)?,
            network: Network::new(),
            tools,
        };
        cluster.start_etcd()?;
        for (number, name) in (0..nodes).zip(NAMES) {
            let (network, folder) = (cluster.network, &cluster.folder);
            let node = Node::new(name, number, network, folder, &cluster.tools)?;
            cluster.nodes.push(node);
        }
        cluster.start_haproxy()?;
        cluster.bootstrap()?;
        Ok(cluster)
    }

    fn start_etcd(&mut self) -> Result<(), Error> {
        let [client, peer] =
            [self.network.etcd(), self.network.etcd_peer()].map(|to| format!("http://{to}"));
        let data = self.folder.path.join("etcd");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&data)
            .and_then(|()| own(&data, self.folder.account))
            .map_err(Error::system("create a folder for etcd"))?;
        let etcd = self
            .command(&self.tools.etcd, "etcd.log")?
            .args([
                "--name",
                "etcd",
                "--unsafe-no-fsync",
                "--enable-v2",
                "--data-dir",
            ])
            .arg(data)
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("etcd={peer}")])
            .spawn();
        self.others.push(etcd.map_err(Error::system("start etcd"))?);
        // Patroni ends if it reads the version of a cluster that has not decided on one.
        self.wait("start etcd", || {
            let second = Duration::from_secs(1);
            let version = rest::request(self.network.etcd(), "GET", "/version", "", second).ok()?;
            let decided = version.field("etcdcluster")? != "not_decided";
            decided.then_some(())
        })
    }

    fn start_haproxy(&mut self) -> Result<(), Error> {
        let mut configuration = format!(
            include_str!("haproxy.cfg"),
            address = self.network.haproxy()
        );
        for (number, node) in (0..).zip(&self.nodes) {
            let _ = writeln!(
                configuration,
                "    server {} {} check port {}",
                node.name,
                self.network.postgres_relay(number),
                self.network.rest_relay(number).port()
            );
        }
        let path = self.folder.path.join("haproxy.cfg");
        fs::write(&path, configuration)
            .and_then(|()| own(&path, self.folder.account))
            .map_err(Error::system("write a configuration for haproxy"))?;
        let haproxy = self
            .command(&self.tools.haproxy, "haproxy.log")?
            .args(["-db", "-f"])
            .arg(path)
            .spawn();
        self.others
            .push(haproxy.map_err(Error::system("start haproxy"))?);
        Ok(())
    }

    /// Starts the nodes, which have no data, and creates the database.
    fn bootstrap(&self) -> Result<(), Error> {
        for node in &self.nodes {
            node.start(&self.folder, &self.tools)?;
            // The first node is the primary.
            self.wait_for_primary()?;
        }
        self.wait_for_replicas()?;
        self.psql("postgres", &["-c", "CREATE ROLE app LOGIN"])?;
        self.psql("postgres", &["-c", "CREATE DATABASE app OWNER app"])
    }

    /// Returns the folder of the cluster.
    pub fn directory(&self) -> &Path {
        &self.folder.path
    }

    /// Returns the names of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &'static str> {
        self.nodes.iter().map(|node| node.name)
    }

    /// Returns the URL of the primary for the role `app`, with the addresses of all nodes and
    /// `target_session_attrs=read-write`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = (0..)
            .zip(&self.nodes)
            .map(|(number, _)| self.network.postgres_relay(number).to_string())
            .collect();
        let hosts = hosts.join(",");
        format!("postgresql://app@{hosts}/app?target_session_attrs=read-write&connect_timeout=1")
    }

    /// Returns the URL of the primary through haproxy, for the role `app`.
    pub fn haproxy_url(&self) -> String {
        let haproxy = self.network.haproxy();
        format!("postgresql://app@{haproxy}/app?connect_timeout=1")
    }

    /// Returns how to connect to one node as `app`, primary or not. A partition does not block this way.
    pub fn node_config(&self, node: &str) -> Config {
        let address = self.node(node).postgres;
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port());
        config.user("app").dbname("app");
        config.connect_timeout(Duration::from_secs(1));
        config
    }

    /// Waits until there is a primary that accepts writes, and returns its name.
    ///
    /// # Errors
    ///
    /// If there is no such primary within 90 s.
    pub fn wait_for_primary(&self) -> Result<&'static str, Error> {
        self.wait_for_primary_other_than("")
    }

    /// Waits until another node is a primary that accepts writes, and returns its name.
    ///
    /// # Errors
    ///
    /// If there is no such primary within 90 s.
    pub fn wait_for_primary_other_than(&self, old: &str) -> Result<&'static str, Error> {
        self.wait("elect a primary", || {
            let mut others = self.nodes.iter().filter(|node| node.name != old);
            others.find(|node| node.is_primary()).map(|node| node.name)
        })
    }

    /// Waits until the primary has a synchronous replica and every node is healthy.
    ///
    /// # Errors
    ///
    /// If this takes longer than 90 s.
    pub fn wait_for_replicas(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let copied = Cell::new(false);
        self.wait("replicate", || {
            if begun.elapsed() > STUCK && !copied.replace(true) {
                for node in self.nodes.iter().filter(|node| !node.is_primary()) {
                    node.copy_again(&self.folder, &self.tools).ok()?;
                }
            }
            let synchronous = self.nodes.iter().any(Node::is_synchronous);
            let healthy = |node: &Node| {
                let answer = node.get("/health");
                answer.is_some_and(|answer| answer.status == 200)
            };
            (synchronous && self.nodes.iter().all(healthy)).then_some(())
        })
    }

    /// Returns the timeline of a node, as its Patroni reports it.
    pub fn timeline(&self, node: &str) -> Option<u32> {
        let answer = self.node(node).get("/patroni")?;
        answer.field("timeline")?.parse().ok()
    }

    /// Switches over to the synchronous replica and returns its name.
    ///
    /// # Errors
    ///
    /// If Patroni rejects the switchover, or if it takes longer than 90 s.
    pub fn switch_over(&self) -> Result<&'static str, Error> {
        self.wait_for_replicas()?;
        let old = self.wait_for_primary()?;
        let candidate = self.nodes.iter().find(|node| node.is_synchronous());
        let candidate = candidate.map_or("", |node| node.name);
        let body = format!(r#"{{"leader": "{old}", "candidate": "{candidate}"}}"#);
        let answer = self.node(old).post("/switchover", &body);
        let answer = answer.map_err(Error::system("ask Patroni for a switchover"))?;
        if answer.status != 200 {
            return Err(Error::system("switch over")(io::Error::other(answer.body)));
        }
        self.wait_for_primary_other_than(old)
    }

    /// Kills a node's server and its Patroni by `SIGKILL`. [`Self::revive`] starts them again.
    ///
    /// # Errors
    ///
    /// If no signal can be sent.
    pub fn kill(&self, node: &str) -> Result<(), Error> {
        self.node(node).kill()
    }

    /// Starts a node again that was killed.
    ///
    /// # Errors
    ///
    /// If Patroni cannot be started.
    pub fn revive(&self, node: &str) -> Result<(), Error> {
        self.node(node).start(&self.folder, &self.tools)
    }

    /// Stops all processes of a node by `SIGSTOP`.
    ///
    /// # Errors
    ///
    /// If no signal can be sent.
    pub fn freeze(&self, node: &str) -> Result<(), Error> {
        self.node(node).freeze(true)
    }

    /// Continues a frozen node by `SIGCONT`.
    ///
    /// # Errors
    ///
    /// If no signal can be sent.
    pub fn thaw(&self, node: &str) -> Result<(), Error> {
        self.node(node).freeze(false)
    }

    /// Continues the server of a frozen node, but not its Patroni, which would stop a primary that was
    /// replaced.
    ///
    /// # Errors
    ///
    /// If no signal can be sent.
    pub fn thaw_server(&self, node: &str) -> Result<(), Error> {
        self.node(node).thaw_server()
    }

    /// Isolates a node.
    pub fn partition(&self, node: &str, partition: Partition) {
        self.node(node).block(true, partition == Partition::All);
    }

    /// Ends a partition. Bytes that were held back arrive.
    pub fn heal(&self, node: &str) {
        self.node(node).block(false, false);
    }

    /// Saves the contents of the database.
    ///
    /// # Errors
    ///
    /// If `pg_dump` fails.
    pub fn dump(&self) -> Result<Dump, Error> {
        let path = self.folder.path.join(crate::name::new_name("dump-"));
        let path_argument = path.display().to_string();
        self.run("pg_dump", "app", &["-Fp", "-f", &path_argument])?;
        Ok(Dump(path))
    }

    /// Replaces the cluster by a new cluster at the same addresses, with another system identifier and
    /// timeline 1, and restores the contents there.
    ///
    /// # Errors
    ///
    /// If the new cluster does not start, or if `psql` fails.
    pub fn restore(&self, dump: &Dump) -> Result<(), Error> {
        for node in &self.nodes {
            node.freeze(false)?;
            node.block(false, false);
            node.kill()?;
            node.remove_data()?;
        }
        self.forget_in_etcd()?;
        self.bootstrap()?;
        let path = dump.0.display().to_string();
        self.psql("app", &["-f", &path])
    }

    fn forget_in_etcd(&self) -> Result<(), Error> {
        let mut etcdctl = self.command(&self.tools.etcdctl, "etcdctl.log")?;
        etcdctl.env("ETCDCTL_API", "2");
        etcdctl.args(["--endpoints", &format!("http://{}", self.network.etcd())]);
        etcdctl.args(["rm", "--recursive", "/service"]);
        self.complete("etcdctl", etcdctl)
    }

    /// Returns the logs of Patroni and of the servers.
    pub fn log(&self) -> String {
        let logs: Vec<_> = self.nodes.iter().map(Node::log).collect();
        logs.join("\n")
    }

    /// Returns the last lines of each node's log, without Patroni's periodic ones.
    fn ends_of_logs(&self) -> String {
        let mut all = String::new();
        for node in &self.nodes {
            let log = node.log();
            let events = log.lines().filter(|line| {
                let periodic = [
                    "no action.",
                    "Lock owner:",
                    "Watchdog not supported",
                    "unexpected EOF",
                ];
                !periodic.iter().any(|part| line.contains(part))
            });
            let events: Vec<_> = events.collect();
            let _ = writeln!(all, "node {}:", node.name);
            for line in &events[events.len().saturating_sub(9)..] {
                let _ = writeln!(all, "{line}");
            }
        }
        all
    }

    fn psql(&self, database: &str, arguments: &[&str]) -> Result<(), Error> {
        let once = ["-v", "ON_ERROR_STOP=1", "-X", "-q"];
        self.run("psql", database, &[&once, arguments].concat())
    }

    /// Runs one of PostgreSQL's programs on the primary, as the superuser.
    fn run(&self, name: &'static str, database: &str, arguments: &[&str]) -> Result<(), Error> {
        let primary = self.node(self.wait_for_primary()?).postgres;
        let program = self.tools.postgres.join(name);
        let mut command = self.command(&program, &format!("{name}.log"))?;
        command.args(["-h", &primary.ip().to_string()]);
        command.args(["-p", &primary.port().to_string()]);
        command.args(["-U", "postgres", "-d", database]);
        command.args(arguments);
        self.complete(name, command)
    }

    /// Runs a program to its end. A commit waits for a synchronous replica without a limit of its own:
    /// a program that takes too long is killed.
    fn complete(&self, name: &'static str, mut command: Command) -> Result<(), Error> {
        let child = command.spawn();
        let mut child = child.map_err(Error::system(format!("start {name}")))?;
        let status = self.wait("run the program", || child.try_wait().ok().flatten());
        let status = status.inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        })?;
        if status.success() {
            return Ok(());
        }
        let log = self.folder.path.join(format!("{name}.log"));
        let log = fs::read_to_string(log).unwrap_or_default();
        Err(Kind::Program { name, status, log }.into())
    }

    fn command(&self, program: &Path, log: &str) -> Result<Command, Error> {
        program::command(program, &self.folder, &self.folder.path.join(log))
    }

    fn wait<T>(&self, doing: &'static str, mut has: impl FnMut() -> Option<T>) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = has() {
                return Ok(value);
            }
            if Instant::now() > deadline {
                let log = self.ends_of_logs();
                return Err(Kind::TooSlow { doing, log }.into());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn node(&self, name: &str) -> &Node {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap_or_else(|| panic!("there is no node {name}"))
    }
}

impl Drop for PatroniCluster {
    fn drop(&mut self) {
        // Without their Patronis, nothing starts the servers again.
        self.nodes.clear();
        self.folder.watchdog.finish();
        for child in &mut self.others {
            let _ = child.kill(); // in case the watchdog was killed
            let _ = child.wait();
        }
    }
}
