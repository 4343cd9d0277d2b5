//! Processes that sign in, look up and revoke at random, and record the results.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use tokio::{task::JoinHandle, time::timeout};
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService,
    postgres::PgConnector,
    session::{SessionId, SessionToken},
    tokio_postgres::{Client, Config, NoTls},
};

use super::{
    checker::RECOVERY,
    dice::Dice,
    other_process::OtherProcess,
    record::{Fault, History, Key, Operation, Outcome, Record},
    worker::Worker,
};
use crate::support::{PgSessions, USERS};

pub type Sessions = PgSessions<Member>;

/// A user is valid depending on the user's row and on a joined one.
#[derive(Clone)]
pub struct Member {
    pub id: i64,
    pub value: i64,
}

impl PgUser for Member {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = &["value"];
    const COLUMNS: &'static str = "u.id, u.email, u.role";
    const FROM: &'static str = "users AS u JOIN tenants AS t ON t.id = u.id";
    const CONDITION: &'static str = "u.disabled_at IS NULL AND t.suspended_at IS NULL";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self {
            id: row.user().get("id")?,
            value: row.session().get("value")?,
        })
    }
}

/// Longer than any statement takes on a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(1);
const WORKERS: usize = 4;
/// The lease of processes with a cache.
pub const LEASE: Duration = Duration::from_millis(400);
/// With a notification, a cached result is used for at most the lease after it was sent. The rest
/// allows for a process that is not scheduled.
pub const BOUND: Duration = LEASE.saturating_add(SLACK);
const SLACK: Duration = Duration::from_millis(50);
/// After this time these processes look a cached result up again.
pub const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the workers do each operation.
#[derive(Clone, Copy)]
pub struct Mix {
    /// Twelve of this many operations are sign-ins, and most of the others lookups.
    pub operations: u64,
    /// How many sessions are looked up, including ended ones.
    remembered: usize,
}

const MIX: Mix = Mix {
    operations: 100,
    remembered: 400,
};
/// A session is looked up more than once while it lives, and also soon after it has ended.
const MIX_WITH_CACHE: Mix = Mix {
    operations: 300,
    remembered: 100,
};

/// Enough users for a long run.
pub fn users() -> String {
    format!(
        "{USERS}
        INSERT INTO users (id, email)
        SELECT n, n || '@example.com' FROM generate_series(3, 20000) AS n;
        CREATE TABLE tenants (id bigint PRIMARY KEY, suspended_at timestamptz);
        INSERT INTO tenants SELECT n FROM generate_series(1, 20000) AS n;"
    )
}

/// Adds the session column that [`Member`] has.
pub const ADD_VALUE: &str = "ALTER TABLE sessions ADD COLUMN value bigint NOT NULL DEFAULT 0";

/// An instance of an application: a pool and a service of its own.
pub struct Process {
    pub sessions: Sessions,
    pub pool: Pool,
    /// How an operator connects to the same database.
    pub config: Config,
    caches: bool,
}

impl Process {
    pub fn new(pool: Pool, config: Config) -> Self {
        let store = PgSessionStore::new(pool.clone());
        let builder = SessionService::builder(store).deadline(DEADLINE);
        Self {
            sessions: builder
                .lease(LEASE)
                .recheck_interval(RECHECK_INTERVAL)
                .build()
                .unwrap(),
            pool,
            config,
            caches: false,
        }
    }

    /// Adds a cache, which follows a feed over this connection.
    pub async fn enable_cache(&mut self, feed: Config) {
        let feed = self
            .sessions
            .store()
            .feed_with(&PgConnector::new(feed, NoTls));
        self.sessions.enable_cache(feed, 1_000).await.unwrap();
        self.caches = true;
    }
}

/// A session that the processes know of, live or not.
#[derive(Clone)]
pub struct Known {
    pub number: u32,
    pub user: i64,
    /// Not sent to other processes of the operating system.
    pub id: Option<SessionId>,
    pub token: String,
}

impl Known {
    pub fn token(&self) -> SessionToken {
        SessionToken::parse(self.token.as_bytes()).unwrap()
    }
}

pub struct Shared {
    start: Instant,
    pub mix: Mix,
    pub stop: AtomicBool,
    pub known: Mutex<Vec<Known>>,
    pub numbers: AtomicU32,
    /// The last value that an update wrote.
    pub values: AtomicI64,
    pub disabled: AtomicI64,
    /// When the last failed operation was invoked, in microseconds.
    pub last_error: AtomicU64,
    /// The other process, which receives sessions too.
    other: Option<OtherProcess>,
}

impl Shared {
    pub fn new(start: Instant, caches: bool, other: Option<OtherProcess>) -> Arc<Self> {
        Arc::new(Self {
            start,
            mix: if caches { MIX_WITH_CACHE } else { MIX },
            stop: AtomicBool::new(false),
            known: Mutex::default(),
            numbers: AtomicU32::new(0),
            values: AtomicI64::new(0),
            disabled: AtomicI64::new(0),
            last_error: AtomicU64::new(0),
            other,
        })
    }

    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Makes a session known to each worker. If there are too many, a random known one is replaced.
    pub fn tell(&self, known: Known, dice: &mut Dice) {
        if let Some(other) = &self.other {
            other.tell(&known);
        }
        let mut all = self.known.lock().unwrap();
        if all.len() < self.mix.remembered {
            all.push(known);
        } else {
            let at = dice.index(all.len());
            all[at] = known;
        }
    }
}

pub struct Workload {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Vec<Record>>>,
    faults: Vec<Fault>,
    bound: Duration,
}

impl Workload {
    /// Starts the processes, and a second process of the operating system that looks up their
    /// sessions and ends some of them. It has a cache if they do.
    pub async fn start(processes: &[Process], seed: u64) -> Self {
        let start = Instant::now();
        let config = processes[0].config.clone();
        let caches = processes[0].caches;
        let other = OtherProcess::start(start, &config, caches, seed).await;
        let shared = Shared::new(start, caches, Some(other));
        let mut workers = Vec::new();
        for (number, process) in processes.iter().enumerate() {
            for _ in 0..WORKERS {
                let dice = Dice::new(seed + workers.len() as u64);
                let worker = Worker::new(&shared, number, process, dice);
                workers.push(tokio::spawn(worker.work()));
            }
        }
        workers.push(tokio::spawn(watch_clock(Arc::clone(&shared), config)));
        Self {
            shared,
            workers,
            faults: Vec::new(),
            bound: if caches { BOUND } else { Duration::ZERO },
        }
    }

    /// The current time by the clock of the records.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Records a fault from then until now. Returns when no operation has failed for a while since,
    /// or when that took too long.
    pub async fn broken(&mut self, name: &'static str, from: Duration) {
        let to = self.now();
        self.faults.push(Fault { name, from, to });
        let quiet = if self.bound.is_zero() { 500 } else { 300 };
        let quiet = Duration::from_millis(quiet);
        loop {
            let error = Duration::from_micros(self.shared.last_error.load(Relaxed));
            let now = self.now();
            if now > to + 2 * RECOVERY || now > error.max(to) + quiet {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(self) -> History {
        self.shared.stop.store(true, Relaxed);
        let mut history = History {
            faults: self.faults,
            bound: self.bound,
            unannounced: if self.bound.is_zero() {
                Duration::ZERO
            } else {
                RECHECK_INTERVAL + SLACK
            },
            ..History::default()
        };
        for worker in self.workers {
            history.records.extend(worker.await.unwrap());
        }
        if let Some(other) = &self.shared.other {
            history.records.extend(other.stop().await);
        }
        history.records.sort_by_key(|record| record.invoked);
        history
    }
}

/// Reads the database's clock while it can.
async fn watch_clock(shared: Arc<Shared>, config: Config) -> Vec<Record> {
    let mut records = Vec::new();
    let mut client = None;
    while !shared.stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if client.is_none() {
            client = timeout(DEADLINE, connect(&config)).await.ok().flatten();
        }
        let Some(connected) = &client else { continue };
        let invoked = shared.now();
        let read = timeout(
            DEADLINE,
            connected.query_one("SELECT clock_timestamp()", &[]),
        );
        let Ok(Ok(row)) = read.await else {
            client = None;
            continue;
        };
        records.push(Record {
            process: None,
            operation: Operation::Clock,
            key: Key::Nothing,
            invoked,
            returned: shared.now(),
            result: Outcome::Time(row.get(0)),
            value: 0,
        });
    }
    records
}

/// A connection, if one can be opened.
pub async fn connect(config: &Config) -> Option<Client> {
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
