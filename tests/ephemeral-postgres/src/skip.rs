use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Reports that a test is skipped: prints the line `SKIPPED <test>: <reason>` on the standard error of
/// the process, once per test and reason. The caller must then return.
///
/// It does not use `eprintln!`, which the test harness captures and shows for failed tests only.
///
/// ```
/// # fn main() {
/// # let is_bundled = true;
/// if is_bundled {
///     return ephemeral_postgres::skip("lock_timeout", "the bundled PostgreSQL has no timers");
/// }
/// # }
/// ```
pub fn skip(test: &str, reason: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("SKIPPED {test}: {reason}");
    if SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(line.clone())
    {
        say_aloud(&line);
    }
}

/// Writes one whole line at once. A failure to write is ignored.
pub(crate) fn say_aloud(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
