//! A test that does not end is named, and ends the run: the test harness has no time limit.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    io::Write as _,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Several times as long as the longest test takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);

static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

thread_local! {
    static TEST: OnceCell<Running> = const { OnceCell::new() };
}

/// A test, until its thread ends.
struct Running(String);

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.0);
    }
}

/// Ends the process if the test of this thread runs longer than the limit. The extended tests, which
/// are ignored by default, have no limit.
pub fn begin() {
    static WATCH: Once = Once::new();
    if std::env::args().any(|argument| argument.ends_with("ignored")) {
        return;
    }
    // The test harness runs each test in a thread that has the test's name.
    let Some(name) = thread::current()
        .name()
        .filter(|name| name.contains("::"))
        .map(str::to_owned)
    else {
        return;
    };
    TEST.with(|test| {
        test.get_or_init(|| {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            running.insert(name.clone(), Instant::now());
            Running(name)
        });
    });
    WATCH.call_once(|| drop(thread::spawn(watch)));
}

fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, since) in &*running {
            if since.elapsed() > LIMIT {
                // The test harness captures what the macros print.
                let message = format!("the test {name} has not ended after {LIMIT:?}\n");
                let _ = std::io::stderr().write_all(message.as_bytes());
                std::process::abort();
            }
        }
    }
}
