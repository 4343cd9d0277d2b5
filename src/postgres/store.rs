//! The PostgreSQL session store.

use std::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio_postgres::{
    Row, Socket,
    tls::{MakeTlsConnect, TlsConnect},
    types::ToSql,
};

use crate::{
    error::{Error, ErrorKind},
    metrics::StoreMetrics,
    postgres::{
        connections::{Access, Connections, WRITE_CONNECTIONS},
        connector::PgConnector,
        feed::PgSessionFeed,
        migrate::Migrate,
        sql::{
            Statements, Table,
            execution::Execution,
            session_columns,
            statement::{Statement, Values},
        },
        user::PgUser,
    },
    session::{Lifetime, SessionLimit, TokenDigest},
    store::{LookupResult, SessionLookup, SessionUse},
};

/// A session store in PostgreSQL 14 or newer, joined to the application's users.
///
/// # Connections
///
/// The store uses a small number of dedicated connections. Each is a new connection of the
/// application's pool: the pool's `post_create` hooks have run on it, and no other code has used
/// it. The store then detaches the connection from the pool. Therefore the application's later
/// settings do not reach this connection, and the store's settings do not reach the application's
/// connections. Hooks that run each time the pool hands out a connection do not run on the store's
/// connections. [`check`](Self::check) compares the two kinds of connections.
///
/// | purpose | connections per process |
/// |---|---|
/// | lookups | 2; at a distance from the server up to half of the pool's `max_size`, at most 8 |
/// | sign-ins, sign-outs, lists, re-checks, last uses | 2 by default, [configurable] |
/// | a [feed](Self::feed) | 1 |
/// | clean-up, migration, [`revoke_everyone`] | 1 each, while it runs |
/// | the application's pool | its `max_size` |
///
/// [configurable]: Self::with_write_connections
/// [`revoke_everyone`]: crate::SessionService::revoke_everyone
///
/// If the round trip to the server takes longer than a lookup's statement, up to four statements
/// are in flight on each connection for lookups. A statement that waits behind a slow one is moved
/// to another connection, once: if the slow one takes longer than 50 ms and than ten times the
/// usual time, and at least half of the deadline is left.
///
/// The server's `max_connections` must cover this sum for all processes. After the store closes a
/// connection, the server may take up to the deadline to end its statement. Until then the
/// connection counts too.
///
/// [`check`](Self::check) opens the connections; otherwise they are opened on first use. A lost
/// connection is replaced. Opening a connection takes a slot of the pool for a moment. An exhausted
/// pool does not affect connections that are open. If a connection cannot be opened, the call fails
/// with [`ErrorKind::Pool`] and has no effect.
///
/// A connection whose statement did not finish is closed and never reused. A lookup is retried once
/// on a new connection in three cases: its connection was lost, the server was demoted, or its
/// prepared statement no longer matches the tables. A write is retried only if the failed attempt
/// had no effect.
///
/// # Round trips
///
/// | operation | round trips to the server |
/// |---|---|
/// | lookup, sign-out, re-authentication, update, list of sessions | 1 |
/// | sign-in, revocation | 2 |
///
/// The first use of a statement on a connection takes one more. So does a row that another
/// transaction has locked, and the wait for the feed in a process with a cache. Behind a transaction
/// pooler, a value of a session column can take one more, because its type is looked up first.
///
/// # Time limits on the server
///
/// Closing a connection does not end its statement. Therefore the store sets time limits on its own
/// connections:
///
/// * `statement_timeout`: the service's
///   [deadline](crate::service::SessionServiceBuilder::deadline).
/// * `lock_timeout` and `idle_in_transaction_session_timeout`, for writes: a client that disappears
///   must not hold a user's lock.
/// * `client_connection_check_interval`: 500 ms, if the server accepts it.
///
/// No time limit covers the wait of a `COMMIT` for a synchronous standby.
///
/// A write that has waited 50 ms for a lock releases its connection. One of these writes at a time
/// continues to wait. Writes of one user run one after the other in the process. A locked user
/// therefore does not delay other users.
///
/// Behind a pooler in transaction mode, enable
/// [`with_transaction_pooling`](Self::with_transaction_pooling).
///
/// The store rejects a server in recovery (a replica, or a demoted primary) with
/// [`ErrorKind::Recovery`], because the server may not know of recent revocations.
///
/// # Failover
///
/// List all servers in one pool, and let the driver find the server that accepts writes:
/// `host=db1,db2 target_session_attrs=read-write connect_timeout=1`. The driver waits
/// `connect_timeout` seconds for each server, by default without limit. Keep `connect_timeout`
/// below the service's deadline. Otherwise one server that does not respond prevents connections to
/// the next server. A [`PgConnector`] also limits the time until a server is ready, and begins each
/// connection with the next server. For a pool without a `PgConnector`, set
/// `load_balance_hosts=random`.
///
/// After a replica is promoted, calls in progress may fail, and later calls use the new primary. If
/// the old primary stops responding without closing its connections, one lookup or write on each
/// connection waits until its deadline and fails. `tcp_user_timeout` shortens this wait.
///
/// **A primary that was replaced is rejected.** A frozen or isolated primary may respond again after
/// a replica was promoted. A promotion increments PostgreSQL's timeline. The store reads the
/// timeline once on each connection to a primary, which keeps its timeline until it restarts. It
/// records the highest timeline that any of its connections has returned. Responses from a lower
/// timeline are rejected like those of a server in recovery: lookups, writes, re-checks and the
/// feed's heartbeats. When another primary responds, the store closes its connections to the
/// previous one and the idle connections of the pool, and the cache is cleared. A process cannot
/// detect the new primary before it has received a response from it. Calls that run in a
/// transaction of the application are not verified: they run on the server that the transaction
/// runs on.
///
/// A different system identifier means that a restored or an upgraded cluster has replaced the
/// previous one. The store then rejects the previous cluster, even if its timeline is higher.
/// [`is_fenced`](super::CheckReport::is_fenced) returns whether the role may read the timeline and
/// the system identifier.
///
/// **A promoted replica has only the changes that had reached it.** Replication is asynchronous by
/// default in PostgreSQL. A session whose revocation was acknowledged shortly before the primary
/// was lost can then become live again. In this case, call [`revoke_everyone`] to be sure.
///
/// With `synchronous_standby_names` set and `synchronous_commit` at its default, `on`, an
/// acknowledged revocation is permanent. A sign-out then waits for the replica. If no replica
/// responds, the sign-out fails at the deadline with an [unknown
/// outcome](Error::is_outcome_unknown), and the session stays live until a replica responds.
/// (PostgreSQL 17, "Log-Shipping Standby Servers".)
///
/// # Privileges
///
/// The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the sessions table, and `SELECT` on
/// the tables that [`PgUser`] names. `SECURITY.md` has the `GRANT` statements, column by column.
///
/// Row-level security must not hide rows of these tables. If a table has policies, one of these
/// must hold: the role has `BYPASSRLS`; or the role owns the table, and the table does not have
/// `FORCE ROW LEVEL SECURITY`. Otherwise calls fail with [`ErrorKind::Schema`], because the store
/// sets `row_security = off`. Behind a transaction pooler, only [`check`](Self::check) detects
/// policies that hide rows from lookups.
///
/// # Example
///
/// ```no_run
/// use deadpool_postgres::{Manager, Pool, tokio_postgres::NoTls};
/// # use tower_user_session::{BoxError, LookupRow, PgUser};
/// use tower_user_session::{PgSessionStore, SessionService};
/// # #[derive(Clone)]
/// # struct User { id: i64 }
/// # impl PgUser for User {
/// #     type Id = i64;
/// #     const COLUMNS: &'static str = "u.id";
/// #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
/// #         Ok(User { id: row.user().get("id")? })
/// #     }
/// # }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let config = "postgres:///app?host=/run/postgresql".parse()?;
/// let pool = Pool::builder(Manager::new(config, NoTls)).max_size(8).build()?;
///
/// let store = PgSessionStore::<User>::new(pool);
/// store.migrate().await?;
/// store.check().await?;
/// let sessions = SessionService::new(store);
/// # Ok(())
/// # }
/// ```
#[doc(alias("sqlx", "postgresql", "tower-sessions"))]
pub struct PgSessionStore<U> {
    pub(super) connections: Connections,
    pub(super) table: Table,
    pub(super) lifetime: Lifetime,
    pub(super) limit: Option<SessionLimit>,
    recovery_allowed: bool,
    pub(super) statements: Statements,
    pub(super) execution: Execution,
    /// The number of lookup queries sent.
    pub(super) queries_sent: AtomicI64,
    /// Whether a feed exists. If so, results may be cached, and lookups return the key hash that
    /// notifications of user changes contain.
    pub(super) has_feed: AtomicBool,
    user: PhantomData<fn() -> U>,
}

impl<U: PgUser> PgSessionStore<U> {
    /// Creates a store for the table `sessions`, which the `search_path` resolves. It opens no
    /// connection yet.
    pub fn new(pool: Pool) -> Self {
        const { session_columns::validate(U::SESSION_COLUMNS) };
        let table = Table {
            schema: None,
            name: "sessions".to_owned(),
        };
        Self {
            connections: Connections::new(pool, &Execution::Prepared, WRITE_CONNECTIONS),
            lifetime: Lifetime::default(),
            limit: None,
            recovery_allowed: false,
            statements: Statements::new::<U>(&table, Lifetime::default().absolute_limit()),
            execution: Execution::Prepared,
            table,
            queries_sent: AtomicI64::new(0),
            has_feed: AtomicBool::new(false),
            user: PhantomData,
        }
    }

    /// Sets the name of the sessions table. The name is quoted as given, including upper case and
    /// quotation marks.
    pub fn with_table(mut self, name: impl Into<String>) -> Self {
        self.table.name = name.into();
        self.with_statements()
    }

    /// Sets the schema of the sessions table. The `search_path` then does not affect which table of
    /// sessions is used. To fix the users table in the same way, name a schema in [`PgUser::FROM`].
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.table.schema = Some(schema.into());
        self.with_statements()
    }

    /// Sets the lifetime of sessions. The default is [`Lifetime::default`].
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self.with_statements()
    }

    fn with_statements(mut self) -> Self {
        self.statements = Statements::new::<U>(&self.table, self.lifetime.absolute_limit());
        self
    }

    /// Sets the maximum number of concurrent sessions per user. By default there is no limit.
    pub fn with_session_limit(mut self, limit: SessionLimit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the number of dedicated connections for everything except lookups. The default and the
    /// minimum are 2: one connection may wait for a lock while the other connection works. A
    /// sign-in takes two round trips on one connection. A process that is far from its server and
    /// has many sign-ins per second needs more.
    pub fn with_write_connections(mut self, connections: usize) -> Self {
        let pool = self.pool().clone();
        self.connections = Connections::new(pool, &self.execution, connections);
        self
    }

    /// Allows lookups on a server in recovery. **A session that was revoked on the primary stays
    /// live here until the replica has replayed the change**, regardless of how far the replica
    /// lags. A session that has just begun is unknown here. The crate does not limit the lag. If it
    /// matters who has signed out, query the primary.
    pub fn allow_stale_replica_reads(mut self) -> Self {
        self.recovery_allowed = true;
        self
    }

    /// Enables operation behind a pooler that assigns a server connection for one transaction at a
    /// time. An example is [PgBouncer] of any version with `pool_mode = transaction`.
    ///
    /// The store then uses nothing that outlives a transaction: no prepared statements and no
    /// session settings. It sends each statement whole, in one round trip. A lookup also takes one
    /// round trip. The server plans each statement each time, which costs some tenths of a
    /// millisecond. Enable this setting for every store, in every process that connects through the
    /// pooler.
    ///
    /// **If this setting is missing**, a prepared statement may be executed on a server connection
    /// that never prepared it. The server connection may also have another statement of the same
    /// name. Lookups and writes then fail with [`ErrorKind::Configuration`], possibly only under
    /// load. If two applications share one database and role, the wrong statement can run. The
    /// planner settings of the lookups stay on the pooler's server connections and affect other
    /// clients. A pooler that tracks prepared statements (PgBouncer from 1.21 with
    /// `max_prepared_statements`) avoids the errors, but not the settings.
    ///
    /// # Requirements for the application
    ///
    /// * The columns in [`PgUser::COLUMNS`], in [`PgUser::SESSION_COLUMNS`] and in
    ///   [`if_unchanged`](crate::service::SignIn::if_unchanged) must have built-in types, or
    ///   domains over them. The driver would have to prepare a statement to look up other types.
    ///   Cast an enum: `u.role::text AS role`. Otherwise lookups, [`check`](Self::check) and such
    ///   sign-ins fail with [`ErrorKind::Configuration`].
    /// * The pool's connections must have no startup `options`, because PgBouncer rejects them. For
    ///   the role, set what the store would otherwise set on its own connections:
    ///   `ALTER ROLE … SET statement_timeout = '2s'`, and `SET jit = off`. Without
    ///   `statement_timeout`, a statement continues after its lookup has timed out;
    ///   [`check`](Self::check) logs a warning. Writes set their time limits in each transaction.
    /// * The application is responsible for its own statements on the pool. `deadpool`'s
    ///   `prepare_cached` and `tokio-postgres`'s `query` use named statements; `query_typed` does
    ///   not.
    ///
    /// [`check`](Self::check) reports the connection from the pooler to the server, not the
    /// connection from this process to the pooler.
    ///
    /// [PgBouncer]: https://www.pgbouncer.org/features.html
    #[doc(alias("pgbouncer", "pooler"))]
    pub fn with_transaction_pooling(mut self) -> Self {
        self.execution = Execution::unnamed::<U>();
        let writes = self.connections.writes.size();
        self.with_write_connections(writes)
    }

    /// Creates or updates the sessions table. See [`Migrate`].
    pub fn migrate(&self) -> Migrate {
        Migrate::new(self.pool().clone(), self.table.clone())
    }

    /// Returns the application's pool.
    pub const fn pool(&self) -> &Pool {
        self.connections.pool()
    }

    /// Runs one statement on a connection for writes.
    pub(super) async fn run(
        &self,
        access: Access,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let connections = &self.connections;
        let rows = connections.run_single(&self.execution, statement, values, access);
        rows.await
    }

    /// Returns a feed of sessions that end or change, on its own connection. Pass it to
    /// [`SessionService::subscribe`](crate::SessionService::subscribe) or
    /// [`SessionService::enable_cache`](crate::SessionService::enable_cache). The feed needs the
    /// triggers of
    /// [`Migrate::notify_on_revocation`](crate::postgres::Migrate::notify_on_revocation).
    ///
    /// `config` must connect to the same database as the pool; [`PgSessionFeed`] describes how the
    /// feed verifies this. Behind a pooler in transaction mode, `config` must connect to the server
    /// directly, because `LISTEN` belongs to a connection. [`feed_with`](Self::feed_with) connects
    /// as the pool does.
    pub fn feed<T>(&self, config: tokio_postgres::Config, tls: T) -> PgSessionFeed
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.feed_with(&PgConnector::new(config, tls))
    }

    /// Returns the same feed as [`feed`](Self::feed), with an existing connector: it uses the TLS,
    /// the hosts and the rotating password of the pool that shares the connector.
    pub fn feed_with(&self, connector: &PgConnector) -> PgSessionFeed {
        if !self.has_feed.swap(true, Relaxed) {
            self.connections.lookups.renew();
        }
        PgSessionFeed::new(
            connector.clone(),
            self.connections.writes.clone(),
            self.connections.fence().clone(),
            self.statements.announced.sql.clone(),
            self.table.to_sql(),
        )
    }

    pub(super) const fn reject_recovery(&self, in_recovery: bool) -> Result<(), Error> {
        if in_recovery && !self.recovery_allowed {
            return Err(Error::from_kind(ErrorKind::Recovery));
        }
        Ok(())
    }

    pub(super) fn idle_seconds(&self) -> Option<f64> {
        self.lifetime.idle_limit().map(|limit| limit.as_secs_f64())
    }
}

impl<U: PgUser> SessionLookup for PgSessionStore<U> {
    type User = U;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<U>>, Error> {
        self.look_up(digests).await
    }

    fn max_concurrent_lookups(&self) -> usize {
        self.connections.lookups.max_statements()
    }

    fn set_deadline(&self, deadline: Duration) {
        self.connections.set_deadline(deadline);
    }

    fn touch_interval(&self) -> Option<Duration> {
        Some(self.lifetime.touch_interval())
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), Error> {
        let (ids, times): (Vec<_>, Vec<_>) =
            uses.iter().map(|used| (used.session, used.at)).unzip();
        let interval = self.lifetime.touch_interval().as_secs_f64();
        let values: [&(dyn ToSql + Sync); 4] = [&ids, &times, &interval, &self.idle_seconds()];
        let touched = self.run(Access::Unlocked, &self.statements.touch, &values);
        touched.await.map(drop)
    }

    fn metrics(&self) -> StoreMetrics {
        self.connections.counters.read()
    }

    async fn close(&self) {
        self.connections.close();
    }
}

impl<U> fmt::Debug for PgSessionStore<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSessionStore")
            .field("table", &self.table)
            .field("lifetime", &self.lifetime)
            .field("recovery_allowed", &self.recovery_allowed)
            .finish_non_exhaustive()
    }
}
