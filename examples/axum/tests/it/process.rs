//! The example's own program in a process.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The example's own program. It is killed on drop, no matter how the test ends.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The address of the metrics.
    pub(crate) internal: Option<SocketAddr>,
    /// The program fails if it prints and no reader is left.
    _output: Lines,
}

impl Process {
    pub(crate) async fn start(database_url: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_example-axum");
        let (child, lines) = spawn(program.as_ref(), database_url);
        let (lines, address) = next_address(lines).await;
        let (output, internal) = next_address(lines).await;
        Self {
            child,
            address,
            internal: Some(internal),
            _output: output,
        }
    }

    /// Starts another build of the example, which may not print the address of the metrics.
    pub(crate) async fn start_program(program: &Path, database_url: &str) -> Self {
        let (child, lines) = spawn(program, database_url);
        let (output, address) = next_address(lines).await;
        Self {
            child,
            address,
            internal: None,
            _output: output,
        }
    }

    /// Sends SIGTERM. Every shell has the command `kill`; not every machine has a program of this
    /// name.
    pub(crate) fn terminate(&self) {
        let kill = format!("kill -s TERM {}", self.child.id());
        let killed = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(killed.unwrap().success());
    }

    pub(crate) async fn exit(&mut self) {
        for _ in 0..400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Lines = std::io::Lines<BufReader<ChildStdout>>;

fn spawn(program: &Path, database_url: &str) -> (Child, Lines) {
    let mut child = Command::new(program)
        .env("DATABASE_URL", database_url)
        .env("ADDR", "127.0.0.1:0")
        .env("INTERNAL_ADDR", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Reads the address in the next line.
async fn next_address(mut lines: Lines) -> (Lines, SocketAddr) {
    let read = spawn_blocking(move || {
        let line = lines.next().unwrap().unwrap();
        (lines, line)
    });
    let (lines, line) = timeout(PATIENCE, read).await.unwrap().unwrap();
    let address = line.split("http://").nth(1).unwrap();
    let address = address.split([' ', '/']).next().unwrap();
    (lines, address.parse().unwrap())
}
