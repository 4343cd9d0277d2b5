//! Connections of the store, and the transactions that run on them.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::{
    join,
    sync::{Semaphore, SemaphorePermit},
};
use tokio_postgres::{Row, error::SqlState};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connection_set::{ConnectionSet, Deadline, PooledConnection, before_deadline, open_new},
        counters::StoreCounters,
        errors,
        fence::{Fence, Follower, Gate, Server},
        pipelines::Pipelines,
        sql::{
            execution::{
                Bounds, Execution, Executor, FIRST_LOCK_TIMEOUT, lookup_settings, write_settings,
            },
            statement::{Statement, Values},
        },
        user_queue::{UserQueues, WritePermit},
    },
    store::lookup::{MAX_CONCURRENT_LOOKUPS, STATEMENTS_PER_CONNECTION},
};

pub(super) const WRITE_CONNECTIONS: usize = 2;

/// The most connections for lookups in one process.
const MAX_LOOKUP_CONNECTIONS: usize = 8;

/// Returns how many connections may serve lookups: half as many as the pool may have, because its
/// size says what the server has for this process. Those beyond the second are opened only if the
/// server is at a distance.
fn lookup_connections(pool_size: usize) -> usize {
    (pool_size / 2).clamp(MAX_CONCURRENT_LOOKUPS, MAX_LOOKUP_CONNECTIONS)
}

/// The expected lock state of the rows of a single statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Unlocked,
    /// Another transaction holds locks on the rows.
    Locked,
}

#[derive(Debug)]
pub(super) struct Connections {
    pool: Pool,
    deadline: Deadline,
    pub(super) lookups: Pipelines,
    pub(super) writes: ConnectionSet,
    /// The connection for deleting expired sessions in batches; closed after each round.
    pub(super) cleanup: ConnectionSet,
    fence: Fence,
    _idle_in_pool: Arc<IdleInPool>,
    user_queues: UserQueues,
    lock_waiters: Semaphore,
    pub(super) counters: Arc<StoreCounters>,
}

impl Connections {
    /// Creates the sets. Behind a transaction pooler, no setting outlives a transaction. Therefore
    /// the store sets none.
    pub(super) fn new(pool: Pool, execution: &Execution, writes: usize) -> Self {
        let deadline = Deadline::default();
        let fence = Fence::default();
        let idle_in_pool = Arc::new(IdleInPool {
            pool: pool.clone(),
            deadline: deadline.clone(),
        });
        fence.follow(&idle_in_pool);
        let counters = Arc::default();
        let set = |settings: fn(Duration) -> String, size, with_backoff| {
            let settings = execution.has_settings().then_some(settings);
            let (pool, deadline) = (pool.clone(), deadline.clone());
            ConnectionSet::new(
                pool,
                deadline,
                &fence,
                settings,
                size,
                with_backoff,
                &counters,
            )
        };
        let lookups = lookup_connections(pool.status().max_size);
        // A pooler may give each statement to another server connection.
        let depth = if execution.has_settings() {
            STATEMENTS_PER_CONNECTION
        } else {
            1
        };
        Self {
            lookups: Pipelines::new(set(lookup_settings, lookups, true), depth),
            writes: set(write_settings, writes.max(WRITE_CONNECTIONS), false),
            cleanup: set(write_settings, 1, false),
            user_queues: UserQueues::default(),
            lock_waiters: Semaphore::new(1),
            fence,
            _idle_in_pool: idle_in_pool,
            counters,
            deadline,
            pool,
        }
    }

    pub(super) const fn fence(&self) -> &Fence {
        &self.fence
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Applies the service's deadline to the settings of the connections.
    pub(super) fn set_deadline(&self, deadline: Duration) {
        if self.deadline.set(deadline) {
            self.lookups.renew();
            self.writes.renew();
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline.get()
    }

    pub(super) fn close(&self) {
        self.lookups.close();
        self.writes.close();
        self.cleanup.close();
    }

    /// Opens the connections for lookups and writes. An exhausted pool then stops neither lookups
    /// nor writes.
    pub(super) async fn fill(&self) -> Result<(), Error> {
        self.lookups.fill().await?;
        self.writes.fill(self.writes.size()).await
    }

    /// Waits until the earlier writes of this user have ended. See [`UserQueues`].
    pub(super) async fn queue_write(&self, user: &impl Debug) -> Result<WritePermit<'_>, Error> {
        let permit = self.user_queues.acquire(user);
        before_deadline(
            &self.deadline,
            permit,
            "the write timed out: an earlier write of the same user has not ended",
        )
        .await
    }

    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts {
            connections: self,
            lock_wait_permit: None,
            rolled_back: false,
            renewed: false,
            reconnected: false,
        }
    }

    /// Acquires a connection for a transaction. Its first statements must begin it.
    pub(super) async fn transaction(
        &self,
        attempts: &mut Attempts<'_>,
    ) -> Result<StoreTransaction, Error> {
        loop {
            match self.writes.acquire().await {
                Ok(connection) => {
                    let bounds = attempts.bounds();
                    return Ok(StoreTransaction { connection, bounds });
                }
                Err(error) if attempts.should_retry(&error).await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs one statement in one round trip. If the settings of the connection suffice for the
    /// statement, it runs without an explicit transaction.
    pub(super) async fn run_single(
        &self,
        execution: &Execution,
        statement: &Statement,
        values: Values<'_>,
        access: Access,
    ) -> Result<Vec<Row>, Error> {
        let mut attempts = self.attempts();
        if access == Access::Locked {
            attempts.become_only_lock_waiter().await;
        }
        loop {
            let is_short_wait = attempts.lock_wait_permit.is_none();
            // Without the settings of the connection, a policy would hide rows from a statement
            // that reads.
            let settings_suffice = is_short_wait && execution.has_settings();
            let bounds = (!settings_suffice).then(|| attempts.bounds());
            let outcome = run_single(&self.writes, execution, bounds, statement, values).await;
            match outcome {
                Err(error) if attempts.should_retry(&error).await => {}
                outcome => return self.with_recovery_cause(outcome).await,
            }
        }
    }

    /// Determines why a write was rejected: a replica rejects writes, and so does a primary whose
    /// transactions are read-only. Only the server can distinguish the two causes.
    pub(super) async fn with_recovery_cause<T>(
        &self,
        outcome: Result<T, Error>,
    ) -> Result<T, Error> {
        match outcome {
            Err(error) if error.kind() == ErrorKind::ReadOnly => {
                let in_recovery = async {
                    let connection = self.writes.acquire().await.ok()?;
                    let row =
                        connection.query_typed_one("SELECT pg_catalog.pg_is_in_recovery()", &[]);
                    row.await.ok()?.try_get(0).ok()
                };
                Err(match in_recovery.await {
                    Some(true) => Error::new(ErrorKind::Recovery, error),
                    _ => error,
                })
            }
            outcome => outcome,
        }
    }

    /// Opens a connection for a task without a deadline. It is closed when the task ends.
    pub(super) async fn open_new(&self) -> Result<(ClientWrapper, Gate), Error> {
        let client = open_new(&self.pool).await?;
        let gate = Gate::new(&self.fence, &client, true).await?;
        Ok((client, gate))
    }
}

/// The idle connections of the application's pool. If another primary responds, they are closed.
#[derive(Debug)]
struct IdleInPool {
    pool: Pool,
    deadline: Deadline,
}

impl Follower for IdleInPool {
    fn primary_changed(&self) {
        let changed = Instant::now();
        self.pool.retain(|_, _| false);
        // A connection in use returns to the pool later.
        let (pool, delay) = (self.pool.clone(), self.deadline.get());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            pool.retain(|_, metrics| metrics.created > changed);
        });
    }
}

/// Runs one statement on a connection of this set. If `bounds` are given, it runs in its own
/// transaction.
pub(super) async fn run_single(
    set: &ConnectionSet,
    execution: &Execution,
    bounds: Option<Bounds>,
    statement: &Statement,
    values: Values<'_>,
) -> Result<Vec<Row>, Error> {
    let connection = set.acquire().await?;
    let executor = Executor::connection(&connection);
    let gate = &connection.gate;
    let outcome = if let Some(bounds) = bounds {
        let rows = execution.query_in_transaction(executor, gate, bounds, statement, values);
        rows.await
    } else {
        let rows = execution.query(executor, statement, values);
        let (server, rows) = join!(biased; gate.server(&connection), rows);
        server.and_then(|server| Ok((rows.map_err(errors::write)?, server)))
    };
    // Another primary may have responded while this response was in flight.
    let outcome = outcome.and_then(|(rows, server)| gate.admit(server).map(|()| (rows, server)));
    let outcome = outcome.map_err(|error| {
        // The new primary has the change if it was replicated before the promotion.
        if error.kind() == ErrorKind::Recovery
            && errors::code(&error).is_none()
            && statement.writes()
        {
            error.with_outcome_unknown()
        } else {
            error
        }
    });
    let usable = match &outcome {
        Ok((_, server)) => *server != Server::InRecovery,
        Err(error) => leaves_connection_usable(error),
    };
    if usable {
        connection.release();
    }
    outcome.map(|(rows, _)| rows)
}

/// Returns whether the server responded, and the next statement can succeed on the same connection.
fn leaves_connection_usable(error: &Error) -> bool {
    errors::code(error).is_some()
        && !matches!(
            error.kind(),
            ErrorKind::Connection | ErrorKind::Recovery | ErrorKind::ReadOnly
        )
}

/// The retries of a write and the bounds of each attempt. A write is retried only if the failed
/// attempt had no effect.
pub(super) struct Attempts<'a> {
    connections: &'a Connections,
    lock_wait_permit: Option<SemaphorePermit<'a>>,
    rolled_back: bool,
    renewed: bool,
    reconnected: bool,
}

impl Attempts<'_> {
    pub(super) fn bounds(&self) -> Bounds {
        let deadline = self.connections.deadline.get();
        let lock = if self.lock_wait_permit.is_some() {
            deadline
        } else {
            FIRST_LOCK_TIMEOUT.min(deadline)
        };
        Bounds {
            statement: deadline,
            lock,
        }
    }

    /// Waits until this is the only write of the store that waits for locks.
    async fn become_only_lock_waiter(&mut self) {
        let semaphore = &self.connections.lock_waiters;
        self.lock_wait_permit = semaphore.acquire().await.ok();
    }

    /// Returns whether to retry a transaction after this error. If the connection was lost before
    /// `COMMIT` was sent, nothing has happened, and the next attempt uses a new connection.
    pub(super) async fn should_retry_transaction(&mut self, error: &Error) -> bool {
        let nothing_happened = errors::is_connection_lost(error) && !error.is_outcome_unknown();
        if nothing_happened && !std::mem::replace(&mut self.reconnected, true) {
            self.connections.writes.renew();
            self.connections.counters.writes_retried.increment();
            return true;
        }
        self.should_retry(error).await
    }

    /// Returns whether to retry after this error. If a lock was not available, the method first
    /// waits until no other write of the store waits for locks.
    pub(super) async fn should_retry(&mut self, error: &Error) -> bool {
        let retries = self.may_succeed_after(error).await;
        if retries {
            self.connections.counters.writes_retried.increment();
        }
        retries
    }

    async fn may_succeed_after(&mut self, error: &Error) -> bool {
        if error.is_outcome_unknown() {
            return false;
        }
        if errors::code(error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            let waited = self.lock_wait_permit.is_some();
            if !waited {
                self.become_only_lock_waiter().await;
            }
            return !waited;
        }
        // The other transaction, or the migration, has ended: one retry is enough.
        if errors::is_transient(error) {
            return !std::mem::replace(&mut self.rolled_back, true);
        }
        if errors::is_outdated(error) || error.kind() == ErrorKind::Recovery {
            self.connections.writes.renew();
            return !std::mem::replace(&mut self.renewed, true);
        }
        false
    }
}

/// A transaction on a connection of the store. Dropping it closes the connection, and the server
/// rolls the transaction back unless `COMMIT` was sent.
pub(super) struct StoreTransaction {
    connection: PooledConnection,
    bounds: Bounds,
}

impl StoreTransaction {
    pub(super) fn executor(&self) -> Executor<'_> {
        Executor::own_transaction(&self.connection, &self.connection.gate, self.bounds)
    }

    /// Releases the connection after the response to `COMMIT`.
    pub(super) fn end<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.as_ref().err().is_none_or(leaves_connection_usable) {
            self.connection.release();
        }
        outcome
    }

    /// Rolls back before `COMMIT` was sent.
    pub(super) async fn roll_back<T>(self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.as_ref().err().is_none_or(leaves_connection_usable)
            && self.connection.batch_execute("ROLLBACK").await.is_ok()
        {
            self.connection.release();
        }
        outcome
    }
}
