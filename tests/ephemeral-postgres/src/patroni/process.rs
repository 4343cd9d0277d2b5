//! Processes that are not children of this one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::Error;

/// Sends a signal. A process that has ended is not an error.
pub(super) fn signal(name: &str, processes: &[u32]) -> Result<(), Error> {
    if processes.is_empty() {
        return Ok(());
    }
    Command::new("/bin/sh")
        .args(["-c", r#"name=$1; shift; kill -s "$name" "$@""#, "sh", name])
        .args(processes.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(Error::system("start /bin/sh"))
}

/// Kills processes, and waits until they have ended, for at most 10 s.
pub(super) fn kill(processes: &[u32]) -> Result<(), Error> {
    signal("KILL", processes)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while any_runs(processes) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Returns the processes of the server in a data folder, if it runs: the postmaster and its children.
pub(super) fn server(data: &Path) -> Vec<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let first = file
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok());
    // After a kill, another process may have the id.
    let Some(postmaster) = first.filter(|&id| runs_in(id, data)) else {
        return Vec::new();
    };
    let mut processes = vec![postmaster];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        if let Some(id) = id.filter(|&id| parent(id) == Some(postmaster)) {
            processes.push(id);
        }
    }
    processes
}

/// Returns the processes that work in a folder or have its path in their command line. The folder may
/// be removed.
pub(super) fn of_folder(folder: &Path) -> Vec<u32> {
    let path = folder.as_os_str().as_encoded_bytes();
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let id: Option<u32> = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let works_there = cwd.as_os_str().as_encoded_bytes().starts_with(path)
            || command.windows(path.len()).any(|part| part == path);
        processes.extend(id.filter(|_| works_there));
    }
    processes
}

/// Returns the ids of the shared memory that a killed server leaves behind.
pub(super) fn shared_memory(data: &Path) -> Option<String> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut key_and_id = file.lines().nth(6)?.split_whitespace();
    key_and_id.nth(1).map(str::to_owned)
}

/// Returns whether any of the processes still runs. A zombie does not run.
fn any_runs(processes: &[u32]) -> bool {
    processes.iter().any(|&id| {
        let (state, _) = status(id).unwrap_or_default();
        !matches!(state, '\0' | 'Z' | 'X')
    })
}

fn runs_in(id: u32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn parent(id: u32) -> Option<u32> {
    status(id).map(|(_, parent)| parent)
}

/// Returns the state and the parent of a process.
fn status(id: u32) -> Option<(char, u32)> {
    let status = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name is in parentheses and may contain any character.
    let mut fields = status.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}
