//! The logs of a run of all tests, searched for each token and each digest: the application's log at the
//! most verbose level, with those of the dependencies; what the tests print; the servers' logs with all
//! statements and parameters; their write-ahead logs and tables.
//!
//! ```sh
//! cargo test --release --all-features --test it all_logs::contain_no_token -- --ignored --nocapture
//! ```
//!
//! runs all other tests again and searches the gigabyte that they leave, in two minutes. If
//! `EPHEMERAL_POSTGRES_KEEP` names the folder of an earlier run, that folder is searched instead.

mod search;
mod spellings;
mod spellings_tests;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use self::search::Searched;
use crate::support::recorded_logs::KEEP;

/// Removes the recorded files, even if the search found a token.
struct Kept(PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// B06, I03, I04: no test makes the crate log or store a token, in any spelling. Digests are in the
/// server's log and tables, as documented, but not in the application's log.
#[test]
#[ignore = "runs all other tests again"]
fn contain_no_token() {
    let (mut kept, mut failed) = (None, Vec::new());
    let folder = std::env::var_os(KEEP).map_or_else(
        || {
            let name = format!("all-logs-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).unwrap();
            kept = Some(Kept(folder.clone()));
            failed = run_all(&folder);
            folder
        },
        PathBuf::from,
    );
    if std::env::var_os("TEST_DATABASE_URL").is_some() {
        let reason = "the log of a server from a variable is out of reach";
        return ephemeral_postgres::skip("extended::all_logs::contain_no_token", reason);
    }
    until_stopped(&folder);
    let searched = search::all(&folder);
    say(&searched);
    assert!(searched.found.is_empty(), "{:#?}", searched.found);
    // Proves that the search finds what is there.
    assert!(searched.digests > 1_000, "{searched:?}");
    assert!(searched.of_the_crate > 1_000, "{searched:?}");
    assert!(searched.of_the_driver > 1_000, "{searched:?}");
    assert!(searched.with_parameters > 1_000, "{searched:?}");
    assert!(searched.with_session_value > 0, "{searched:?}");
    assert!(searched.digests_in_data > 100, "{searched:?}");
    assert!(
        failed.is_empty(),
        "nothing found, but tests failed: {failed:#?}"
    );
}

#[expect(clippy::print_stdout, reason = "prints the result of a run by hand")]
fn say(searched: &Searched) {
    println!("{searched:#?}");
}

/// Runs this binary again, records its output, and returns the tests that failed.
fn run_all(folder: &Path) -> Vec<String> {
    let output = |name: &str| Stdio::from(File::create(folder.join(name)).unwrap());
    let status = Command::new(std::env::current_exe().unwrap())
        .arg("--nocapture")
        .env(KEEP, folder)
        .stdout(output("application.stdout.log"))
        .stderr(output("application.stderr.log"))
        .status()
        .unwrap();
    let told = std::fs::read_to_string(folder.join("application.stdout.log")).unwrap();
    let failed = told.lines().filter(|line| line.ends_with("FAILED"));
    let failed: Vec<_> = failed.map(str::to_owned).collect();
    assert_eq!(status.success(), failed.is_empty(), "{failed:#?}");
    failed
}

/// Servers stop shortly after the process that used them.
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
