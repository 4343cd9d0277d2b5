use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::error::{Error, Kind};
use crate::folder::Folder;
use crate::program;
use crate::settings::Settings;

/// Generous, because a machine can be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopMode {
    /// It ends the sessions, writes a checkpoint and stops.
    Fast,
    /// It stops as in a crash, and the next start recovers.
    Immediate,
}

/// A private server: its folder and its process.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) folder: Folder,
    pub(crate) settings: Settings,
    bin: PathBuf,
    /// `None` while it is stopped.
    postmaster: Mutex<Option<Child>>,
}

impl Cluster {
    /// Creates and starts a server.
    pub(crate) fn start(bin: &Path, folder: Folder, settings: Settings) -> Result<Self, Error> {
        let cluster = Self::stopped(bin, folder, settings);
        cluster.init()?;
        *cluster.postmaster() = Some(cluster.spawn()?);
        Ok(cluster)
    }

    /// Copies a running server, and starts the copy as its replica.
    pub(crate) fn start_replica(&self, folder: Folder, settings: Settings) -> Result<Self, Error> {
        let replica = Self::stopped(&self.bin, folder, settings);
        let (socket, port) = (self.folder.path.display(), self.settings.port());
        replica.run(
            "pg_basebackup",
            &[
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                &format!("--dbname=host={socket} port={port} user=postgres"),
            ],
        )?;
        *replica.postmaster() = Some(replica.spawn()?);
        Ok(replica)
    }

    fn stopped(bin: &Path, folder: Folder, settings: Settings) -> Self {
        Self {
            folder,
            settings,
            bin: bin.into(),
            postmaster: Mutex::new(None),
        }
    }

    /// Promotes a replica, and waits until it is a primary.
    pub(crate) fn promote(&self) -> Result<(), Error> {
        self.run("pg_ctl", &["promote", "--wait", "--silent"])
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        let mut postmaster = self.postmaster();
        let postmaster = postmaster.as_mut()?;
        matches!(postmaster.try_wait(), Ok(None)).then(|| postmaster.id())
    }

    pub(crate) fn log(&self) -> String {
        read(&self.folder.log())
    }

    pub(crate) fn stop(&self, mode: StopMode) -> Result<(), Error> {
        self.stop_locked(&mut self.postmaster(), mode).map(drop)
    }

    pub(crate) fn restart(&self) -> Result<(), Error> {
        let mut postmaster = self.postmaster();
        let ended = self.stop_locked(&mut postmaster, StopMode::Fast)?;
        // A killed server leaves its children running for a moment, and a new one does not start
        // beside them.
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
        self.run(
            "initdb",
            &[
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--wal-segsize=1",
            ],
        )
    }

    /// Runs one of PostgreSQL's programs on the data, to its end.
    fn run(&self, name: &'static str, arguments: &[&str]) -> Result<(), Error> {
        let log = self.folder.path.join(format!("{name}.log"));
        let status = program::command(&self.bin.join(name), &self.folder, &log)?
            .args(arguments)
            .arg("-D")
            .arg(self.folder.data())
            .status()
            .map_err(Error::system(format!("start {name}")))?;
        if status.success() {
            return Ok(());
        }
        Err(Kind::Program {
            name,
            status,
            log: read(&log),
        }
        .into())
    }

    /// Starts the server and waits until it accepts connections.
    fn spawn(&self) -> Result<Child, Error> {
        let log = self.folder.log();
        let mut postmaster = program::command(&self.bin.join("postgres"), &self.folder, &log)?
            .arg("-D")
            .arg(self.folder.data())
            .arg("-k")
            .arg(&self.folder.path)
            .args(self.settings.arguments())
            .spawn()
            .map_err(Error::system("start postgres"))?;
        let result = self.wait_until_ready(&mut postmaster);
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
            // Its first line is the process id (after a crash still the old one), its eighth the
            // state.
            let file = fs::read_to_string(self.folder.data().join("postmaster.pid"));
            let file = file.unwrap_or_default();
            let mut lines = file.lines().map(str::trim);
            if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
                return Ok(());
            }
            if let Some(status) = ended(postmaster)? {
                return Err(Kind::Program {
                    name: "postgres",
                    status,
                    log: self.log(),
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

    /// The exit status; `None` if the server was already stopped.
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
        // Even if it has ended, no other process has its id until this process has waited for it.
        Command::new("/bin/sh")
            .args([
                "-c",
                "kill -s \"$1\" \"$2\"",
                "sh",
                signal,
                &child.id().to_string(),
            ])
            .stderr(Stdio::null())
            .status()
            .map_err(Error::system("start /bin/sh"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = ended(child)? {
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
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.folder.watchdog.finish();
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

fn ended(postmaster: &mut Child) -> Result<Option<ExitStatus>, Error> {
    postmaster
        .try_wait()
        .map_err(Error::system("wait for postgres"))
}

fn read(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&log).into_owned()
}
