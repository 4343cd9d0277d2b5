//! The store.

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
    postgres::{
        connection_set::Lent,
        connections::{Access, Connections, WRITE_CONNECTIONS},
        connector::PgConnector,
        decode, errors,
        feed::PgSessionFeed,
        migrate::Migrate,
        sql::{
            Statements, Table,
            execution::{Execution, Find},
            statement::{Statement, Values},
        },
        user::PgUser,
    },
    session::{Lifetime, SessionLimit, TokenDigest},
    store::{LookupResult, SessionLookup, SessionUse},
};

/// Sessions in PostgreSQL 14 or newer, joined to the application's users.
///
/// # Connections
///
/// The store runs its work on a few connections of its own. Each is a new connection of the application's pool: the
/// pool's hooks that run when a connection is created (`post_create`) have run on it, and no other code has used it.
/// It is then taken out of the pool, so that neither side's settings reach the other. Hooks that run whenever the pool
/// lends a connection do not run on it, and [`check`](Self::check) compares the two.
///
/// | for | connections of one process |
/// |---|---|
/// | lookups | 2 |
/// | sign-ins, sign-outs, lists, re-checks, last uses | 2, or [`with_write_connections`](Self::with_write_connections) |
/// | a [feed](Self::feed) | 1 |
/// | cleaning up, migrating, [`revoke_everyone`](crate::SessionService::revoke_everyone) | 1 each, while it runs |
/// | the application's pool | its `max_size` |
///
/// The server must allow the sum (`max_connections`), for each process. After a connection was closed, the server may
/// need up to the deadline to end what ran on it; until then that counts too.
///
/// The connections are opened by [`check`](Self::check), or when they are first needed, and replaced when they are lost.
/// Opening takes a place in the pool for a moment. An exhausted pool stops nothing that has its connection; otherwise
/// the call fails with [`ErrorKind::Pool`], and nothing has happened.
///
/// A connection whose statement did not finish is closed and never used again. A lookup that met a connection which was
/// lost, whose server was demoted, or whose prepared statement no longer fits the tables, is repeated once on a new
/// connection. A write is repeated only if nothing has happened.
///
/// # Time limits on the server
///
/// Closing a connection does not end its statement. The store therefore sets, on its own connections, `statement_timeout`
/// to the service's [deadline](crate::service::SessionServiceBuilder::deadline); for writes also `lock_timeout` and
/// `idle_in_transaction_session_timeout`, so that a client that vanishes does not hold a user's lock; and where the
/// server accepts it, `client_connection_check_interval` to 500 ms. No time limit covers the wait of a `COMMIT` for a
/// synchronous standby.
///
/// A write that waits for a lock for more than 50 ms gives its connection back, and one of those writes at a time goes on
/// waiting. The writes of one user take turns in the process. So a locked user delays no other user.
///
/// Behind a pooler that pools transactions, say so:
/// [`with_transaction_pooling`](Self::with_transaction_pooling).
///
/// A server in recovery (a replica, or a primary that was demoted) is refused, because it may not
/// know yet who was signed out: [`ErrorKind::Recovery`].
///
/// # Failover
///
/// Name all servers in one pool and let the driver find the one that takes writes:
/// `host=db1,db2 target_session_attrs=read-write connect_timeout=1`. The driver waits `connect_timeout`,
/// in seconds, for each server, by default without limit: keep it below the service's deadline, or
/// one silent server keeps every new connection from the next. When a replica has been promoted, what
/// was under way may fail, and what comes later goes there by itself. Where the old primary falls
/// silent instead of closing its connections, each of them costs a lookup or a write its deadline;
/// `tcp_user_timeout` shortens that.
///
/// **A replica that was promoted knows only what had reached it.** With asynchronous replication,
/// PostgreSQL's default, a session whose end was acknowledged a moment before the primary was lost can
/// be live again; [`revoke_everyone`](crate::SessionService::revoke_everyone) is then the way to be
/// sure. With `synchronous_standby_names` set and `synchronous_commit` at its default, `on`, an
/// acknowledged end stays an end. Signing out then waits for the replica: where none answers, it fails
/// at the deadline with an [outcome that is unknown](Error::is_outcome_unknown), and the session lives
/// until one does. (PostgreSQL 17, "Log-Shipping Standby Servers".)
///
/// # Privileges
///
/// `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the sessions' table, and `SELECT` on what [`PgUser`] names. Row-level
/// security must hide no row of these tables: the role must own a table with policies, without `FORCE ROW LEVEL
/// SECURITY`, or have `BYPASSRLS`. Otherwise calls fail with [`ErrorKind::Schema`], because the store sets
/// `row_security = off`. Behind a transaction pooler, only [`check`](Self::check) finds policies that hide rows from
/// lookups.
/// `SECURITY.md` has the statements that grant them column by column.
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
/// #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> { Ok(User { id: row.user().get("id")? }) }
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
pub struct PgSessionStore<U> {
    pub(super) connections: Connections,
    pub(super) table: Table,
    pub(super) lifetime: Lifetime,
    pub(super) limit: Option<SessionLimit>,
    recovery_allowed: bool,
    pub(super) statements: Statements,
    pub(super) execution: Execution,
    /// How many lookups have been sent.
    queries_sent: AtomicI64,
    /// Whether results may be cached, so that lookups return by which key changes of their users are announced.
    has_feed: AtomicBool,
    user: PhantomData<fn() -> U>,
}

impl<U: PgUser> PgSessionStore<U> {
    /// A store in the table `sessions`, found through the `search_path`. Connects to nothing yet.
    pub fn new(pool: Pool) -> Self {
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

    /// Sets the name of the sessions' table, as it is, upper case and quotes included.
    pub fn with_table(mut self, name: impl Into<String>) -> Self {
        self.table.name = name.into();
        self.with_statements()
    }

    /// Sets the schema of the sessions' table. With it, the `search_path` has no say in where the
    /// sessions are; name a schema in [`PgUser::FROM`] too, and it has no say in the users.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.table.schema = Some(schema.into());
        self.with_statements()
    }

    /// Sets how long sessions live. By default [`Lifetime::default`].
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self.with_statements()
    }

    fn with_statements(mut self) -> Self {
        self.statements = Statements::new::<U>(&self.table, self.lifetime.absolute_limit());
        self
    }

    /// Sets how many sessions a user may have at the same time. By default there is no limit.
    pub fn with_session_limit(mut self, limit: SessionLimit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets how many connections of its own the store has for everything but lookups. By default 2, which is also the
    /// least: one of them may wait for a lock while the other one works. A sign-in takes four round trips on one
    /// connection; a process far from its server that signs in many people a second needs more.
    pub fn with_write_connections(mut self, connections: usize) -> Self {
        let pool = self.pool().clone();
        self.connections = Connections::new(pool, &self.execution, connections);
        self
    }

    /// Looks sessions up on a server in recovery too. **A session that was ended on the primary is
    /// live here until the replica has replayed that**, however far it lags behind, and a session that
    /// has just begun is nobody's. Nothing bounds this but how far the application lets its replicas
    /// lag; ask the primary wherever it matters who has signed out.
    pub fn allow_stale_replica_reads(mut self) -> Self {
        self.recovery_allowed = true;
        self
    }

    /// Runs behind a pooler that lends a server connection for one transaction at a time, such as
    /// [PgBouncer] with `pool_mode = transaction`, in any version.
    ///
    /// The store then uses nothing that outlives a transaction: no prepared statement, no setting of
    /// the session. Each statement is sent whole, in one round trip, and so is a lookup; the server
    /// plans it each time, which costs it some tenths of a millisecond. Every use of the store needs
    /// the setting, in every process that goes through the pooler.
    ///
    /// **Without it**, the store's prepared statements are looked for where they are not, or meet
    /// those of another process: lookups and writes fail with [`ErrorKind::Configuration`], if not at
    /// the first statement then under load, and where two applications share one database and role,
    /// a statement can run that was not meant. The planner settings of the lookups stay on the
    /// pooler's server connections and reach others. A pooler that tracks prepared statements
    /// (PgBouncer from 1.21 with `max_prepared_statements`) spares the errors, but not the settings.
    ///
    /// # What the application does
    ///
    /// * The columns in [`PgUser::COLUMNS`] and in
    ///   [`if_unchanged`](crate::service::SignIn::if_unchanged) must have types that are built into
    ///   PostgreSQL, or be domains over them; the driver would prepare a statement to learn about
    ///   others. Cast an enum: `u.role::text AS role`. Otherwise lookups, [`check`](Self::check) and
    ///   such sign-ins fail with [`ErrorKind::Configuration`].
    /// * The pool's connections must have no start-up `options`; PgBouncer refuses them. What the
    ///   store would set on its own connections, set for the role: `ALTER ROLE … SET statement_timeout = '2s'`, and
    ///   `SET jit = off`. Without the first, a statement goes on after its lookup was given up;
    ///   [`check`](Self::check) warns. Writes set their time limits themselves, in each transaction.
    /// * What the application itself prepares on the pool is its own to see to. `deadpool`'s
    ///   `prepare_cached` and `tokio-postgres`'s `query` use named statements; `query_typed` does not.
    ///
    /// [`check`](Self::check) says how the server sees the pooler's connection to it, not how this
    /// process is connected to the pooler.
    ///
    /// [PgBouncer]: https://www.pgbouncer.org/features.html
    pub fn with_transaction_pooling(mut self) -> Self {
        self.execution = Execution::unnamed::<U>();
        let writes = self.connections.writes.size();
        self.with_write_connections(writes)
    }

    /// Creates the sessions' table, or brings it up to date. See [`Migrate`].
    pub fn migrate(&self) -> Migrate {
        Migrate::new(self.pool().clone(), self.table.clone())
    }

    /// The application's pool.
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
        let rows = connections.alone(&self.execution, statement, values, access);
        rows.await
    }

    /// Returns a feed of the sessions that end or change, on a connection of its own, for
    /// [`SessionService::subscribe`](crate::SessionService::subscribe) and
    /// [`SessionService::enable_cache`](crate::SessionService::enable_cache). It needs the triggers of
    /// [`Migrate::notify_on_revocation`](crate::postgres::Migrate::notify_on_revocation).
    ///
    /// `config` must lead to the same database as the pool; see [`PgSessionFeed`] for how that is proved. Behind a
    /// pooler that lends connections for a transaction only, it must lead to the server itself, because `LISTEN` belongs
    /// to a connection. [`feed_with`](Self::feed_with) connects as the pool does.
    pub fn feed<T>(&self, config: tokio_postgres::Config, tls: T) -> PgSessionFeed
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.feed_with(&PgConnector::new(config, tls))
    }

    /// Returns the same as [`feed`](Self::feed), which connects in this way: with the TLS, the hosts and the rotating
    /// password of a pool that was built with the same connector.
    pub fn feed_with(&self, connector: &PgConnector) -> PgSessionFeed {
        if !self.has_feed.swap(true, Relaxed) {
            self.connections.lookups.renew();
        }
        PgSessionFeed::new(
            connector.clone(),
            self.connections.writes.clone(),
            self.statements.announced.sql.clone(),
            self.table.to_sql(),
        )
    }

    pub(super) const fn refuse_recovery(&self, in_recovery: bool) -> Result<(), Error> {
        if in_recovery && !self.recovery_allowed {
            return Err(Error::from_kind(ErrorKind::Recovery));
        }
        Ok(())
    }

    pub(super) fn idle_seconds(&self) -> Option<f64> {
        self.lifetime.idle_limit().map(|limit| limit.as_secs_f64())
    }

    async fn find_on(
        &self,
        mut connection: Lent,
        digests: &[TokenDigest],
    ) -> Result<Vec<LookupResult<U>>, Error> {
        if connection.find.is_none() {
            // The hash of the user's key costs the server time, and only a feed needs it.
            let with_user_key = self.has_feed.load(Relaxed);
            let statement = self.statements.find(with_user_key);
            let ready = self.execution.ready(&connection, statement).await?;
            connection.find = Some((ready, with_user_key));
        }
        let (find, with_user_key) = match &connection.find {
            Some((find, with_user_key)) => (find, *with_user_key),
            None => (&Find::Unnamed, false),
        };
        let statement = self.statements.find(with_user_key);
        let query_seq = self.queries_sent.fetch_add(1, Relaxed);
        let values: [&(dyn ToSql + Sync); 2] = [&digests, &query_seq];
        let asked = find.query(&connection, statement, &values);
        let rows = match asked.await {
            Ok(rows) => rows,
            Err(error) => {
                // A value in a row was at fault, not the connection.
                if error.kind() == ErrorKind::Decode {
                    connection.keep();
                }
                return Err(error);
            }
        };
        let mut answers = Vec::with_capacity(rows.len());
        for row in &rows {
            let found = decode::found(row, with_user_key, self.lifetime)?;
            // The connection is out of step: what it says is true of an earlier moment.
            if found.query_seq != query_seq {
                let context = "the database answered another query_seq";
                return Err(Error::from_kind(ErrorKind::Protocol).with_message(context));
            }
            self.refuse_recovery(found.in_recovery)?;
            answers.push(found.answer);
        }
        // If a row is missing, or one is of another digest, the connection may be out of step.
        if is_complete(&answers, digests) {
            connection.keep();
        }
        Ok(answers)
    }
}

/// Whether each digest was answered exactly once, and no other was.
fn is_complete<U>(answers: &[LookupResult<U>], digests: &[TokenDigest]) -> bool {
    let answered = || answers.iter().map(LookupResult::digest);
    // Rows come in the order of the digests, though that is not promised.
    answered().eq(digests.iter().copied()) || {
        let (mut answered, mut asked) = (answered().collect::<Vec<_>>(), digests.to_vec());
        answered.sort_unstable();
        asked.sort_unstable();
        answered == asked
    }
}

impl<U: PgUser> SessionLookup for PgSessionStore<U> {
    type User = U;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<U>>, Error> {
        let lookups = &self.connections.lookups;
        match self.find_on(lookups.acquire().await?, digests).await {
            Err(error) if errors::is_retryable(&error) => {
                tracing::debug!(%error, "a lookup is repeated on a new connection");
                lookups.renew();
                self.find_on(lookups.acquire().await?, digests).await
            }
            outcome => outcome,
        }
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
