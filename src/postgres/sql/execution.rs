//! Statement execution.
//!
//! By default a statement is prepared and named, and each connection caches its prepared statements.
//! Behind a transaction pooler, a statement is unnamed and takes one round trip.

use std::time::Duration;

use bytes::BytesMut;
use deadpool_postgres::{ClientWrapper, StatementCache};
use tokio::join;
use tokio_postgres::{
    Client, GenericClient, Row, Transaction,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{
        errors,
        fence::{Gate, Server},
        sql::{
            statement::{Statement, Values},
            user_types::UserTypes,
        },
        user::PgUser,
    },
};

/// Returns the settings of a connection for lookups.
///
/// All executions share one plan, which must stay efficient. A plan made while the table was tiny
/// must not scan the whole table after it has grown. JIT compilation must not delay a plan whose
/// index access is still estimated as expensive.
pub(crate) fn lookup_settings(deadline: Duration) -> String {
    format!(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off; \
         SET default_transaction_isolation = 'read committed'; SET row_security = off; \
         SET statement_timeout = {}",
        deadline.as_millis()
    )
}

/// Returns the settings of a connection for writes: the bounds of the first attempt, which waits
/// only briefly for a lock.
pub(crate) fn write_settings(deadline: Duration) -> String {
    let (statement, lock) = (
        deadline.as_millis(),
        FIRST_LOCK_TIMEOUT.min(deadline).as_millis(),
    );
    format!(
        "SET default_transaction_isolation = 'read committed'; SET row_security = off; \
         SET statement_timeout = {statement}; SET lock_timeout = {lock}; \
         SET idle_in_transaction_session_timeout = {statement}"
    )
}

/// Closing a connection does not end its backend. With this setting, the server detects a
/// disconnected client within half a second. Some platforms reject this setting.
const CHECK_CLIENT_CONNECTION: &str = "SET client_connection_check_interval = '500ms'";

/// Applies the settings to a new connection.
pub(crate) async fn set(client: &Client, settings: &str) -> Result<(), Error> {
    let (set, _) = join!(
        biased;
        client.batch_execute(settings),
        client.batch_execute(CHECK_CLIENT_CONNECTION),
    );
    set.map_err(errors::statement)
}

/// The lock timeout of a write's first attempt. After that, the write releases its connection and
/// waits until no other write of the store waits for locks. At most one connection therefore waits
/// longer for a lock.
pub(crate) const FIRST_LOCK_TIMEOUT: Duration = Duration::from_millis(50);

/// The time limits of a transaction of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The limit for each statement. A client that disappears between two statements holds its
    /// locks for at most this time, too.
    pub(crate) statement: Duration,
    /// The limit for each lock.
    pub(crate) lock: Duration,
}

impl Bounds {
    /// Returns the statements that begin a transaction at `READ COMMITTED`, regardless of the
    /// role's or the database's default. Each statement after a lock must see what earlier
    /// transactions have committed. `READ WRITE` is omitted, so that a read-only server reports
    /// that it is read-only.
    fn begin(self) -> String {
        let (statement, lock) = (self.statement.as_millis(), self.lock.as_millis());
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {statement}; \
             SET LOCAL lock_timeout = {lock}; SET LOCAL row_security = off; \
             SET LOCAL idle_in_transaction_session_timeout = {statement}"
        )
    }
}

/// The way the store executes its statements.
#[derive(Debug)]
pub(crate) enum Execution {
    Prepared,
    /// The driver sends each statement without preparing it, in one round trip. The server does not
    /// report the types of the parameters then. A parameter that is compared with a column of the
    /// user has the type of that column, which [`UserTypes`] looks up.
    Unnamed(UserTypes),
}

/// The settings of a transaction of the store, and the fence of its connection.
#[derive(Clone, Copy)]
pub(super) struct OwnTransaction<'a> {
    pub(super) bounds: Bounds,
    pub(super) gate: &'a Gate,
}

/// A connection or a transaction, with its cache of prepared statements.
#[derive(Clone, Copy)]
pub(crate) struct Executor<'a> {
    pub(super) client: &'a Client,
    /// `None` in a transaction of the application.
    pub(super) prepared: Option<&'a StatementCache>,
    /// `Some` in a transaction of the store.
    pub(super) own: Option<OwnTransaction<'a>>,
}

/// A statement that can be sent. Its query is sent when it is first polled, so that queries that are
/// polled in order travel together.
pub(crate) enum Ready<'a> {
    Prepared(tokio_postgres::Statement),
    Unnamed { sql: &'a str, types: Vec<Type> },
}

/// The lookup statement of a connection, ready to run.
pub(crate) enum LookupStatement {
    Prepared(tokio_postgres::Statement),
    Unnamed(String),
}

impl Execution {
    pub(crate) fn unnamed<U: PgUser>() -> Self {
        Self::Unnamed(UserTypes::new::<U>())
    }

    pub(crate) async fn query(
        &self,
        executor: Executor<'_>,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let ready = self.ready(executor, statement).await?;
        ready.query(executor, values).await
    }

    /// Prepares a statement, or determines the types of its parameters. The first call on a
    /// connection takes a round trip. Behind a transaction pooler, so does each call for a statement
    /// with preconditions or with values of session columns.
    pub(crate) async fn ready<'a>(
        &self,
        executor: Executor<'_>,
        statement: &'a Statement,
    ) -> Result<Ready<'a>, Error> {
        Ok(match self {
            Self::Prepared => Ready::Prepared(executor.prepare(statement).await?),
            Self::Unnamed(users) => Ready::Unnamed {
                types: parameter_types(users, executor.client, statement).await?,
                sql: statement.text(executor.client).await?,
            },
        })
    }

    /// Begins a transaction on a connection of the store.
    pub(crate) async fn begin(client: &Client, bounds: Bounds) -> Result<(), Error> {
        let begun = client.batch_execute(&bounds.begin()).await;
        begun.map_err(errors::statement)
    }

    /// Returns whether the connections for writes have settings. If so, a statement needs no
    /// transaction to set them.
    pub(crate) const fn has_settings(&self) -> bool {
        matches!(self, Self::Prepared)
    }

    /// Runs a statement in its own transaction. `BEGIN`, the statement and `COMMIT` are sent
    /// together, which takes one round trip. If the statement failed, the server rolls back on
    /// `COMMIT`.
    pub(crate) async fn query_in_transaction(
        &self,
        executor: Executor<'_>,
        gate: &Gate,
        bounds: Bounds,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<(Vec<Row>, Server), Error> {
        let ready = self.ready(executor, statement).await?;
        let (client, begin) = (executor.client, bounds.begin());
        let (started, server, rows, ended) = join!(
            biased;
            client.batch_execute(&begin),
            gate.server(client),
            ready.query(executor, values),
            client.batch_execute("COMMIT"),
        );
        let server = server?;
        started.map_err(|error| {
            let error = errors::write(errors::statement(error));
            // Without a transaction, the statement has already been committed.
            if rows.is_ok() {
                error.with_outcome_unknown()
            } else {
                error
            }
        })?;
        let rows = rows.map_err(errors::write)?;
        ended.map_err(errors::commit)?;
        Ok((rows, server))
    }

    /// Runs a statement and returns the number of changed rows.
    pub(crate) async fn execute(
        &self,
        executor: Executor<'_>,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<u64, Error> {
        let client = executor.client;
        let changed = match self.ready(executor, statement).await? {
            Ready::Prepared(prepared) => client.execute(&prepared, values).await,
            Ready::Unnamed { sql, types } => {
                client.execute_typed(sql, &typed(values, &types)).await
            }
        };
        changed.map_err(errors::statement)
    }

    /// Prepares the lookup on a connection for lookups.
    pub(crate) async fn prepare_lookup(
        &self,
        client: &Client,
        find: &Statement,
        gate: &Gate,
    ) -> Result<LookupStatement, Error> {
        let sql = gate.lookup_sql(find.text(client).await?);
        match self {
            Self::Prepared => {
                let prepared = client.prepare(&sql).await;
                prepared
                    .map(LookupStatement::Prepared)
                    .map_err(errors::statement)
            }
            Self::Unnamed(users) => {
                users.check_columns(client, find.table()).await?;
                Ok(LookupStatement::Unnamed(sql.into_owned()))
            }
        }
    }

    /// Verifies that the driver can read the columns in [`PgUser`].
    pub(crate) async fn check_columns(
        &self,
        executor: Executor<'_>,
        table: &str,
    ) -> Result<(), Error> {
        match self {
            Self::Prepared => Ok(()),
            Self::Unnamed(users) => users.check_columns(executor.client, table).await,
        }
    }

    /// Verifies that a statement matches the tables and that the role may run it, without running
    /// it. The statement is planned, because preparing it verifies no privileges.
    pub(crate) async fn check(
        &self,
        executor: Executor<'_>,
        gate: &Gate,
        statement: &Statement,
        accepts_key: fn(&Type) -> bool,
    ) -> Result<(), Error> {
        let nothing = vec![&Null as &(dyn ToSql + Sync); statement.parameters()];
        let sql = &*gate.lookup_sql(statement.text(executor.client).await?);
        let parameters = match self {
            Self::Prepared => {
                let prepared = executor
                    .client
                    .prepare(sql)
                    .await
                    .map_err(errors::statement)?;
                prepared.params().to_vec()
            }
            Self::Unnamed(users) => parameter_types(users, executor.client, statement).await?,
        };
        if let Some(key) = statement
            .key_type(&parameters)
            .filter(|key| !accepts_key(key))
        {
            let finding =
                format!("the users' key has the type {key}, which PgUser::Id does not accept");
            return Err(Error::new(ErrorKind::Schema, finding));
        }
        if statement.can_be_explained() {
            let explain = format!("EXPLAIN {sql}");
            let typed = typed(&nothing, &parameters);
            let explained = executor.client.query_typed(&explain, &typed).await;
            explained.map_err(errors::statement)?;
        }
        Ok(())
    }
}

async fn parameter_types(
    users: &UserTypes,
    client: &Client,
    statement: &Statement,
) -> Result<Vec<Type>, Error> {
    let key = if statement.has_user_key_parameter() {
        users.key_type_on(client, statement.table()).await?
    } else {
        Type::UNKNOWN
    };
    let table = statement.table();
    let mut others = users
        .precondition_types(client, table, statement.preconditions())
        .await?;
    let of_session = users.session_column_types(client, table, statement.session_columns());
    others.extend(of_session.await?);
    Ok(statement.types(&key, others))
}

fn typed<'a>(values: Values<'a>, types: &[Type]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    values.iter().copied().zip(types.iter().cloned()).collect()
}

impl Ready<'_> {
    pub(crate) async fn query(
        &self,
        executor: Executor<'_>,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let rows = match self {
            Self::Prepared(prepared) => executor.client.query(prepared, values).await,
            Self::Unnamed { sql, types } => {
                let typed = typed(values, types);
                executor.client.query_typed(sql, &typed).await
            }
        };
        rows.map_err(errors::statement)
    }
}

impl LookupStatement {
    pub(crate) async fn query(
        &self,
        client: &Client,
        find: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let rows = match self {
            Self::Prepared(prepared) => client.query(prepared, values).await,
            Self::Unnamed(sql) => {
                let typed = typed(values, &find.types(&Type::UNKNOWN, Vec::new()));
                client.query_typed(sql, &typed).await
            }
        };
        rows.map_err(errors::statement)
    }
}

impl<'a> Executor<'a> {
    pub(crate) fn connection(connection: &'a ClientWrapper) -> Self {
        Self {
            client: connection,
            prepared: Some(&*connection.statement_cache),
            own: None,
        }
    }

    /// Uses a transaction of the application, from any pool. Prepared statements are not cached.
    pub(crate) fn transaction(transaction: &'a Transaction<'_>) -> Self {
        Self {
            client: GenericClient::client(transaction),
            prepared: None,
            own: None,
        }
    }

    async fn prepare(&self, statement: &Statement) -> Result<tokio_postgres::Statement, Error> {
        let sql = statement.text(self.client).await?;
        let prepared = match self.prepared {
            Some(cache) => cache.prepare(self.client, sql).await,
            None => self.client.prepare(sql).await,
        };
        prepared.map_err(errors::statement)
    }
}

/// NULL of any type, for a statement that is planned and not run.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, BoxError> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
