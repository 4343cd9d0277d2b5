//! What a run of all the tests has written down, searched for every token and every digest: the
//! application's log at its most talkative level, with what the dependencies log, what the tests print,
//! and the servers' logs with every statement and parameter, their write-ahead logs and tables.
//!
//! ```sh
//! cargo test --release --all-features --test it every_log::nothing -- --ignored --nocapture
//! ```
//!
//! runs all other tests again and searches the gigabyte that they leave behind, in two minutes. With
//! `EPHEMERAL_POSTGRES_KEEP` naming the folder in which an earlier run was told to leave it, that is searched
//! instead.

mod search;
mod spellings;
mod spellings_tests;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::format::FmtSpan;

use self::search::Searched;

const KEEP: &str = "EPHEMERAL_POSTGRES_KEEP";
/// The file of digests that tests present as tokens.
const PRESENTED: &str = "presented";

/// The log of this process, where one is kept.
fn log() -> Option<&'static File> {
    static LOG: OnceLock<Option<File>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let folder = PathBuf::from(std::env::var_os(KEEP)?);
        let name = format!("application.{}.log", std::process::id());
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(folder.join(name));
        Some(file.unwrap())
    });
    log.as_ref()
}

/// From now on everything that is logged in this process is kept, if anything is.
pub fn begin() {
    static BEGUN: OnceLock<()> = OnceLock::new();
    BEGUN.get_or_init(|| {
        if log().is_none() {
            return;
        }
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(|| Line)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        // What `tokio-postgres` logs comes this way. Another test may have been first.
        let _ = tracing_log::LogTracer::init();
    });
}

/// Does what must not be disturbed by being logged, such as counting its own allocations.
pub fn aside<T>(what: impl FnOnce() -> T) -> T {
    if log().is_none() {
        return what();
    }
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), what)
}

/// Keeps an event that a subscriber of one thread has caught.
pub fn note(event: &[u8]) {
    if let Some(mut log) = log() {
        // One event, one line, so that nothing is searched for across lines.
        let end = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line: Vec<_> = end
            .iter()
            .map(|byte| if *byte == b'\n' { b' ' } else { *byte })
            .collect();
        line.push(b'\n');
        log.write_all(&line).unwrap();
    }
}

/// Takes down that a test presents these bytes as a token on purpose, though they are a digest, so that
/// the server's log may show them.
pub fn presented_though_a_digest(bytes: &[u8]) {
    if let Some(folder) = std::env::var_os(KEEP) {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true);
        let mut file = file.open(Path::new(&folder).join(PRESENTED)).unwrap();
        file.write_all(bytes).unwrap();
    }
}

struct Line;

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        note(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Removes what was kept, even where something was found in it.
struct Kept(PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// B06, I03, I04: no test makes the crate write a token down anywhere in any spelling; and of digests the
/// application's log tells none, while the server's and its tables hold them, as documented.
#[test]
#[ignore = "runs all other tests again"]
fn nothing_that_all_tests_write_down_tells_a_token() {
    let mut kept = None;
    let folder = std::env::var_os(KEEP).map_or_else(
        || {
            let name = format!("every-log-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).unwrap();
            kept = Some(Kept(folder.clone()));
            run_all(&folder);
            folder
        },
        PathBuf::from,
    );
    if std::env::var_os("TEST_DATABASE_URL").is_some() {
        let reason = "the log of a server from a variable is out of reach";
        return ephemeral_postgres::skip(
            "every_log::nothing_that_all_tests_write_down_tells_a_token",
            reason,
        );
    }
    until_stopped(&folder);
    let searched = search::all(&folder);
    say(&searched);
    assert!(searched.found.is_empty(), "{:#?}", searched.found);
    // What is looked for is there to be found.
    assert!(searched.digests > 1_000, "{searched:?}");
    assert!(searched.of_the_crate > 1_000, "{searched:?}");
    assert!(searched.of_the_driver > 1_000, "{searched:?}");
    assert!(searched.with_parameters > 1_000, "{searched:?}");
    assert!(searched.digests_in_data > 100, "{searched:?}");
}

#[expect(clippy::print_stdout, reason = "for whoever started it by hand")]
fn say(searched: &Searched) {
    println!("{searched:#?}");
}

/// Runs this binary again. What it prints is kept too.
fn run_all(folder: &Path) {
    let output = |name: &str| Stdio::from(File::create(folder.join(name)).unwrap());
    let status = Command::new(std::env::current_exe().unwrap())
        .arg("--nocapture")
        .env(KEEP, folder)
        .stdout(output("application.stdout.log"))
        .stderr(output("application.stderr.log"))
        .status()
        .unwrap();
    let told = std::fs::read_to_string(folder.join("application.stdout.log")).unwrap();
    let failed: Vec<_> = told
        .lines()
        .filter(|line| line.ends_with("FAILED"))
        .collect();
    assert!(status.success(), "{failed:#?}");
}

/// Servers stop a moment after the process that used them.
fn until_stopped(folder: &Path) {
    let patience = Instant::now() + Duration::from_secs(60);
    let running = || {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_string_lossy().ends_with(".running"))
    };
    while running() {
        assert!(Instant::now() < patience, "a server does not stop");
        std::thread::sleep(Duration::from_millis(50));
    }
}
