//! Whether the database fits, asked before the first request does.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Timeouts};
use tokio_postgres::types::ToSql;

use super::{
    execution::{Execution, Find, On},
    failure,
    statements::Statements,
};
use crate::Error;

/// What kind of server answers, as [`PgSessionStore::check`](super::PgSessionStore::check) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    server_version: String,
    in_recovery: bool,
    encrypted: Option<bool>,
    local: bool,
    wait_timeout: Option<Duration>,
    create_timeout: Option<Duration>,
}

impl Check {
    /// The server's version, as it states it.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Whether the server is in recovery: a replica.
    pub const fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Whether the connection is encrypted, as the server sees it. `None` where it does not say.
    pub const fn encrypted(&self) -> Option<bool> {
        self.encrypted
    }

    /// Whether the server sees the connection come over a Unix socket or the loopback interface.
    pub const fn is_local(&self) -> bool {
        self.local
    }

    /// How long the pool lets a caller wait for a connection. `None` means for ever, once all are
    /// lent; only this crate's own calls have a [deadline](crate::DEFAULT_DEADLINE) besides.
    pub const fn wait_timeout(&self) -> Option<Duration> {
        self.wait_timeout
    }

    /// How long opening a connection of the pool may take. `None` means for ever, when a host takes
    /// the connection and then says nothing.
    pub const fn create_timeout(&self) -> Option<Duration> {
        self.create_timeout
    }
}

/// Rights on columns are found out only by running a statement; this one finds nothing.
const NOBODY: [crate::TokenDigest; 1] = [crate::TokenDigest::from_bytes([0; 32])];

pub(super) async fn run(
    client: &ClientWrapper,
    execution: &Execution,
    statements: &Statements,
    timeouts: Timeouts,
) -> Result<Check, Error> {
    let on = On::connection(client);
    execution.check_columns(on).await?;
    let nobody: [&(dyn ToSql + Sync); 3] = [&&NOBODY[..], &None::<f64>, &0_i64];
    Find::Unnamed
        .query(client, &statements.find, &nobody)
        .await?;
    for statement in statements.all() {
        execution.check(on, statement).await?;
    }
    let row = client
        .query_typed_one(
            "SELECT pg_catalog.current_setting('server_version'),
                    pg_catalog.pg_is_in_recovery(),
                    (SELECT ssl.ssl FROM pg_catalog.pg_stat_ssl AS ssl
                     WHERE ssl.pid = pg_catalog.pg_backend_pid()),
                    coalesce(pg_catalog.inet_client_addr() <<= '127.0.0.0/8'
                             OR pg_catalog.inet_client_addr() = '::1', true)",
            &[],
        )
        .await
        .map_err(failure::statement)?;
    let read = |error| Error::new(crate::ErrorKind::Row, error);
    if !execution.has_settings() {
        warn_without_statement_timeout(client).await?;
    }
    let check = Check {
        server_version: row.try_get(0).map_err(read)?,
        in_recovery: row.try_get(1).map_err(read)?,
        encrypted: row.try_get(2).map_err(read)?,
        local: row.try_get(3).map_err(read)?,
        wait_timeout: timeouts.wait,
        create_timeout: timeouts.create,
    };
    if check.encrypted == Some(false) && !check.local {
        tracing::warn!("the connection to the database on another host is not encrypted");
    }
    if check.wait_timeout.is_none() || check.create_timeout.is_none() {
        tracing::warn!(
            wait_timeout = ?check.wait_timeout,
            create_timeout = ?check.create_timeout,
            "the pool has no timeout, so that a caller may wait for a connection for ever"
        );
    }
    Ok(check)
}

/// Behind a transaction pooler the store cannot set the time limit of lookups.
async fn warn_without_statement_timeout(client: &ClientWrapper) -> Result<(), Error> {
    let asked = client.query_typed_one(
        "SELECT pg_catalog.current_setting('statement_timeout')",
        &[],
    );
    let row = asked.await.map_err(failure::statement)?;
    let timeout: String = row
        .try_get(0)
        .map_err(|error| Error::new(crate::ErrorKind::Row, error))?;
    if timeout == "0" {
        tracing::warn!(
            "the database role has no statement_timeout, so that a lookup goes on after it was given up: ALTER ROLE … \
             SET statement_timeout"
        );
    }
    Ok(())
}
