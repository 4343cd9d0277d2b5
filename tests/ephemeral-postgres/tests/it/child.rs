//! Runs this test binary again, because variables select a source, which a process should not
//! change for itself, and leftovers are visible only after its end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, ffi};

use ephemeral_postgres::Source;

/// Set in a child process. Without it, a test that is half of another one does nothing.
const CHILD: &str = "EPHEMERAL_POSTGRES_TEST_CHILD";

/// Runs one test in a child process, or a module if the name ends in `::`.
pub(crate) fn running(test: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(test).env(CHILD, role).stdin(Stdio::null());
    for variable in ["DATABASE_URL", "TEST_DATABASE_URL"] {
        command.env_remove(variable);
    }
    if !test.ends_with("::") {
        command.arg("--exact");
    }
    command
}

/// The parent's instruction for a child process; `None` in a process that is not one.
pub(crate) fn role() -> Option<String> {
    env::var(CHILD).ok()
}

/// The value of `EPHEMERAL_POSTGRES` that selects the source.
pub(crate) fn forcing(source: &Source) -> &ffi::OsStr {
    match source {
        Source::Installed(bin) => bin.as_os_str(),
        _ => "bundled".as_ref(),
    }
}

/// The command lines of all processes that contain the path.
pub(crate) fn processes_naming(path: &Path) -> Vec<String> {
    let commands = match std::fs::read_dir("/proc/self") {
        Ok(_) => "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'",
        Err(_) => "ps -axww -o command=",
    };
    let output = Command::new("/bin/sh")
        .args(["-c", commands])
        .output()
        .unwrap();
    let path = path.to_str().unwrap();
    let commands = String::from_utf8_lossy(&output.stdout).into_owned();
    commands
        .lines()
        .filter(|line| line.contains(path))
        .map(str::to_owned)
        .collect()
}

/// Sends a signal to a process, or to a group if the id is negative.
pub(crate) fn signal(name: &str, id: i64) {
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("kill -s {name} -- {id}")])
        .status();
    assert!(status.unwrap().success());
}
