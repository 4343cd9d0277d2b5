//! Processes that sign in, look up and revoke at random, and write down what they saw.

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
    Error, ErrorKind, PgSessionStore, SessionId, SessionService, SessionToken,
    tokio_postgres::{Client, Config, NoTls},
};

use super::{
    checker::{Fault, History, Key, Operation, Outcome, Record},
    other_process::OtherProcess,
};
use crate::support::{PgSessions, USERS, cookie};

/// Longer than any statement takes on a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(1);
const WORKERS: usize = 4;
/// Between two operations of a worker, on average.
const PAUSE: Duration = Duration::from_millis(4);
/// Sessions that are asked about; the ended ones among them.
const REMEMBERED: usize = 400;
/// Users who sign in at the same time. One who is disabled makes room for another.
const ACTIVE_USERS: i64 = 40;

/// Enough users for a long run.
pub fn users() -> String {
    format!(
        "{USERS}
        INSERT INTO users (id, email)
        SELECT n, n || '@example.com' FROM generate_series(3, 20000) AS n;"
    )
}

/// What an instance of an application has: a pool and a service of its own.
pub struct Process {
    pub sessions: PgSessions,
    pub pool: Pool,
    /// How an operator reaches the same database.
    pub config: Config,
}

impl Process {
    pub fn new(pool: Pool, config: Config) -> Self {
        let store = PgSessionStore::new(pool.clone());
        let builder = SessionService::builder(store).deadline(DEADLINE);
        Self {
            sessions: builder.build().unwrap(),
            pool,
            config,
        }
    }
}

/// A session that the processes know of, whether it is live or not.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) user: i64,
    /// Not told to other processes of the operating system.
    pub(super) id: Option<SessionId>,
    pub(super) token: String,
}

impl Known {
    fn token(&self) -> SessionToken {
        SessionToken::parse(self.token.as_bytes()).unwrap()
    }
}

pub(super) struct Shared {
    start: Instant,
    pub(super) stop: AtomicBool,
    known: Mutex<Vec<Known>>,
    numbers: AtomicU32,
    disabled: AtomicI64,
    /// When the last operation was invoked that failed, in microseconds.
    last_error: AtomicU64,
    /// Who else is told of sessions.
    other: Option<OtherProcess>,
}

impl Shared {
    pub(super) fn new(start: Instant, other: Option<OtherProcess>) -> Arc<Self> {
        Arc::new(Self {
            start,
            stop: AtomicBool::new(false),
            known: Mutex::default(),
            numbers: AtomicU32::new(0),
            disabled: AtomicI64::new(0),
            last_error: AtomicU64::new(0),
            other,
        })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Lets every worker know of a session; one that is known already makes room, at random.
    pub(super) fn tell(&self, known: Known, dice: &mut Dice) {
        if let Some(other) = &self.other {
            other.tell(&known);
        }
        let mut all = self.known.lock().unwrap();
        if all.len() < REMEMBERED {
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
}

impl Workload {
    /// Sets the processes to work, and beside them one of the operating system that looks up what they
    /// have begun, and ends some of it.
    pub async fn start(processes: &[Process], seed: u64) -> Self {
        let start = Instant::now();
        let config = processes[0].config.clone();
        let other = OtherProcess::start(start, &config, seed).await;
        let shared = Shared::new(start, Some(other));
        let mut workers = Vec::new();
        for process in processes {
            for _ in 0..WORKERS {
                let dice = Dice::new(seed + workers.len() as u64);
                let worker = Worker::new(&shared, process, dice);
                workers.push(tokio::spawn(worker.work()));
            }
        }
        workers.push(tokio::spawn(watch_clock(Arc::clone(&shared), config)));
        Self {
            shared,
            workers,
            faults: Vec::new(),
        }
    }

    /// By the clock of the records.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Something was broken from then until now. Returns when nothing has failed for a while since, or
    /// when that took too long.
    pub async fn broken(&mut self, name: &'static str, from: Duration) {
        let to = self.now();
        self.faults.push(Fault { name, from, to });
        let quiet = Duration::from_millis(500);
        loop {
            let error = Duration::from_micros(self.shared.last_error.load(Relaxed));
            let now = self.now();
            if now > to + 2 * super::checker::RECOVERY || now > error.max(to) + quiet {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(self) -> History {
        self.shared.stop.store(true, Relaxed);
        let mut history = History {
            faults: self.faults,
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

pub(super) struct Worker {
    shared: Arc<Shared>,
    sessions: PgSessions,
    config: Config,
    dice: Dice,
    records: Vec<Record>,
}

impl Worker {
    pub(super) fn new(shared: &Arc<Shared>, process: &Process, dice: Dice) -> Self {
        Self {
            shared: Arc::clone(shared),
            sessions: process.sessions.clone(),
            config: process.config.clone(),
            dice,
            records: Vec::new(),
        }
    }

    /// Only asks about what others have begun, and ends some of it.
    pub(super) async fn visit(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Relaxed) {
            tokio::time::sleep(PAUSE).await;
            match self.dice.below(50) {
                0 => self.revoke(true).await,
                _ => self.look_up().await,
            }
        }
        self.records
    }

    pub(super) async fn work(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Relaxed) {
            let pause = PAUSE.mul_f64(2.0 * self.dice.fraction());
            tokio::time::sleep(pause).await;
            match self.dice.below(100) {
                0..12 => self.sign_in().await,
                12..16 => self.revoke(true).await,
                16..19 => self.revoke(false).await,
                19 => self.revoke_all().await,
                20 if self.dice.below(4) == 0 => self.disable().await,
                _ => self.look_up().await,
            }
        }
        self.records
    }

    async fn look_up(&mut self) {
        let Some(known) = self.pick() else { return };
        let token = known.token();
        let sessions = self.sessions.clone();
        let (invoked, answer) = self.run(sessions.user(&token)).await;
        let result = match answer {
            Some(Ok(Some(user))) => Outcome::Found(user.id),
            Some(Ok(None)) => Outcome::Nobody,
            Some(Err(_)) => Outcome::Unavailable,
            None => Outcome::Abandoned,
        };
        self.record(
            Operation::Lookup,
            Key::Session(known.number),
            invoked,
            result,
        );
    }

    async fn sign_in(&mut self) {
        let user = self.user();
        let mut sign_in = self.sessions.sign_in(user);
        if self.dice.below(4) == 0 {
            // Some end of themselves while the run lasts.
            sign_in = sign_in.at_most(Duration::from_secs(1 + self.dice.below(3)));
        }
        // Some come with a session, which ends in the same step or not at all.
        let replaced = self.pick().filter(|_| self.dice.below(3) == 0);
        if let Some(replaced) = &replaced {
            sign_in = sign_in.request(&cookie(&self.sessions, &replaced.token()));
        }
        let number = self.shared.numbers.fetch_add(1, Relaxed);
        let (invoked, signed_in) = self.run(sign_in).await;
        if let Some(replaced) = replaced {
            let result = match &signed_in {
                Some(Ok(_)) => Outcome::Done,
                Some(Err(error)) => of_write(error),
                None => Outcome::Abandoned,
            };
            self.record(
                Operation::Revoke,
                Key::Session(replaced.number),
                invoked,
                result,
            );
        }
        let (key, result) = match signed_in {
            Some(Ok(signed_in)) => {
                let session = signed_in.session();
                let known = Known {
                    number,
                    user,
                    id: Some(session.id()),
                    token: signed_in.token().expose(),
                };
                let expires = session.times().expires_at;
                self.record(
                    Operation::SignIn,
                    Key::Session(number),
                    invoked,
                    Outcome::Began { user, expires },
                );
                // Only now, so that whoever learns of it asks after this has returned.
                self.shared.tell(known, &mut self.dice);
                return;
            }
            Some(Err(error)) => (Key::User(user), of_write(&error)),
            None => (Key::User(user), Outcome::Abandoned),
        };
        self.record(Operation::SignIn, key, invoked, result);
    }

    async fn revoke(&mut self, by_signing_out: bool) {
        let Some(known) = self.pick() else { return };
        let number = known.number;
        let sessions = self.sessions.clone();
        let (invoked, revoked) = self
            .run(async move {
                if let Some(id) = known.id.filter(|_| !by_signing_out) {
                    return sessions.revoke(&known.user, id).await.map(drop);
                }
                let headers = cookie(&sessions, &known.token());
                let signed_out = sessions.sign_out(&headers).await;
                signed_out.ended().map(drop).map_err(Clone::clone)
            })
            .await;
        self.record(
            Operation::Revoke,
            Key::Session(number),
            invoked,
            done(revoked),
        );
    }

    async fn revoke_all(&mut self) {
        let user = self.user();
        let sessions = self.sessions.clone();
        let (invoked, revoked) = self
            .run(async move { sessions.revoke_all(&user).await.map(drop) })
            .await;
        self.record(
            Operation::RevokeAll,
            Key::User(user),
            invoked,
            done(revoked),
        );
    }

    /// As an operator does it: past the library.
    async fn disable(&mut self) {
        let user = self.user();
        let invoked = self.shared.now();
        let client = timeout(DEADLINE, connect(&self.config)).await;
        let result = match client {
            Ok(Some(client)) => {
                let update = "UPDATE users SET disabled_at = now() WHERE id = $1";
                match timeout(DEADLINE, client.execute(update, &[&user])).await {
                    Ok(Ok(_)) => Outcome::Done,
                    _ => Outcome::Unknown,
                }
            }
            _ => Outcome::Unavailable,
        };
        self.shared.disabled.fetch_add(1, Relaxed);
        self.record(Operation::Disable, Key::User(user), invoked, result);
    }

    /// Sometimes the client goes away at a random moment: no answer then.
    async fn run<F: IntoFuture>(&mut self, operation: F) -> (Duration, Option<F::Output>) {
        let patience = match self.dice.below(15) {
            0 => Duration::from_micros(self.dice.below(3000)),
            _ => Duration::from_secs(60),
        };
        let invoked = self.shared.now();
        let operation = operation.into_future();
        (invoked, timeout(patience, operation).await.ok())
    }

    fn record(&mut self, operation: Operation, key: Key, invoked: Duration, result: Outcome) {
        let record = Record {
            operation,
            key,
            invoked,
            returned: self.shared.now(),
            result,
        };
        note_error(&self.shared, &record);
        self.records.push(record);
    }

    fn pick(&mut self) -> Option<Known> {
        let known = self.shared.known.lock().unwrap();
        let at = (!known.is_empty()).then(|| self.dice.index(known.len()))?;
        Some(known[at].clone())
    }

    fn user(&mut self) -> i64 {
        let first = 1 + self.shared.disabled.load(Relaxed);
        first + i64::try_from(self.dice.below(ACTIVE_USERS.unsigned_abs())).unwrap()
    }
}

fn done(result: Option<Result<(), Error>>) -> Outcome {
    match result {
        Some(Ok(())) => Outcome::Done,
        Some(Err(error)) => of_write(&error),
        None => Outcome::Abandoned,
    }
}

fn of_write(error: &Error) -> Outcome {
    match error.kind() {
        ErrorKind::UserRefused => Outcome::Refused,
        _ if error.is_outcome_unknown() => Outcome::Unknown,
        _ => Outcome::Unavailable,
    }
}

fn note_error(shared: &Shared, record: &Record) {
    if record.result.is_error() {
        let invoked = u64::try_from(record.invoked.as_micros()).unwrap();
        shared.last_error.fetch_max(invoked, Relaxed);
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
            operation: Operation::Clock,
            key: Key::Nothing,
            invoked,
            returned: shared.now(),
            result: Outcome::Time(row.get(0)),
        });
    }
    records
}

/// A connection, if there is one to be had.
pub async fn connect(config: &Config) -> Option<Client> {
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xA076_1D64_78BD_642F))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 20)).unwrap()) / f64::from(1 << 20)
    }
}
