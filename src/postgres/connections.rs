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
use deadpool_postgres::{ClientWrapper, Object, Pool};
use tokio_postgres::{Error as PgError, Row, Statement, types::ToSql};

use super::failure;
use crate::{Error, session::BATCHES_IN_FLIGHT};

/// As many as there are lookups in flight at once.
const KEPT: usize = BATCHES_IN_FLIGHT;

/// One plan for every execution, made so that it stays good: a table that was tiny when the plan was
/// made must not be read from end to end once it has grown, and a plan over an index that is all the
/// same taken for expensive must not be compiled at length.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; \
                        SET enable_seqscan = off; \
                        SET jit = off";

pub(super) struct LookupConnections {
    pool: Pool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    connections: Vec<LookupConnection>,
    closed: bool,
}

/// A connection with the lookup prepared on it. Dropped, it is closed: whatever was under way on it
/// can reach nobody else. [`LookupConnections::keep`] is for one whose lookup has finished.
pub(super) struct LookupConnection {
    pub(super) client: ClientWrapper,
    pub(super) find: Statement,
    pool: Pool,
}

impl LookupConnections {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            kept: Mutex::default(),
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

    /// A connection that has just been opened. The outer error means that there is none to be had, the
    /// inner one that it broke, or refused the statement, before it was ready.
    pub(super) async fn open(&self, find: &str) -> Result<Result<LookupConnection, Error>, Error> {
        let manager = self.pool.manager();
        let client = manager.create().await.map_err(failure::connecting)?;
        let prepared = async {
            client.batch_execute(SETTINGS).await?;
            client.prepare(find).await
        }
        .await;
        Ok(match prepared {
            Ok(find) => Ok(LookupConnection {
                client,
                find,
                pool: self.pool.clone(),
            }),
            Err(error) => Err(failure::statement(error)),
        })
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

type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Borrowed {
    pub(super) async fn from(pool: &Pool) -> Result<Self, Error> {
        Ok(Self(Some(pool.get().await.map_err(failure::pool)?)))
    }

    /// Runs one statement, and gives the connection back when it has finished.
    pub(super) async fn query(self, sql: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        let rows = async {
            let statement = self.prepare_cached(sql).await?;
            (*self).query(&statement, values).await
        }
        .await;
        self.give_back();
        rows
    }

    /// Like [`query`](Self::query), for the number of rows that it changed.
    pub(super) async fn execute(self, sql: &str, values: Values<'_>) -> Result<u64, PgError> {
        let changed = async {
            let statement = self.prepare_cached(sql).await?;
            (*self).execute(&statement, values).await
        }
        .await;
        self.give_back();
        changed
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
