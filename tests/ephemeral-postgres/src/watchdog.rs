use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::{Error, keep};

/// A shell that outlives this process by a moment. When the pipe to it closes, for any reason, it
/// stops the processes in the folder and removes the folder.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    /// `None` once finished.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Creates the folder, so that the folder is never without its watchdog.
    pub(crate) fn over_new(folder: &Path) -> Result<Self, Error> {
        let mut shell = Command::new("/bin/sh")
            .args([
                "-c",
                include_str!("watchdog.sh"),
                "ephemeral-postgres-watchdog",
            ])
            .arg(folder)
            .args(keep::folder())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // out of reach of the terminal's Ctrl-C
            .spawn()
            .map_err(Error::system("start /bin/sh"))?;
        let pipe = shell.stdin.take();
        let answer = shell.stdout.take();
        let watchdog = Self { shell, pipe };
        let mut said = String::new();
        let read = answer.map_or(Ok(0), |mut answer| answer.read_to_string(&mut said));
        read.and_then(|_| {
            if said.is_empty() {
                Ok(())
            } else {
                Err(io::Error::other(said))
            }
        })
        .map_err(Error::system("create a temporary folder"))?;
        Ok(watchdog)
    }

    /// The pipe for the ids of the processes that run in the folder, one per line.
    pub(crate) fn pipe(&self) -> Result<OwnedFd, Error> {
        let pipe = self
            .pipe
            .as_ref()
            .map(|pipe| pipe.as_fd().try_clone_to_owned());
        let closed = || Err(io::ErrorKind::BrokenPipe.into());
        pipe.unwrap_or_else(closed)
            .map_err(Error::system("reach the watchdog"))
    }

    /// Stops the processes and removes the folder now, and waits for it.
    pub(crate) fn finish(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.finish();
    }
}
