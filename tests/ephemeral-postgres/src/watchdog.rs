use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Error;

/// A shell that outlives this process, if only by a moment: when the pipe to it closes, however
/// that comes about, it stops what runs in the folder and removes the folder.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    /// `None` once finished.
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    pub(crate) fn over(folder: &Path) -> Result<Self, Error> {
        let mut shell = Command::new("/bin/sh")
            .args([
                "-c",
                include_str!("watchdog.sh"),
                "ephemeral-postgres-watchdog",
            ])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // out of reach of the terminal's Ctrl-C
            .spawn()
            .map_err(Error::system("start /bin/sh"))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Tells it of a process that was started in the folder. It keeps the latest in mind.
    pub(crate) fn watch(&self, process: &Child) -> Result<(), Error> {
        let Some(mut pipe) = self.pipe.as_ref() else {
            return Ok(());
        };
        writeln!(pipe, "{}", process.id()).map_err(Error::system("reach the watchdog"))
    }

    /// Lets it do its work now, and waits for it.
    pub(crate) fn finish(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}
