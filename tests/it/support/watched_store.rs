//! A store in memory that counts its calls and can delay or falsify its results.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use tokio::sync::watch;
use tower_user_session::{
    Error, ErrorKind, SessionService,
    feed::DEFAULT_LEASE,
    session::{Lifetime, SessionId, SessionInfo, TokenDigest},
    store::{
        EndedSession, ExpiredBatch, InsertOutcome, LookupResult, MemoryConditions,
        MemorySessionStore, MemorySessionValues, NewSession, RemainingLifetime, RevokeScope,
        RotateOutcome, SessionLookup, SessionStore,
    },
};

use super::{recorded_logs, users::User};

/// A memory store that counts its calls and can hold its results back.
pub struct WatchedStore {
    memory: MemorySessionStore<i64, User>,
    finds: AtomicUsize,
    checks: AtomicUsize,
    steps: AtomicUsize,
    open: watch::Sender<bool>,
    bad_row: AtomicBool,
    astray: AtomicBool,
}

/// So long that a slow machine does not reach it.
const WATCHED_DEADLINE: Duration = Duration::from_secs(60);

pub type WatchedSessions = SessionService<WatchedStore>;

pub fn watched() -> WatchedSessions {
    watched_with_lease(DEFAULT_LEASE)
}

pub fn watched_with_lease(lease: Duration) -> WatchedSessions {
    recorded_logs::begin();
    let memory = MemorySessionStore::new();
    memory.add_user(1, User::ada());
    memory.add_user(2, User::eve());
    let store = WatchedStore {
        memory,
        finds: AtomicUsize::new(0),
        checks: AtomicUsize::new(0),
        steps: AtomicUsize::new(0),
        open: watch::Sender::new(true),
        bad_row: AtomicBool::new(false),
        astray: AtomicBool::new(false),
    };
    SessionService::builder(store)
        .deadline(WATCHED_DEADLINE)
        .lease(lease)
        .build()
        .unwrap()
}

impl WatchedStore {
    /// How often a lookup reached the store.
    pub fn finds(&self) -> usize {
        self.finds.load(SeqCst)
    }

    /// How often the store was queried for live sessions.
    pub fn checks(&self) -> usize {
        self.checks.load(SeqCst)
    }

    /// Sets how often a lookup yields to other tasks before it returns.
    pub fn take_steps(&self, steps: usize) {
        self.steps.store(steps, SeqCst);
    }

    /// Sets whether lookups return at once or wait.
    pub fn answer(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// From now on, a deletion ends nothing and returns another session.
    pub fn delete_another_session(&self) {
        self.astray.store(true, SeqCst);
    }

    /// From now on, a lookup of more than one token fails at once, as with an unreadable row.
    pub fn fail_batches(&self) {
        self.bad_row.store(true, SeqCst);
    }
}

impl Deref for WatchedStore {
    type Target = MemorySessionStore<i64, User>;

    fn deref(&self) -> &Self::Target {
        &self.memory
    }
}

impl SessionLookup for WatchedStore {
    type User = User;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<User>>, Error> {
        self.finds.fetch_add(1, SeqCst);
        if digests.len() > 1 && self.bad_row.load(SeqCst) {
            return Err(Error::new(ErrorKind::Decode, "made up"));
        }
        for _ in 0..self.steps.load(SeqCst) {
            tokio::task::yield_now().await;
        }
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.memory.find(digests).await
    }
}

impl SessionStore for WatchedStore {
    type UserId = i64;
    type Condition = MemoryConditions;
    type SessionValues = MemorySessionValues;

    fn lifetime(&self) -> Lifetime {
        self.memory.lifetime()
    }

    async fn insert(&self, session: NewSession<'_, Self>) -> Result<InsertOutcome, Error> {
        let mut new = NewSession::new(
            session.digest,
            session.user_id,
            session.condition,
            session.lifetime,
        );
        new.replaced = session.replaced;
        self.memory.insert(new).await
    }

    async fn rotate(
        &self,
        user_id: &i64,
        old: &[TokenDigest],
        new: TokenDigest,
        values: &MemorySessionValues,
    ) -> Result<RotateOutcome, Error> {
        self.memory.rotate(user_id, old, new, values).await
    }

    async fn delete(&self, digests: &[TokenDigest]) -> Result<Vec<EndedSession>, Error> {
        if self.astray.load(SeqCst) {
            let another = TokenDigest::from_bytes([7; 32]);
            let session = SessionId::from_bytes([7; 16]);
            return Ok(vec![EndedSession::new(another, session)]);
        }
        self.memory.delete(digests).await
    }

    async fn list(&self, user_id: &i64) -> Result<Vec<SessionInfo>, Error> {
        self.memory.list(user_id).await
    }

    async fn revoke(&self, user_id: &i64, which: RevokeScope) -> Result<Vec<SessionId>, Error> {
        self.memory.revoke(user_id, which).await
    }

    async fn revoke_everyone(&self) -> Result<u64, Error> {
        self.memory.revoke_everyone().await
    }

    async fn remaining_lifetimes(
        &self,
        ids: &[SessionId],
    ) -> Result<Vec<RemainingLifetime>, Error> {
        self.checks.fetch_add(1, SeqCst);
        self.memory.remaining_lifetimes(ids).await
    }

    async fn delete_expired(&self, place: Option<u64>) -> Result<ExpiredBatch, Error> {
        self.memory.delete_expired(place).await
    }
}
