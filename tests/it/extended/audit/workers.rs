//! Tasks that begin, rotate and end sessions, and count what they know of the result.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::timeout;
use tower_user_session::{Error, SignedIn, tokio_postgres::Config};

use crate::support::{
    cookie,
    history::{
        dice::Dice,
        workload::{DEADLINE, Process, Sessions, connect},
    },
};

/// The lifetime of some sessions.
const SHORT: Duration = Duration::from_secs(1);

/// What the workers know.
#[derive(Default)]
pub struct Ledger {
    /// The sessions of acknowledged operations.
    pub began: Mutex<Vec<String>>,
    pub rotated: Mutex<Vec<String>>,
    pub ended: Mutex<Vec<String>>,
    /// Operations that may have happened.
    pub unknown_begins: AtomicI64,
    pub unknown_rotations: AtomicI64,
    pub stop: AtomicBool,
}

pub struct Worker {
    ledger: Arc<Ledger>,
    sessions: Sessions,
    config: Config,
    dice: Dice,
    /// No other worker has this user.
    user: i64,
}

impl Worker {
    pub fn new(ledger: &Arc<Ledger>, process: &Process, number: usize) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            sessions: process.sessions.clone(),
            config: process.config.clone(),
            dice: Dice::new(number as u64),
            user: 1 + i64::try_from(number).unwrap(),
        }
    }

    pub async fn work(mut self) {
        let mut replaced = None;
        while !self.ledger.stop.load(Relaxed) {
            let Some(mut session) = self.begin(replaced.take()).await else {
                // A fault is active.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            if self.dice.below(4) == 0 {
                // If the outcome is unknown, so is the token.
                let Some(rotated) = self.rotate(&session).await else {
                    continue;
                };
                session = rotated;
            }
            replaced = self.end(session).await;
        }
    }

    async fn begin(&mut self, replaced: Option<SignedIn>) -> Option<SignedIn> {
        let headers = replaced.as_ref().map_or_else(HeaderMap::new, |replaced| {
            cookie(&self.sessions, replaced.token())
        });
        let mut sign_in = self.sessions.sign_in(self.user, &headers);
        if self.dice.below(10) == 0 {
            sign_in = sign_in.max_lifetime(SHORT);
        }
        let Some(Ok(signed_in)) = self.run(sign_in).await else {
            self.ledger.unknown_begins.fetch_add(1, Relaxed);
            return None;
        };
        self.ledger.began.lock().unwrap().push(id(&signed_in));
        if let Some(replaced) = replaced.filter(|replaced| !is_short(replaced)) {
            self.ledger.ended.lock().unwrap().push(id(&replaced));
        }
        Some(signed_in)
    }

    async fn rotate(&mut self, session: &SignedIn) -> Option<SignedIn> {
        let headers = cookie(&self.sessions, session.token());
        let rotated = self.sessions.reauthenticate(self.user, &headers);
        let Some(Ok(rotated)) = self.run(rotated).await else {
            self.ledger.unknown_rotations.fetch_add(1, Relaxed);
            return None;
        };
        self.ledger.rotated.lock().unwrap().push(id(&rotated));
        Some(rotated)
    }

    /// Ends the session, or returns it so that the next sign-in replaces it. Some sessions stay until
    /// their limit or until all sessions of the user end.
    async fn end(&mut self, session: SignedIn) -> Option<SignedIn> {
        let (sessions, user) = (self.sessions.clone(), self.user);
        let session_id = session.session().id();
        let ended = match self.dice.below(12) {
            0..3 => {
                let headers = cookie(&sessions, session.token());
                let sign_out = async move {
                    let signed_out = sessions.sign_out(&headers).await;
                    signed_out.ended().map_err(Clone::clone)
                };
                let ended = self.run(sign_out).await;
                ended
                    .filter(|ended| !matches!(ended, Ok(false)))
                    .map(|ended| ended.map(drop))
            }
            3..6 => {
                let revoke = async move { sessions.revoke(&user, session_id).await.map(drop) };
                self.run(revoke).await
            }
            6 => {
                let revoke = async move { sessions.revoke_all(&user).await.map(drop) };
                self.run(revoke).await
            }
            7 => self.delete(&id(&session)).await,
            8 => {
                let _ = self
                    .run(async move { sessions.delete_expired().await })
                    .await;
                None
            }
            9 => None,
            _ => return Some(session),
        };
        if matches!(ended, Some(Ok(()))) {
            self.ledger.ended.lock().unwrap().push(id(&session));
        }
        None
    }

    /// An operator's statement, outside of the library.
    async fn delete(&self, id: &str) -> Option<Result<(), Error>> {
        let delete = format!("DELETE FROM sessions WHERE id = '{id}'");
        let deleted = timeout(DEADLINE, async {
            let client = connect(&self.config).await?;
            client.batch_execute(&delete).await.ok()
        });
        deleted.await.ok().flatten().map(Ok)
    }

    /// Sometimes the client disconnects at a random moment and gets no result.
    async fn run<F: IntoFuture>(&mut self, operation: F) -> Option<F::Output> {
        let patience = match self.dice.below(15) {
            0 => Duration::from_micros(self.dice.below(3000)),
            _ => Duration::from_secs(60),
        };
        timeout(patience, operation.into_future()).await.ok()
    }
}

/// Whether a sign-in that replaces the session may find it expired.
fn is_short(signed_in: &SignedIn) -> bool {
    let times = signed_in.session().times();
    times.created_at + SHORT >= times.expires_at
}

fn id(signed_in: &SignedIn) -> String {
    signed_in.session().id().to_string()
}
