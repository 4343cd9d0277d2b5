//! The connections of a store, and the transactions that it runs on them.

use std::{fmt::Debug, time::Duration};

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Row, error::SqlState};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connection_set::{ConnectionSet, Deadline, Lent, in_time, open_new},
        errors,
        sql::{
            execution::{BRIEF_LOCK_WAIT, Bounds, Execution, On, lookup_settings, write_settings},
            statement::{Statement, Values},
        },
        user_queue::{TakenTurn, Turns},
    },
    store::lookup::MAX_CONCURRENT_LOOKUPS,
};

/// As many as there are lookups in flight at once.
pub(super) const LOOKUP_CONNECTIONS: usize = MAX_CONCURRENT_LOOKUPS;
pub(super) const WRITE_CONNECTIONS: usize = 2;

/// What is known of the rows of a single statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Unlocked,
    /// Another transaction has locked them.
    Locked,
}

#[derive(Debug)]
pub(super) struct Connections {
    pool: Pool,
    deadline: Deadline,
    pub(super) lookups: ConnectionSet,
    pub(super) writes: ConnectionSet,
    /// For deleting expired sessions in batches; closed after each round.
    pub(super) upkeep: ConnectionSet,
    turns: Turns,
    waiting_for_locks: Semaphore,
}

impl Connections {
    /// If the store runs behind a transaction pooler, no setting outlives a transaction, and none is set.
    pub(super) fn new(pool: Pool, execution: &Execution, writes: usize) -> Self {
        let deadline = Deadline::default();
        let set = |settings: fn(Duration) -> String, size, pauses| {
            let settings = execution.has_settings().then_some(settings);
            ConnectionSet::new(pool.clone(), deadline.clone(), settings, size, pauses)
        };
        Self {
            lookups: set(lookup_settings, LOOKUP_CONNECTIONS, true),
            writes: set(write_settings, writes.max(WRITE_CONNECTIONS), false),
            upkeep: set(write_settings, 1, false),
            turns: Turns::default(),
            waiting_for_locks: Semaphore::new(1),
            deadline,
            pool,
        }
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes the service's deadline over into the settings of the connections.
    pub(super) fn set_deadline(&self, deadline: Duration) {
        if self.deadline.set(deadline) {
            self.lookups.renew();
            self.writes.renew();
        }
    }

    pub(super) fn close(&self) {
        self.lookups.close();
        self.writes.close();
        self.upkeep.close();
    }

    /// Opens the connections for lookups and writes, so that an exhausted pool stops neither.
    pub(super) async fn fill(&self) -> Result<(), Error> {
        self.lookups.fill().await?;
        self.writes.fill().await
    }

    /// Waits for the turn of this user's write. See [`Turns`].
    pub(super) async fn turn(&self, user: &impl Debug) -> Result<TakenTurn<'_>, Error> {
        let turn = self.turns.take(user);
        in_time(
            &self.deadline,
            turn,
            "an earlier write of the same user has not ended",
        )
        .await
    }

    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts {
            connections: self,
            waits_for_locks: None,
            rolled_back: false,
            renewed: false,
        }
    }

    /// Begins a transaction on a connection for writes.
    pub(super) async fn begin(&self, bounds: Bounds) -> Result<OwnTransaction, Error> {
        let connection = self.writes.acquire().await?;
        match Execution::begin(&connection, bounds).await {
            // An idle connection was lost. Nothing has happened yet.
            Err(error) if error.kind() == ErrorKind::Connection => {
                self.writes.renew();
                drop(connection);
                let connection = self.writes.acquire().await?;
                Execution::begin(&connection, bounds).await?;
                Ok(OwnTransaction(connection))
            }
            begun => begun.map(|()| OwnTransaction(connection)),
        }
    }

    /// Runs one statement in one round trip: by itself if the settings of the connection suffice for it, and
    /// otherwise in a transaction of its own.
    pub(super) async fn alone(
        &self,
        execution: &Execution,
        statement: &Statement,
        values: Values<'_>,
        access: Access,
    ) -> Result<Vec<Row>, Error> {
        let mut attempts = self.attempts();
        if access == Access::Locked {
            attempts.wait_for_locks().await;
        }
        loop {
            let brief = attempts.waits_for_locks.is_none();
            // Without the settings of the connection, a policy would hide rows from a statement that reads.
            let by_itself = brief && execution.has_settings();
            let bounds = (!by_itself).then(|| attempts.bounds());
            let outcome = alone(&self.writes, execution, bounds, statement, values).await;
            match outcome {
                Err(error) if attempts.another(&error).await => {}
                outcome => return self.explained(outcome).await,
            }
        }
    }

    /// A write is refused on a replica, and also on a primary whose transactions are read-only. Only the server
    /// knows which it is.
    pub(super) async fn explained<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        match outcome {
            Err(error) if error.kind() == ErrorKind::ReadOnly => {
                let in_recovery = async {
                    let connection = self.writes.acquire().await.ok()?;
                    let asked =
                        connection.query_typed_one("SELECT pg_catalog.pg_is_in_recovery()", &[]);
                    asked.await.ok()?.try_get(0).ok()
                };
                Err(match in_recovery.await {
                    Some(true) => Error::new(ErrorKind::Recovery, error),
                    _ => error,
                })
            }
            outcome => outcome,
        }
    }

    /// Opens a connection for a task without a deadline. It is closed when the task has ended.
    pub(super) async fn open_new(&self) -> Result<ClientWrapper, Error> {
        open_new(&self.pool).await
    }
}

/// Runs one statement on a connection of this set; in a transaction of its own if there are bounds.
pub(super) async fn alone(
    set: &ConnectionSet,
    execution: &Execution,
    bounds: Option<Bounds>,
    statement: &Statement,
    values: Values<'_>,
) -> Result<Vec<Row>, Error> {
    let connection = set.acquire().await?;
    let on = On::connection(&connection);
    let outcome = match bounds {
        Some(bounds) => execution.alone(on, bounds, statement, values).await,
        None => execution
            .query(on, statement, values)
            .await
            .map_err(errors::write),
    };
    if outcome.as_ref().err().is_none_or(leaves_connection_usable) {
        connection.keep();
    }
    outcome
}

/// Whether the server answered, and the next statement may succeed on the same connection.
fn leaves_connection_usable(error: &Error) -> bool {
    errors::code(error).is_some()
        && !matches!(
            error.kind(),
            ErrorKind::Connection | ErrorKind::Recovery | ErrorKind::ReadOnly
        )
}

/// How often a write is attempted, and with which bounds. A write is repeated only if nothing has happened.
pub(super) struct Attempts<'a> {
    connections: &'a Connections,
    waits_for_locks: Option<SemaphorePermit<'a>>,
    rolled_back: bool,
    renewed: bool,
}

impl Attempts<'_> {
    pub(super) fn bounds(&self) -> Bounds {
        let deadline = self.connections.deadline.get();
        let lock = if self.waits_for_locks.is_some() {
            deadline
        } else {
            BRIEF_LOCK_WAIT.min(deadline)
        };
        Bounds {
            statement: deadline,
            lock,
        }
    }

    /// Waits for the turn among the writes that wait for locks.
    async fn wait_for_locks(&mut self) {
        let semaphore = &self.connections.waiting_for_locks;
        self.waits_for_locks = semaphore.acquire().await.ok();
    }

    /// Whether to try again after this error. Waits for the turn among the writes that wait for locks, if it is a
    /// lock that could not be acquired.
    pub(super) async fn another(&mut self, error: &Error) -> bool {
        if error.is_outcome_unknown() {
            return false;
        }
        if errors::code(error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            let waited = self.waits_for_locks.is_some();
            if !waited {
                self.wait_for_locks().await;
            }
            return !waited;
        }
        // The other transaction, or the migration, has ended: one more attempt is enough.
        if errors::is_transient(error) {
            return !std::mem::replace(&mut self.rolled_back, true);
        }
        if errors::is_outdated(error) {
            self.connections.writes.renew();
            return !std::mem::replace(&mut self.renewed, true);
        }
        false
    }
}

/// A transaction on a connection of the store's own. If it is dropped, the connection is closed and the server
/// rolls the transaction back.
pub(super) struct OwnTransaction(Lent);

impl OwnTransaction {
    pub(super) fn on(&self) -> On<'_> {
        On::connection(&self.0)
    }

    /// Commits if `commit` says so of the outcome, and otherwise rolls back.
    pub(super) async fn end<T>(
        self,
        outcome: Result<T, Error>,
        commit: impl FnOnce(&T) -> bool,
    ) -> Result<T, Error> {
        if outcome.as_ref().is_ok_and(commit) {
            let committed = self.0.batch_execute("COMMIT").await;
            committed.map_err(errors::commit)?;
            self.0.keep();
        } else if outcome.as_ref().err().is_none_or(leaves_connection_usable)
            && self.0.batch_execute("ROLLBACK").await.is_ok()
        {
            self.0.keep();
        }
        outcome
    }
}
