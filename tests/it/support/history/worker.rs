//! One task of a process: random operations, one after the other, each recorded.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tokio::time::timeout;
use tower_user_session::{
    CurrentSession, Error, ErrorKind,
    session::{Session, SessionTimestamps},
    tokio_postgres::Config,
};

use super::{
    dice::Dice,
    record::{Key, Operation, Outcome, Record},
    workload::{DEADLINE, Known, Process, Sessions, Shared, connect},
};
use crate::support::cookie;

/// The average pause between two operations of a worker.
const PAUSE: Duration = Duration::from_millis(4);
/// Users who sign in at the same time. A disabled user is replaced by another.
const ACTIVE_USERS: i64 = 40;

pub struct Worker {
    shared: Arc<Shared>,
    process: usize,
    sessions: Sessions,
    config: Config,
    dice: Dice,
    records: Vec<Record>,
}

impl Worker {
    /// Creates a worker of the process with this number.
    pub fn new(shared: &Arc<Shared>, number: usize, process: &Process, dice: Dice) -> Self {
        Self {
            shared: Arc::clone(shared),
            process: number,
            sessions: process.sessions.clone(),
            config: process.config.clone(),
            dice,
            records: Vec::new(),
        }
    }

    /// Only looks up sessions that others began, and ends some of them.
    pub async fn visit(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Relaxed) {
            tokio::time::sleep(PAUSE).await;
            match self.dice.below(50) {
                0 => self.revoke(true).await,
                _ => self.look_up().await,
            }
        }
        self.records
    }

    pub async fn work(mut self) -> Vec<Record> {
        while !self.shared.stop.load(Relaxed) {
            let pause = PAUSE.mul_f64(2.0 * self.dice.fraction());
            tokio::time::sleep(pause).await;
            match self.dice.below(self.shared.mix.operations) {
                0..12 => self.sign_in().await,
                12..16 => self.revoke(true).await,
                16..19 => self.revoke(false).await,
                19 => self.revoke_all().await,
                // Often enough that a session is updated more than once.
                21..28 => self.update().await,
                20 if self.dice.below(4) == 0 => match self.dice.below(3) {
                    0 => self.disable(Operation::Disable).await,
                    1 => self.disable(Operation::DisableSlowly).await,
                    _ => self.disable(Operation::Suspend).await,
                },
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
        let (result, value) = match answer {
            Some(Ok(Some(user))) => (Outcome::Found(user.id), user.value),
            Some(Ok(None)) => (Outcome::Absent, 0),
            Some(Err(_)) => (Outcome::Unavailable, 0),
            None => (Outcome::Abandoned, 0),
        };
        let key = Key::Session(known.number);
        self.record_with(Operation::Lookup, key, invoked, result, value);
    }

    async fn update(&mut self) {
        let Some(known) = self.pick() else { return };
        let Some(id) = known.id else { return };
        let session = Session::new(id, SessionTimestamps::at(SystemTime::now()));
        let value = 1 + self.shared.values.fetch_add(1, Relaxed);
        let current = CurrentSession::new(session);
        let update = self.sessions.update(&current).set("value", value);
        let (invoked, updated) = self.run(update).await;
        let key = Key::Session(known.number);
        self.record_with(Operation::Update, key, invoked, done(updated), value);
    }

    async fn sign_in(&mut self) {
        let user = self.user();
        // Some expire while the run lasts.
        let ends = self.dice.below(4) == 0;
        let limit = ends.then(|| Duration::from_secs(1 + self.dice.below(3)));
        // Some sign-ins present a session, which ends in the same step or not at all.
        let replaced = self.pick().filter(|_| self.dice.below(3) == 0);
        let headers = replaced.as_ref().map_or_else(HeaderMap::new, |replaced| {
            cookie(&self.sessions, &replaced.token())
        });
        let mut sign_in = self.sessions.sign_in(user, &headers);
        if let Some(limit) = limit {
            sign_in = sign_in.max_lifetime(limit);
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
                // After the operation returned, so that lookups of it are invoked later.
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

    /// An operator's change, outside of the library.
    async fn disable(&mut self, operation: Operation) {
        let user = self.user();
        let invoked = self.shared.now();
        let client = timeout(DEADLINE, connect(&self.config)).await;
        let result = match client {
            Ok(Some(client)) => {
                let update = match operation {
                    Operation::Suspend => "UPDATE tenants SET suspended_at = now() WHERE id = $1",
                    _ => "UPDATE users SET disabled_at = now() WHERE id = $1",
                };
                let slowly = operation == Operation::DisableSlowly;
                // Lookups must not wait long behind a schema change that waits for this
                // transaction.
                let pause = Duration::from_millis(if slowly { 400 } else { 0 });
                let change = async {
                    let mut client = client;
                    let transaction = client.transaction().await?;
                    transaction.execute(update, &[&user]).await?;
                    tokio::time::sleep(pause).await;
                    transaction.commit().await
                };
                match timeout(DEADLINE + pause, change).await {
                    Ok(Ok(())) => Outcome::Done,
                    _ => Outcome::Unknown,
                }
            }
            _ => Outcome::Unavailable,
        };
        self.shared.disabled.fetch_add(1, Relaxed);
        self.record(operation, Key::User(user), invoked, result);
    }

    /// Sometimes the client disconnects at a random moment and gets no result.
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
        self.record_with(operation, key, invoked, result, 0);
    }

    fn record_with(
        &mut self,
        operation: Operation,
        key: Key,
        invoked: Duration,
        result: Outcome,
        value: i64,
    ) {
        let record = Record {
            process: (!operation.is_an_operators()).then_some(self.process),
            operation,
            key,
            invoked,
            returned: self.shared.now(),
            result,
            value,
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
        ErrorKind::UserNotAllowed | ErrorKind::SessionNotFound => Outcome::Refused,
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
