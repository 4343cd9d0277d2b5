use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use super::network::Network;
use super::relay::Relay;
use super::rest::{self, Answer};
use super::{process, tools::Tools};
use crate::error::Error;
use crate::folder::{Folder, own};
use crate::program;

/// A server with its Patroni, and the relays of the node: to the server, to Patroni and to etcd.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    /// The address at which the server listens.
    pub(super) postgres: SocketAddr,
    rest: SocketAddr,
    folder: PathBuf,
    /// `None` while it is stopped.
    patroni: Mutex<Option<Child>>,
    etcd: Relay,
    inbound: [Relay; 2],
}

impl Node {
    /// Prepares a node. Its Patroni does not run yet.
    pub(super) fn new(
        name: &'static str,
        number: u8,
        network: Network,
        folder: &Folder,
        tools: &Tools,
    ) -> Result<Self, Error> {
        let relay = |from, to| Relay::start(from, to).map_err(Error::system("listen on loopback"));
        let own_folder = folder.path.join(name);
        let node = Self {
            name,
            postgres: network.postgres(number),
            rest: network.rest(number),
            etcd: relay(network.etcd_relay(number), network.etcd())?,
            inbound: [
                relay(network.postgres_relay(number), network.postgres(number))?,
                relay(network.rest_relay(number), network.rest(number))?,
            ],
            patroni: Mutex::new(None),
            folder: own_folder,
        };
        node.write_files(number, network, folder, tools)
            .map_err(Error::system("write a configuration for Patroni"))?;
        Ok(node)
    }

    fn write_files(
        &self,
        number: u8,
        network: Network,
        folder: &Folder,
        tools: &Tools,
    ) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.folder)?;
        let configuration = format!(
            include_str!("patroni.yml"),
            name = self.name,
            folder = self.folder.display(),
            bin = tools.postgres.display(),
            rest = self.rest,
            rest_relay = network.rest_relay(number),
            etcd = network.etcd_relay(number),
            postgres = self.postgres,
            postgres_relay = network.postgres_relay(number),
        );
        fs::write(self.configuration(), configuration)?;
        own(&self.folder, folder.account)?;
        own(&self.configuration(), folder.account)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("patroni.yml")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts Patroni, which starts the server. Does nothing if Patroni runs.
    pub(super) fn start(&self, folder: &Folder, tools: &Tools) -> Result<(), Error> {
        let mut patroni = self.patroni();
        if patroni.is_none() {
            let command = program::command(&tools.patroni, folder, &self.folder.join("log"))?
                .arg(self.configuration())
                .spawn();
            *patroni = Some(command.map_err(Error::system("start patroni"))?);
        }
        Ok(())
    }

    /// Kills Patroni and the server, like a loss of power.
    pub(super) fn kill(&self) -> Result<(), Error> {
        self.end_patroni();
        let server = process::server(&self.data());
        let memory = process::shared_memory(&self.data());
        process::kill(&server)?;
        if let Some(memory) = memory.filter(|_| !server.is_empty()) {
            let mut remove = Command::new("ipcrm");
            remove.args(["-m", &memory]).stderr(Stdio::null());
            let _ = remove.status(); // The next start in the folder would remove it as well.
        }
        Ok(())
    }

    /// Removes the server with its data, and lets Patroni copy the primary. Patroni can start a second
    /// server while a demotion is in progress. It then does not stop the first one, which keeps the
    /// port.
    pub(super) fn copy_again(&self, folder: &Folder, tools: &Tools) -> Result<(), Error> {
        self.end_patroni();
        process::kill(&process::of_folder(&self.folder))?;
        self.remove_data()?;
        self.start(folder, tools)
    }

    fn end_patroni(&self) {
        if let Some(mut patroni) = self.patroni().take() {
            let _ = patroni.kill();
            let _ = patroni.wait();
        }
    }

    /// Removes the data of a node that does not run.
    pub(super) fn remove_data(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Patroni keeps a copy if it could not use the folder.
            if name.starts_with("data") {
                fs::remove_dir_all(entry.path()).map_err(Error::system("remove a data folder"))?;
            }
            // A killed server leaves the lock of its socket. The next server does not start if the
            // process id in it is in use, even by a zombie.
            if name.starts_with(".s.PGSQL.") {
                fs::remove_file(entry.path()).map_err(Error::system("remove a socket"))?;
            }
        }
        Ok(())
    }

    /// Stops every process of the node by `SIGSTOP`, or continues them.
    pub(super) fn freeze(&self, frozen: bool) -> Result<(), Error> {
        if frozen {
            self.signal_patroni("STOP")?;
            // Twice, because the first process may have forked in between.
            self.signal_server("STOP")?;
            self.signal_server("STOP")
        } else {
            self.thaw_server()?;
            self.signal_patroni("CONT")
        }
    }

    /// Continues the server, but not Patroni.
    pub(super) fn thaw_server(&self) -> Result<(), Error> {
        self.signal_server("CONT")
    }

    fn signal_patroni(&self, name: &str) -> Result<(), Error> {
        let id = self.patroni().as_ref().map(Child::id);
        process::signal(name, id.as_slice())
    }

    fn signal_server(&self, name: &str) -> Result<(), Error> {
        process::signal(name, &process::server(&self.data()))
    }

    /// Blocks the connections to etcd, and the incoming connections if `all` is set.
    pub(super) fn block(&self, etcd: bool, inbound: bool) {
        self.etcd.block(etcd);
        for relay in &self.inbound {
            relay.block(inbound);
        }
    }

    /// Sends a request to Patroni. Returns `None` if there is no response.
    pub(super) fn get(&self, path: &str) -> Option<Answer> {
        rest::request(self.rest, "GET", path, "", Duration::from_millis(500)).ok()
    }

    pub(super) fn post(&self, path: &str, body: &str) -> io::Result<Answer> {
        rest::request(self.rest, "POST", path, body, Duration::from_secs(60))
    }

    pub(super) fn is_primary(&self) -> bool {
        self.get("/primary").is_some_and(|answer| {
            let role = answer.field("role");
            answer.status == 200 && matches!(role, Some("master" | "primary"))
        })
    }

    pub(super) fn is_synchronous(&self) -> bool {
        self.get("/sync").is_some_and(|answer| answer.status == 200)
    }

    /// Returns the logs of Patroni and of the server.
    pub(super) fn log(&self) -> String {
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        read(&self.folder.join("log"))
    }

    fn patroni(&self) -> MutexGuard<'_, Option<Child>> {
        self.patroni.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watchdog ends what still runs.
impl Drop for Node {
    fn drop(&mut self) {
        self.end_patroni();
    }
}
