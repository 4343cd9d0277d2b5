//! How statements are run: prepared on a connection once, under a name, and found there again; or, where
//! the next transaction may run on another server connection, each time whole and without a name.

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
        sql::{
            statement::{Statement, Values},
            user_types::UsersTypes,
        },
        user::PgUser,
    },
};

/// The settings of a connection for lookups.
///
/// There is one plan for every execution, made so that it stays good: a table that was tiny when the plan was
/// made must not be read from end to end once it has grown, and a plan over an index that is still
/// estimated as expensive must not be compiled at length.
pub(crate) fn lookup_settings(deadline: Duration) -> String {
    format!(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off; \
         SET default_transaction_isolation = 'read committed'; SET row_security = off; \
         SET statement_timeout = {}",
        deadline.as_millis()
    )
}

/// The settings of a connection for writes: the bounds of a write that waits for a lock only briefly.
pub(crate) fn write_settings(deadline: Duration) -> String {
    let (statement, lock) = (
        deadline.as_millis(),
        BRIEF_LOCK_WAIT.min(deadline).as_millis(),
    );
    format!(
        "SET default_transaction_isolation = 'read committed'; SET row_security = off; \
         SET statement_timeout = {statement}; SET lock_timeout = {lock}; \
         SET idle_in_transaction_session_timeout = {statement}"
    )
}

/// Closing a connection does not end its backend. With this setting, the server notices within half a second.
/// Not every platform accepts it.
const NOTICE_DISCONNECTION: &str = "SET client_connection_check_interval = '500ms'";

/// Sets the settings of a new connection.
pub(crate) async fn set(client: &Client, settings: &str) -> Result<(), Error> {
    let (set, _) = join!(
        biased;
        client.batch_execute(settings),
        client.batch_execute(NOTICE_DISCONNECTION),
    );
    set.map_err(errors::statement)
}

/// A write waits this long for a lock at first. If it needs longer, it gives its connection back and waits for
/// its turn among the writes that do: all but one of the connections never wait longer for a lock.
pub(crate) const BRIEF_LOCK_WAIT: Duration = Duration::from_millis(50);

/// How long the server may take for a transaction of the store's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For each statement. A client that vanishes between two of them loses its locks after as long.
    pub(crate) statement: Duration,
    /// For each lock.
    pub(crate) lock: Duration,
}

impl Bounds {
    /// Begins a transaction at `READ COMMITTED`, whatever the role's or the database's default is: every
    /// statement after a lock must see what the transactions before it have committed. It does not say
    /// `READ WRITE`, so that a server which accepts no writes says so.
    fn begin(self) -> String {
        let (statement, lock) = (self.statement.as_millis(), self.lock.as_millis());
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {statement}; \
             SET LOCAL lock_timeout = {lock}; SET LOCAL row_security = off; \
             SET LOCAL idle_in_transaction_session_timeout = {statement}"
        )
    }
}

/// Every statement of the store goes through here.
#[derive(Debug)]
pub(crate) enum Execution {
    Prepared,
    /// One round trip each. That needs the types of the parameters, and so those of the user's columns.
    Unnamed(UsersTypes),
}

/// A connection, or a transaction on one, and what is prepared there.
#[derive(Clone, Copy)]
pub(crate) struct On<'a> {
    client: &'a Client,
    /// None in a transaction of the application's.
    prepared: Option<&'a StatementCache>,
}

/// How the lookup runs on a connection that is ready for it.
pub(crate) enum Find {
    Prepared(tokio_postgres::Statement),
    Unnamed,
}

impl Execution {
    pub(crate) fn unnamed<U: PgUser>() -> Self {
        Self::Unnamed(UsersTypes::new::<U>())
    }

    pub(crate) async fn query(
        &self,
        on: On<'_>,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let rows = match self {
            Self::Prepared => {
                let prepared = on.prepare(statement).await?;
                on.client.query(&prepared, values).await
            }
            Self::Unnamed(users) => {
                let typed = typed(users, on.client, statement, values).await?;
                let sql = statement.text(on.client).await?;
                on.client.query_typed(sql, &typed).await
            }
        };
        rows.map_err(errors::statement)
    }

    /// Begins a transaction on a connection of the store's own.
    pub(crate) async fn begin(client: &Client, bounds: Bounds) -> Result<(), Error> {
        let begun = client.batch_execute(&bounds.begin()).await;
        begun.map_err(errors::statement)
    }

    /// Whether the connections for writes have settings, so that a statement needs no transaction for them.
    pub(crate) const fn has_settings(&self) -> bool {
        matches!(self, Self::Prepared)
    }

    /// Like [`query`](Self::query), in a transaction of its own. `BEGIN`, the statement and `COMMIT` are sent
    /// together, so that this takes one round trip. The statement's result decides: if it failed, the
    /// server turns `COMMIT` into a rollback.
    pub(crate) async fn alone(
        &self,
        on: On<'_>,
        bounds: Bounds,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let client = on.client;
        let begin = bounds.begin();
        let begin = client.batch_execute(&begin);
        let end = client.batch_execute("COMMIT");
        let (started, rows, ended) = match self {
            Self::Prepared => {
                let prepared = on.prepare(statement).await?;
                join!(biased; begin, client.query(&prepared, values), end)
            }
            Self::Unnamed(users) => {
                let typed = typed(users, client, statement, values).await?;
                let sql = statement.text(client).await?;
                join!(biased; begin, client.query_typed(sql, &typed), end)
            }
        };
        started.map_err(|error| {
            let error = errors::write(errors::statement(error));
            // Without a transaction around it, the statement has been committed by itself.
            if rows.is_ok() {
                error.with_outcome_unknown()
            } else {
                error
            }
        })?;
        let rows = rows.map_err(|error| errors::write(errors::statement(error)))?;
        ended.map_err(errors::commit)?;
        Ok(rows)
    }

    /// Like [`query`](Self::query), for the number of rows that it changed.
    pub(crate) async fn execute(
        &self,
        on: On<'_>,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<u64, Error> {
        let changed = match self {
            Self::Prepared => {
                let prepared = on.prepare(statement).await?;
                on.client.execute(&prepared, values).await
            }
            Self::Unnamed(users) => {
                let typed = typed(users, on.client, statement, values).await?;
                let sql = statement.text(on.client).await?;
                on.client.execute_typed(sql, &typed).await
            }
        };
        changed.map_err(errors::statement)
    }

    /// Makes a connection that serves lookups alone ready for them.
    pub(crate) async fn ready(&self, client: &Client, find: &Statement) -> Result<Find, Error> {
        match self {
            Self::Prepared => {
                let prepared = client.prepare(find.text(client).await?).await;
                prepared.map(Find::Prepared).map_err(errors::statement)
            }
            Self::Unnamed(users) => {
                users.check_columns(client).await?;
                Ok(Find::Unnamed)
            }
        }
    }

    /// Whether the columns in [`PgUser`] can be read.
    pub(crate) async fn check_columns(&self, on: On<'_>) -> Result<(), Error> {
        match self {
            Self::Prepared => Ok(()),
            Self::Unnamed(users) => users.check_columns(on.client).await,
        }
    }

    /// Whether a statement fits the tables and the role may run it, without running it. It is planned, because
    /// preparing alone asks for no rights.
    pub(crate) async fn check(
        &self,
        on: On<'_>,
        statement: &Statement,
        accepts_key: fn(&Type) -> bool,
    ) -> Result<(), Error> {
        let nothing = vec![&Null as &(dyn ToSql + Sync); statement.parameters()];
        let sql = statement.text(on.client).await?;
        let typed = match self {
            Self::Prepared => {
                let prepared = on.client.prepare(sql).await.map_err(errors::statement)?;
                let parameters = prepared.params().iter().cloned();
                nothing.iter().copied().zip(parameters).collect()
            }
            Self::Unnamed(users) => typed(users, on.client, statement, &nothing).await?,
        };
        let parameters: Vec<_> = typed.iter().map(|(_, each)| each.clone()).collect();
        if let Some(key) = statement
            .key_type(&parameters)
            .filter(|key| !accepts_key(key))
        {
            let text =
                format!("the users' key has the type {key}, which PgUser::Id does not accept");
            return Err(Error::new(ErrorKind::Schema, text));
        }
        if statement.can_be_explained() {
            let explain = format!("EXPLAIN {sql}");
            let explained = on.client.query_typed(&explain, &typed).await;
            explained.map_err(errors::statement)?;
        }
        Ok(())
    }
}

async fn typed<'a>(
    users: &UsersTypes,
    client: &Client,
    statement: &Statement,
    values: Values<'a>,
) -> Result<Vec<(&'a (dyn ToSql + Sync), Type)>, Error> {
    let key = if statement.names_a_user() {
        users.of_key(client).await?
    } else {
        Type::UNKNOWN
    };
    let preconditions = users.of(client, statement.preconditions()).await?;
    Ok(statement.typed(values, &key, preconditions))
}

impl Find {
    pub(crate) async fn query(
        &self,
        client: &Client,
        find: &Statement,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let rows = match self {
            Self::Prepared(prepared) => client.query(prepared, values).await,
            Self::Unnamed => {
                let typed = find.typed(values, &Type::UNKNOWN, Vec::new());
                let sql = find.text(client).await?;
                client.query_typed(sql, &typed).await
            }
        };
        rows.map_err(errors::statement)
    }
}

impl<'a> On<'a> {
    pub(crate) fn connection(connection: &'a ClientWrapper) -> Self {
        Self {
            client: connection,
            prepared: Some(&*connection.statement_cache),
        }
    }

    /// In a transaction of the application's, whatever pool it comes from. Nothing is kept prepared.
    pub(crate) fn transaction(transaction: &'a Transaction<'_>) -> Self {
        Self {
            client: GenericClient::client(transaction),
            prepared: None,
        }
    }

    async fn prepare(&self, statement: &Statement) -> Result<tokio_postgres::Statement, Error> {
        let sql = statement.text(self.client).await?;
        let prepared = match self.prepared {
            Some(kept) => kept.prepare(self.client, sql).await,
            None => self.client.prepare(sql).await,
        };
        prepared.map_err(errors::statement)
    }
}

/// Null, of any type: for a statement that is not run.
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
