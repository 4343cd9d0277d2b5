//! Nothing is left behind, however the process ends.

use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ephemeral_postgres::{Server, Source};

use crate::child::{self, forcing, processes_naming, signal};

#[test]
fn after_return() {
    for_each_source("return", |_| {});
}

#[test]
fn after_a_panic() {
    for_each_source("panic", |_| {});
}

#[test]
fn after_exit() {
    for_each_source("exit", |_| {});
}

#[test]
fn after_abort() {
    for_each_source("abort", |_| {});
}

#[test]
fn after_an_interrupt() {
    for_each_source("wait", |group| signal("INT", group));
}

#[test]
fn after_a_hangup() {
    for_each_source("wait", |group| signal("HUP", group));
}

#[test]
fn after_termination() {
    for_each_source("wait", |group| signal("TERM", group));
}

#[test]
fn after_a_kill() {
    for_each_source("wait", |group| signal("KILL", group));
}

#[test]
fn after_a_kill_of_a_restarted_server() {
    for_each_source("restart and wait", |group| signal("KILL", group));
}

#[test]
fn after_a_kill_while_it_starts() {
    for source in Source::available() {
        for wait in [0, 50, 200, 400] {
            let scratch = Scratch::new();
            let mut child = start(&source, "wait", &scratch.0);
            await_that("a folder appears", || {
                fs::read_dir(&scratch.0).unwrap().next().is_some()
            });
            thread::sleep(Duration::from_millis(wait));
            signal("KILL", -i64::from(child.id()));
            child.wait().unwrap();
            scratch.becomes_empty();
        }
    }
}

fn for_each_source(role: &str, end: impl Fn(i64)) {
    for source in Source::available() {
        let scratch = Scratch::new();
        let mut child = start(&source, role, &scratch.0);
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let holds = lines
            .into_iter()
            .any(|line| line.contains("holds a server"));
        if holds {
            // To the group, as a terminal does.
            end(-i64::from(child.id()));
        }
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        child.wait().unwrap();
        assert!(holds, "{source}: {said}");
        scratch.becomes_empty();
    }
}

fn start(source: &Source, role: &str, scratch: &Path) -> Child {
    child::running("clean_up::holds", role)
        .arg("--nocapture")
        .env("EPHEMERAL_POSTGRES", forcing(source))
        .env("TMPDIR", scratch)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The other half of these tests.
#[test]
fn holds() {
    let Some(role) = child::role() else { return };
    let server = Server::start_private(&[]).unwrap();
    if role.contains("restart") {
        server.restart().unwrap();
    }
    // The other ends with the test, and this one is never dropped.
    let shared = matches!(role.as_str(), "return" | "panic").then(Server::for_tests);
    println!("holds a server: {server:?} {shared:?}");
    match role.as_str() {
        "return" => {}
        "panic" => panic!("as it should"),
        "exit" => process::exit(3),
        "abort" => process::abort(),
        _ => thread::sleep(Duration::from_secs(60)),
    }
}

/// A folder for the temporary files of a child process. Its path is short, and a server's account
/// can enter it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/clean-up-{}-{number}", process::id()));
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        Self(path)
    }

    fn becomes_empty(&self) {
        let left = || {
            (
                fs::read_dir(&self.0).unwrap().flatten().collect::<Vec<_>>(),
                processes_naming(&self.0),
            )
        };
        await_that(&format!("nothing is left, now {:?}", left()), || {
            let (files, processes) = left();
            files.is_empty() && processes.is_empty()
        });
        // A process that was still writing would have created it again.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(fs::read_dir(&self.0).unwrap().count(), 0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn await_that(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
