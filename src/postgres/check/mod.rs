//! Startup checks: verifies schema, privileges, users and connection settings.

mod engine;
mod report;
mod table;
mod users;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::ToSql;

pub use self::report::CheckReport;
pub(super) use self::users::NO_OUTER_JOIN;
use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connection_set::PooledConnection,
        decode, errors,
        feed::SCHEMA_VERSION,
        hosts, same_settings,
        sql::{execution::Executor, statement::Statement},
        store::PgSessionStore,
        user::PgUser,
    },
    session::TokenDigest,
    store::SessionLookup as _,
};

/// A digest that matches no session.
const UNKNOWN_DIGEST: [TokenDigest; 1] = [TokenDigest::from_bytes([0; 32])];

/// A policy must cause an error, not an empty result. The transaction is rolled back.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL row_security = off";

impl<U: PgUser> PgSessionStore<U> {
    /// Verifies at startup that the database matches this store, and returns a report about the
    /// server. It reads one user and writes nothing.
    ///
    /// It opens the store's own connections, and verifies on them:
    ///
    /// * the sessions table: an ordinary table with the expected columns and types, and a unique
    ///   index on the digest; `user_id` has the type and the collation of the key to which it
    ///   refers;
    /// * every statement: its parameter types, including [`PgUser::Id`], and the privileges that it
    ///   needs;
    /// * [`PgUser`]: no duplicate column name, no aggregate, no second row for a user, and
    ///   [`from_row`](PgUser::from_row) for one user, if there is one;
    /// * row-level security: no policy hides rows of a table;
    /// * transactions: they are not read-only;
    /// * advisory locks: they exclude other connections, which another engine with PostgreSQL's
    ///   protocol may not implement;
    /// * the pool: its connections have the same role and search path, and see the same tables.
    ///
    /// It logs a warning in each of these cases: the server does not support `LISTEN`; a connection
    /// to another host is not encrypted; the pool has no timeouts; the pool has several hosts
    /// without `target_session_attrs`; `user_id` has no foreign key; a role behind a transaction
    /// pooler has no `statement_timeout`; a [function](super::Migrate#functions-for-other-clients)
    /// for other clients is missing; the role cannot read the server's timeline.
    ///
    /// A successful check of one user does not guarantee that other users can be read. Each lookup
    /// verifies its own rows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if a table, [`PgUser`] or a privilege does not match: the source names
    /// each finding and its remedy. Also [`ErrorKind::Schema`] if notification triggers have
    /// another schema version; the source names the required version. [`ErrorKind::Configuration`]
    /// if a connection of the pool differs, or if advisory locks do not exclude other connections.
    /// [`ErrorKind::Decode`] or [`ErrorKind::Panicked`] if `from_row` cannot read the user.
    /// [`ErrorKind::Recovery`] if the server is in recovery and stale reads are not allowed. Other
    /// errors are those of a lookup.
    pub async fn check(&self) -> Result<CheckReport, Error> {
        let check = run(self).await?;
        let own = self.connections.writes.acquire().await?;
        let outdated = self.triggers_are_outdated(&own).await;
        own.release();
        if outdated? {
            let version =
                format!("this version of the crate needs schema version {SCHEMA_VERSION}");
            return Err(Error::new(ErrorKind::Schema, version).with_message(
                "the notification triggers have another schema version: run \
                 Migrate::notify_on_revocation or Migrate::notify_on_user_change",
            ));
        }
        Ok(check)
    }

    async fn triggers_are_outdated(&self, own: &PooledConnection) -> Result<bool, Error> {
        let (executor, table) = (Executor::connection(own), self.table.to_sql());
        let outdated = &self.statements.outdated;
        let rows = self.execution.query(executor, outdated, &[&table]).await?;
        decode::column(rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?, 0)
    }
}

async fn run<U: PgUser>(store: &PgSessionStore<U>) -> Result<CheckReport, Error> {
    store.connections.fill().await?;
    let own = store.connections.writes.acquire().await?;
    let mut check = with(store, &own).await?;
    check.fenced = own.gate.is_fenced();
    check.accepts_listen = engine::accepts_listen(&own).await?;
    if !check.in_recovery() {
        let second = store.connections.writes.acquire().await?;
        if engine::advisory_locks_exclude(&own, &second).await? {
            second.release();
        }
    }
    same_settings::check::<U>(store.pool(), &own, &store.table).await?;
    if !store.execution.has_settings() {
        report::warn_without_statement_timeout(&own).await?;
    }
    own.release();
    // This statement runs on a connection for lookups.
    store.find(&UNKNOWN_DIGEST).await?;
    check.warn();
    hosts::warn(store.pool());
    Ok(check)
}

async fn with<U: PgUser>(
    store: &PgSessionStore<U>,
    client: &PooledConnection,
) -> Result<CheckReport, Error> {
    let mut check = CheckReport::read(client, store.pool().timeouts()).await?;
    store.reject_recovery(check.in_recovery())?;
    let executor = Executor::connection(client);
    let table = &store.statements.check_table;
    let name = store.table.to_sql();
    let rows = store.execution.query(executor, table, &[&name]).await;
    let rows = rows.map_err(with_remedy)?;
    let row = rows.into_iter().next();
    let row = row.ok_or(Error::from_kind(ErrorKind::Decode))?;
    let findings = table::findings(&row, check.in_recovery())?;
    if !findings.is_empty() {
        return Err(
            Error::new(ErrorKind::Schema, findings.join("; ")).with_message(
                "checking the sessions table failed: the source of this error names each finding \
                 and its remedy",
            ),
        );
    }
    for statement in store.statements.all() {
        if check.in_recovery() && statement.writes() {
            continue;
        }
        rolled_back(client, check_statement(store, client, statement)).await?;
    }
    let name = store.table.to_sql();
    store.execution.check_columns(executor, &name).await?;
    rolled_back(client, users::check::<U>(store, executor)).await?;
    check.missing_functions = row
        .try_get("missing_functions")
        .map_err(|error| Error::new(ErrorKind::Decode, error))?;
    Ok(check)
}

async fn check_statement<U: PgUser>(
    store: &PgSessionStore<U>,
    connection: &PooledConnection,
    statement: &Statement,
) -> Result<(), Error> {
    let accepts_key = <U::Id as ToSql>::accepts;
    let (executor, gate) = (Executor::connection(connection), &connection.gate);
    let checked = store
        .execution
        .check(executor, gate, statement, accepts_key);
    checked.await.map_err(with_remedy)
}

fn with_remedy(error: Error) -> Error {
    match errors::remedy(&error) {
        Some(remedy) => error.with_message(remedy),
        None => error,
    }
}

/// Runs a check in a transaction, which is rolled back.
async fn rolled_back<T>(
    client: &ClientWrapper,
    checking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let begun = client.batch_execute(BEGIN).await;
    begun.map_err(errors::statement)?;
    let checked = checking.await;
    let rolled_back = client.batch_execute("ROLLBACK").await;
    let checked = checked?;
    rolled_back.map_err(errors::statement)?;
    Ok(checked)
}
