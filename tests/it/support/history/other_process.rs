//! A second process of the operating system, beside the test's: this test binary again. It receives
//! sessions over a pipe, and at the end it prints its records.

use std::{
    io::{BufRead, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use tower_user_session::{
    postgres::PgConnector,
    tokio_postgres::{Config, NoTls, config::Host},
};

use super::{
    dice::Dice,
    record::{Key, Operation, Outcome, Record},
    worker::Worker,
    workload::{Known, Process, Shared},
};
use crate::support::recorded_logs;

/// Names the variable with the other process's seed, whether it has a cache, and where the database
/// is.
const DATABASE: &str = "HISTORY_OTHER_PROCESS";
/// Prefix of each line of the protocol; the test harness prints other lines.
const MARK: &str = "HISTORY ";
const WORKERS: u64 = 3;
/// Its number, different from all others.
const NUMBER: usize = usize::MAX;

pub struct OtherProcess {
    child: Mutex<Option<Child>>,
    /// When this closes, the other process stops.
    told: Mutex<Option<ChildStdin>>,
    said: Mutex<Option<Lines<BufReader<ChildStdout>>>>,
    /// Its clock started between these two times of this process's clock.
    began: (Duration, Duration),
}

impl OtherProcess {
    pub async fn start(start: Instant, config: &Config, caches: bool, seed: u64) -> Self {
        let folders = config.get_hosts().iter().map(|host| match host {
            Host::Unix(folder) => folder.display().to_string(),
            Host::Tcp(name) => name.clone(),
        });
        let ports = match config.get_ports() {
            [] => &[5432],
            ports => ports,
        };
        let ports = ports.iter().map(u16::to_string);
        let database = format!(
            "host={} port={} user={} dbname={} target_session_attrs=read-write connect_timeout=1",
            folders.collect::<Vec<_>>().join(","),
            ports.collect::<Vec<_>>().join(","),
            config.get_user().unwrap(),
            config.get_dbname().unwrap()
        );
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "extended::linearizability::other_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(DATABASE, format!("{seed} {caches} {database}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let starting = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut told = child.stdin.take().unwrap();
            let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(next(&mut said).unwrap(), "ready");
            let before = start.elapsed();
            told.write_all(b"begin\n").unwrap();
            assert_eq!(next(&mut said).unwrap(), "begun");
            Self {
                began: (before, start.elapsed()),
                child: Mutex::new(Some(child)),
                told: Mutex::new(Some(told)),
                said: Mutex::new(Some(said)),
            }
        });
        starting.await.unwrap()
    }

    pub fn tell(&self, known: &Known) {
        let line = format!("{} {} {}\n", known.number, known.user, known.token);
        if let Some(told) = &mut *self.told.lock().unwrap() {
            told.write_all(line.as_bytes()).unwrap();
        }
    }

    /// Its records, by this process's clock: from the earliest time at which an operation can have
    /// begun to the latest at which it can have ended.
    pub async fn stop(&self) -> Vec<Record> {
        drop(self.told.lock().unwrap().take());
        let child = self.child.lock().unwrap().take();
        let said = self.said.lock().unwrap().take();
        let (Some(mut child), Some(mut said)) = (child, said) else {
            return Vec::new();
        };
        let reading = tokio::task::spawn_blocking(move || {
            let lines = std::iter::from_fn(|| next(&mut said));
            let records: Vec<_> = lines.map(|line| read(&line)).collect();
            assert!(child.wait().unwrap().success());
            records
        });
        let (earliest, latest) = self.began;
        let mut records = reading.await.unwrap();
        for record in &mut records {
            record.invoked += earliest;
            record.returned += latest;
        }
        records
    }
}

/// The next line of the protocol.
fn next(said: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    said.map_while(Result::ok)
        .find_map(|line| line.split_once(MARK).map(|(_, said)| said.to_owned()))
}

/// Runs the other process; `None` in a process that no test started as such.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub async fn live() -> Option<()> {
    let told = std::env::var(DATABASE).ok()?;
    recorded_logs::begin();
    let mut told = told.splitn(3, ' ');
    let seed: u64 = told.next()?.parse().unwrap();
    let caches: bool = told.next()?.parse().unwrap();
    let config: Config = told.next()?.parse().unwrap();
    let manager = PgConnector::new(config.clone(), NoTls).manager();
    let pool = Pool::builder(manager).max_size(2).build().unwrap();
    let mut process = Process::new(pool, config.clone());
    if caches {
        process.enable_cache(config).await;
    }
    println!("{MARK}ready");
    let mut lines = BufReader::new(std::io::stdin()).lines();
    lines.next()?.ok()?;
    let shared = Shared::new(Instant::now(), caches, None);
    println!("{MARK}begun");

    let listening = Arc::clone(&shared);
    std::thread::spawn(move || {
        let mut dice = Dice::new(seed);
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap();
            let known = Known {
                number: word().parse().unwrap(),
                user: word().parse().unwrap(),
                id: None,
                token: word().to_owned(),
            };
            listening.tell(known, &mut dice);
        }
        listening.stop.store(true, Relaxed);
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| {
            let dice = Dice::new(seed + 1000 + n);
            tokio::spawn(Worker::new(&shared, NUMBER, &process, dice).visit())
        })
        .collect();
    for worker in workers {
        for record in worker.await.unwrap() {
            println!("{MARK}{}", written(&record));
        }
    }
    process.sessions.close().await;
    Some(())
}

/// A record of a lookup or a revocation on one line.
fn written(record: &Record) -> String {
    let Key::Session(session) = record.key else {
        unreachable!("the other process uses sessions only");
    };
    let (result, user) = match record.result {
        Outcome::Found(user) => ("found", user),
        Outcome::Absent => ("absent", 0),
        Outcome::Done => ("done", 0),
        Outcome::Unavailable => ("unavailable", 0),
        Outcome::Unknown => ("unknown", 0),
        Outcome::Abandoned => ("abandoned", 0),
        other => unreachable!("{other:?}"),
    };
    format!(
        "{} {session} {} {} {result} {user} {}",
        u8::from(record.operation == Operation::Lookup),
        record.invoked.as_micros(),
        record.returned.as_micros(),
        record.value,
    )
}

fn read(line: &str) -> Record {
    let words: Vec<_> = line.split(' ').collect();
    let [lookup, session, invoked, returned, result, user, value] = words[..] else {
        unreachable!("{line}");
    };
    let time = |micros: &str| Duration::from_micros(micros.parse().unwrap());
    Record {
        process: Some(NUMBER),
        operation: match lookup {
            "1" => Operation::Lookup,
            _ => Operation::Revoke,
        },
        key: Key::Session(session.parse().unwrap()),
        invoked: time(invoked),
        returned: time(returned),
        result: match result {
            "found" => Outcome::Found(user.parse().unwrap()),
            "absent" => Outcome::Absent,
            "done" => Outcome::Done,
            "unavailable" => Outcome::Unavailable,
            "unknown" => Outcome::Unknown,
            _ => Outcome::Abandoned,
        },
        value: value.parse().unwrap(),
    }
}
