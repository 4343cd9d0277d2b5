//! Connections: the lookups' own few, and those that writes borrow from the application's pool.
//!
//! The lookups' are opened by the application's pool manager, and so in its way and with its TLS, but they do
//! not count against the pool, and their settings never come back to the application through it.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

use deadpool::managed::Manager as _;
use deadpool_postgres::{ClientWrapper, Object, Pool, Transaction};
use tokio_postgres::{IsolationLevel, Row};

use super::{
    execution::{BEGIN, Execution, Find, On},
    failure,
    reconnect::Reconnect,
    statement::{Statement, Values},
};
use crate::{Error, session::BATCHES_IN_FLIGHT};

/// As many as there are lookups in flight at once.
const KEPT: usize = BATCHES_IN_FLIGHT;

pub(super) struct LookupConnections {
    pool: Pool,
    kept: Mutex<Kept>,
    reconnect: Reconnect,
}

#[derive(Default)]
struct Kept {
    connections: Vec<LookupConnection>,
    closed: bool,
}

/// A connection that is ready for the lookup. Dropped, it is closed: whatever was under way on it
/// can reach nobody else. [`LookupConnections::keep`] is for one whose lookup has finished.
pub(super) struct LookupConnection {
    client: ClientWrapper,
    find: Find,
    pool: Pool,
}

impl LookupConnections {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            kept: Mutex::default(),
            reconnect: Reconnect::default(),
        }
    }

    /// A connection that was kept and has not been closed since, as far as can be told.
    pub(super) fn kept(&self) -> Option<LookupConnection> {
        loop {
            // Not in the loop's head: that would keep the lock while a dead connection is dropped.
            let connection = self.lock().connections.pop();
            match connection {
                Some(connection) if connection.client.is_closed() => {}
                other => return other,
            }
        }
    }

    /// A connection that has just been opened, unless one could not be had a moment ago. The outer error means that there is none to be had, the
    /// inner one that it broke, or refused the statement, before it was ready.
    pub(super) async fn open(
        &self,
        execution: &Execution,
        find: &Statement,
    ) -> Result<Result<LookupConnection, Error>, Error> {
        self.reconnect.allowed()?;
        let client = match self.pool.manager().create().await {
            Ok(client) => client,
            Err(error) => {
                let error = failure::connecting(error);
                self.reconnect.failed(&error);
                return Err(error);
            }
        };
        self.reconnect.succeeded();
        let ready = execution.ready(&client, find).await;
        Ok(ready.map(|find| LookupConnection {
            client,
            find,
            pool: self.pool.clone(),
        }))
    }

    /// Keeps the connection for the next lookup.
    pub(super) fn keep(&self, connection: LookupConnection) {
        let mut kept = self.lock();
        if !kept.closed && kept.connections.len() < KEPT {
            kept.connections.push(connection);
        }
    }

    pub(super) fn close(&self) {
        let mut kept = self.lock();
        kept.closed = true;
        kept.connections.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookupConnection {
    pub(super) async fn query(
        &self,
        find: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        self.find.query(&self.client, find, values).await
    }
}

impl Drop for LookupConnection {
    fn drop(&mut self) {
        // The manager remembers every connection it has made until it is told.
        self.pool.manager().detach(&mut self.client);
    }
}

impl fmt::Debug for LookupConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupConnections").finish_non_exhaustive()
    }
}

/// A connection of the application's pool. Dropped before [`give_back`](Self::give_back), because
/// whoever used it was cancelled or ran out of time, it is closed: the next borrower must not wait
/// behind what is still under way on it.
pub(super) struct Borrowed(Option<Object>);

impl Borrowed {
    pub(super) async fn from(pool: &Pool) -> Result<Self, Error> {
        Ok(Self(Some(pool.get().await.map_err(failure::pool)?)))
    }

    /// Runs one statement, and gives the connection back when it has finished.
    pub(super) async fn query(
        self,
        execution: &Execution,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let on = On::connection(&self);
        let rows = execution.query(on, statement, values).await;
        self.give_back();
        rows
    }

    /// Runs one statement that writes, in a transaction of its own at `READ COMMITTED`, in one round trip.
    /// A statement that failed with a serialization failure or a deadlock changed nothing, and neither did one
    /// that met a transaction which other code left open: it is sent once more.
    pub(super) async fn write(
        self,
        execution: &Execution,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let on = On::connection(&self);
        let mut rows = execution.write(on, statement, values).await;
        let met_a_transaction = rows.as_ref().is_err_and(failure::met_a_transaction);
        if met_a_transaction {
            self.roll_back().await?;
        }
        if met_a_transaction || rows.as_ref().is_err_and(failure::is_transient) {
            rows = execution.write(on, statement, values).await;
        }
        self.give_back();
        rows.map_err(failure::write)
    }

    /// Begins a transaction at `READ COMMITTED`, whatever the role's or the database's default is. Every
    /// statement after a lock must see what the transactions before it have committed.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        self.end_abandoned_transaction().await?;
        let transaction = self
            .build_transaction()
            .isolation_level(IsolationLevel::ReadCommitted);
        transaction.start().await.map_err(failure::statement)
    }

    /// Rolls back a transaction that other code left open on this connection before it returned it.
    async fn end_abandoned_transaction(&self) -> Result<(), Error> {
        let probe = self.batch_execute(&format!("{BEGIN}; COMMIT")).await;
        match probe.map_err(failure::statement) {
            Err(error) if failure::met_a_transaction(&error) => self.roll_back().await,
            other => other,
        }
    }

    async fn roll_back(&self) -> Result<(), Error> {
        let rolled_back = self.batch_execute("ROLLBACK").await;
        rolled_back.map_err(failure::statement)
    }

    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Borrowed {
    type Target = Object;

    #[expect(
        clippy::expect_used,
        reason = "only `give_back` and `drop` take it, and both end self"
    )]
    fn deref(&self) -> &Object {
        self.0.as_ref().expect("the connection has been given back")
    }
}

impl DerefMut for Borrowed {
    #[expect(clippy::expect_used, reason = "as for `deref`")]
    fn deref_mut(&mut self) -> &mut Object {
        self.0.as_mut().expect("the connection has been given back")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
