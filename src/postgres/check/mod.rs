//! Startup checks: verifies the tables, the rights, the users and the connection before the first request.

mod hosts;
mod report;
mod table;
mod users;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::ToSql;

pub use self::report::CheckReport;
use crate::{
    error::{Error, ErrorKind},
    postgres::{
        errors, same_settings,
        sql::{execution::On, statement::Statement},
        store::PgSessionStore,
        user::PgUser,
    },
    session::TokenDigest,
    store::SessionLookup as _,
};

/// A lookup of this digest finds nothing.
const NOBODY: [TokenDigest; 1] = [TokenDigest::from_bytes([0; 32])];

/// Policies must be an error, and not an empty answer. What the check does is rolled back.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL row_security = off";

pub(super) async fn run<U: PgUser>(store: &PgSessionStore<U>) -> Result<CheckReport, Error> {
    store.connections.fill().await?;
    let own = store.connections.writes.acquire().await?;
    let check = with(store, &own).await?;
    same_settings::check::<U>(store.pool(), &own, &store.table).await?;
    if !store.execution.has_settings() {
        report::warn_without_statement_timeout(&own).await?;
    }
    own.keep();
    // On a connection of the lookups.
    store.find(&NOBODY).await?;
    check.warn();
    hosts::warn(store.pool());
    Ok(check)
}

async fn with<U: PgUser>(
    store: &PgSessionStore<U>,
    client: &ClientWrapper,
) -> Result<CheckReport, Error> {
    let check = CheckReport::read(client, store.pool().timeouts()).await?;
    store.refuse_recovery(check.in_recovery())?;
    let on = On::connection(client);
    let table = &store.statements.check_table;
    let name = store.table.to_sql();
    let rows = store.execution.query(on, table, &[&name]).await?;
    let row = rows.into_iter().next();
    let row = row.ok_or(Error::from_kind(ErrorKind::Decode))?;
    let findings = table::findings(&row, check.in_recovery())?;
    if !findings.is_empty() {
        return Err(
            Error::new(ErrorKind::Schema, findings.join("; ")).with_message(
                "the sessions table does not fit: its source names each finding and its remedy",
            ),
        );
    }
    for statement in store.statements.all() {
        if check.in_recovery() && statement.writes() {
            continue;
        }
        rolled_back(client, check_statement::<U>(store, on, statement)).await?;
    }
    store.execution.check_columns(on).await?;
    rolled_back(client, users::check::<U>(store, on)).await?;
    Ok(check)
}

async fn check_statement<U: PgUser>(
    store: &PgSessionStore<U>,
    on: On<'_>,
    statement: &Statement,
) -> Result<(), Error> {
    let accepts_key = <U::Id as ToSql>::accepts;
    let checked = store.execution.check(on, statement, accepts_key).await;
    checked.map_err(|error| {
        let Some(context) = errors::remedy(&error) else {
            return error;
        };
        error.with_message(context)
    })
}

async fn rolled_back(
    client: &ClientWrapper,
    checking: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let begun = client.batch_execute(BEGIN).await;
    begun.map_err(errors::statement)?;
    let checked = checking.await;
    let rolled_back = client.batch_execute("ROLLBACK").await;
    checked?;
    rolled_back.map_err(errors::statement)
}
