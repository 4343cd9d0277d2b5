use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::error::{Error, Kind};
use crate::folder::Folder;
use crate::watchdog::Watchdog;

/// Generous, because a machine can be slow.
const PATIENCE: Duration = Duration::from_secs(60);

const SETTINGS: [(&str, &str); 10] = [
    ("listen_addresses", ""),
    ("max_connections", "200"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_wal_size", "256MB"),
    // What was written survives a crash of the server all the same, as long as the machine stays
    // up.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    // The bundled server makes a full fsync of each of these hints, even with fsync off.
    ("backend_flush_after", "0"),
    ("bgwriter_flush_after", "0"),
    ("checkpoint_flush_after", "0"),
];

/// Where the modules lie, seen from the programs: Debian and the PostgreSQL project; Homebrew;
/// Fedora.
const MODULES: [&str; 3] = ["../lib", "../lib/postgresql", "../lib64/pgsql"];

/// How a server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopMode {
    /// It ends the sessions, writes a checkpoint and stops.
    Fast,
    /// It stops as in a crash; the next start recovers.
    Immediate,
}

/// A private server: its folder, its process and what looks after both.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) folder: Folder,
    bin: PathBuf,
    settings: Vec<(String, String)>,
    watchdog: Watchdog,
    /// `None` while it is stopped.
    postmaster: Mutex<Option<Child>>,
}

impl Cluster {
    /// Creates and starts one.
    pub(crate) fn start(
        bin: &Path,
        folder: Folder,
        settings: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let watchdog = Watchdog::over(&folder.path)?;
        let preload = [("shared_preload_libraries", "pg_stat_statements")];
        let preload = preload.iter().filter(|(_, module)| has_module(bin, module));
        let settings = SETTINGS.iter().chain(preload).chain(settings);
        let cluster = Self {
            folder,
            bin: bin.into(),
            settings: settings
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
            watchdog,
            postmaster: Mutex::new(None),
        };
        cluster.init()?;
        *cluster.postmaster() = Some(cluster.spawn()?);
        Ok(cluster)
    }

    pub(crate) fn port(&self) -> u16 {
        let port = self.settings.iter().rfind(|(name, _)| name == "port");
        port.and_then(|(_, port)| port.parse().ok()).unwrap_or(5432)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        let mut postmaster = self.postmaster();
        let postmaster = postmaster.as_mut()?;
        matches!(postmaster.try_wait(), Ok(None)).then(|| postmaster.id())
    }

    pub(crate) fn stop(&self, mode: StopMode) -> Result<(), Error> {
        self.stop_locked(&mut self.postmaster(), mode).map(drop)
    }

    pub(crate) fn restart(&self) -> Result<(), Error> {
        let mut postmaster = self.postmaster();
        let ended = self.stop_locked(&mut postmaster, StopMode::Fast)?;
        // A killed one leaves its children behind for a moment, and nothing starts before they have
        // gone.
        let killed = ended.is_some_and(|status| status.signal().is_some());
        let deadline = Instant::now() + Duration::from_secs(10);
        *postmaster = Some(loop {
            match self.spawn() {
                Err(_) if killed && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                result => break result?,
            }
        });
        Ok(())
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn init(&self) -> Result<(), Error> {
        let initdb = self
            .command("initdb")
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--wal-segsize=1", "-D"])
            .arg(self.folder.data())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::system("start initdb"))?;
        self.watchdog.watch(&initdb)?;
        let output = initdb
            .wait_with_output()
            .map_err(Error::system("wait for initdb"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(Error::program("initdb", &output))
        }
    }

    /// Starts the server and waits until it takes connections.
    fn spawn(&self) -> Result<Child, Error> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.log());
        let log = log
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(Error::system("write the server's log"))?;
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.folder.data())
            .arg("-k")
            .arg(&self.folder.path);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut postmaster = command
            .stdout(log.0)
            .stderr(log.1)
            .spawn()
            .map_err(Error::system("start postgres"))?;
        let result = self
            .watchdog
            .watch(&postmaster)
            .and_then(|()| self.wait_until_ready(&mut postmaster));
        if result.is_err() {
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
        result.map(|()| postmaster)
    }

    fn wait_until_ready(&self, postmaster: &mut Child) -> Result<(), Error> {
        let pid = postmaster.id().to_string();
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Its first line is the process (another one, after a crash), its eighth the state.
            let state =
                fs::read_to_string(self.folder.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines().map(str::trim);
            if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
                return Ok(());
            }
            if let Some(status) = postmaster
                .try_wait()
                .map_err(Error::system("wait for postgres"))?
            {
                let said = format!("{status}:\n{}", self.log());
                return Err(Kind::Program {
                    name: "postgres",
                    said,
                }
                .into());
            }
            if Instant::now() > deadline {
                return Err(Kind::TooSlow {
                    doing: "start",
                    log: self.log(),
                }
                .into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended; `None` if it was stopped already.
    fn stop_locked(
        &self,
        postmaster: &mut Option<Child>,
        mode: StopMode,
    ) -> Result<Option<ExitStatus>, Error> {
        let Some(child) = postmaster else {
            return Ok(None);
        };
        let signal = match mode {
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        };
        // It is our child and was not waited for, so the id is its own even if it has ended.
        let kill = Command::new("/bin/sh")
            .args([
                "-c",
                "kill -s \"$1\" \"$2\"",
                "sh",
                signal,
                &child.id().to_string(),
            ])
            .stderr(Stdio::null())
            .status();
        kill.map_err(Error::system("start /bin/sh"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child
                .try_wait()
                .map_err(Error::system("wait for postgres"))?
            {
                *postmaster = None;
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Err(Kind::TooSlow {
                    doing: "stop",
                    log: self.log(),
                }
                .into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read(self.folder.log())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// One of PostgreSQL's programs, undisturbed by the settings of whoever started this process.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PG")
                || text.starts_with("LC_")
                || text == "LANG"
                || text == "LANGUAGE"
            {
                command.env_remove(&name);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(&self.folder.path)
            .stdin(Stdio::null());
        command.process_group(0); // out of reach of the terminal's Ctrl-C
        if let Some(account) = self.folder.account {
            command.uid(account.uid).gid(account.gid); // which also leaves root's other groups
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watchdog.finish();
        let postmaster = self
            .postmaster
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(postmaster) = postmaster {
            let _ = postmaster.kill(); // in case the watchdog was killed
            let _ = postmaster.wait();
        }
    }
}

fn has_module(bin: &Path, module: &str) -> bool {
    let files = ["so", "dylib"].map(|suffix| format!("{module}.{suffix}"));
    MODULES.iter().any(|folder| {
        files
            .iter()
            .any(|file| bin.join(folder).join(file).is_file())
    })
}
