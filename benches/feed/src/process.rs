//! A serving process, as the measuring one sees it: commands and reports, one per line.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ephemeral_postgres::TestDatabase;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{Mutex as AsyncMutex, oneshot},
    time::timeout,
};
use tower_user_session::BoxError;

use crate::CHILD;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Process {
    child: Child,
    orders: AsyncMutex<ChildStdin>,
    reports: Arc<Reports>,
}

#[derive(Default)]
struct Reports {
    expected: Mutex<HashMap<String, oneshot::Sender<Vec<u64>>>>,
    stale: AtomicU64,
    failed: AtomicU64,
}

/// A pending report.
pub(crate) struct Expected(String, oneshot::Receiver<Vec<u64>>);

impl Process {
    /// A process that follows the feed of this database, directly or through the connection that
    /// `feed` names.
    pub(crate) async fn start(
        database: &TestDatabase,
        feed: Option<String>,
    ) -> Result<Self, BoxError> {
        let url = database.url();
        let feed = feed.unwrap_or_else(|| url.clone());
        let mut child = Command::new(std::env::current_exe()?)
            .args([CHILD, &url, &feed])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().ok_or("no stdin")?;
        let output = child.stdout.take().ok_or("no stdout")?;
        let process = Self {
            child,
            orders: AsyncMutex::new(orders),
            reports: Arc::default(),
        };
        let ready = process.expect("ready 0");
        tokio::spawn(read(output, Arc::clone(&process.reports)));
        ready.report().await?;
        Ok(process)
    }

    pub(crate) fn expect(&self, report: &str) -> Expected {
        let (sender, receiver) = oneshot::channel();
        let mut expected = lock(&self.reports.expected);
        expected.insert(report.to_owned(), sender);
        Expected(report.to_owned(), receiver)
    }

    pub(crate) async fn order(&self, order: &str) -> Result<(), BoxError> {
        let line = format!("{order}\n");
        self.orders.lock().await.write_all(line.as_bytes()).await?;
        Ok(())
    }

    /// Sends a command, and returns its report.
    pub(crate) async fn ask(&self, order: &str, report: &str) -> Result<Vec<u64>, BoxError> {
        let expected = self.expect(report);
        self.order(order).await?;
        expected.report().await
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), BoxError> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).ok_or("the process has ended")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Results from the cache after a sleep longer than a lease.
    pub(crate) fn stale(&self) -> u64 {
        self.reports.stale.load(Relaxed)
    }

    /// Lookups that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.reports.failed.load(Relaxed)
    }
}

impl Expected {
    pub(crate) async fn report(self) -> Result<Vec<u64>, BoxError> {
        match timeout(PATIENCE, self.1).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(_)) => Err("a process ended early".into()),
            Err(_) => Err(format!("no report for a minute: {}", self.0).into()),
        }
    }
}

/// A report is a word, a number and values.
async fn read(output: ChildStdout, reports: Arc<Reports>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["stale", ..] => drop(reports.stale.fetch_add(1, Relaxed)),
            ["failed", ..] => drop(reports.failed.fetch_add(1, Relaxed)),
            [word, number, values @ ..] => {
                let values = values.iter().flat_map(|value| value.parse()).collect();
                let expected = lock(&reports.expected).remove(&format!("{word} {number}"));
                if let Some(expected) = expected {
                    let _ = expected.send(values);
                }
            }
            _ => {}
        }
    }
    lock(&reports.expected).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
