//! What a check found out about the server.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Timeouts};

use crate::{
    error::Error,
    postgres::{decode::column, errors},
};

/// What kind of server answers, as [`PgSessionStore::check`](crate::PgSessionStore::check) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    server_version: String,
    in_recovery: bool,
    encrypted: Option<bool>,
    local: bool,
    wait_timeout: Option<Duration>,
    create_timeout: Option<Duration>,
}

impl CheckReport {
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

    /// How long the pool lets a caller wait for a connection. `None` means without limit, once all are
    /// lent; only this crate's own calls have a [deadline](crate::service::DEFAULT_DEADLINE) besides.
    pub const fn wait_timeout(&self) -> Option<Duration> {
        self.wait_timeout
    }

    /// How long opening a connection of the pool may take. `None` means without limit, when a host takes
    /// the connection and then says nothing.
    pub const fn create_timeout(&self) -> Option<Duration> {
        self.create_timeout
    }

    pub(super) async fn read(client: &ClientWrapper, timeouts: Timeouts) -> Result<Self, Error> {
        let row = client
            .query_typed_one(
                "SELECT pg_catalog.current_setting('server_version'),
                        pg_catalog.pg_is_in_recovery(),
                        (SELECT ssl.ssl FROM pg_catalog.pg_stat_ssl AS ssl
                         WHERE ssl.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()),
                        coalesce(pg_catalog.inet_client_addr() OPERATOR(pg_catalog.<<=) '127.0.0.0/8'
                                 OR pg_catalog.inet_client_addr() OPERATOR(pg_catalog.=) '::1', true)",
                &[],
            )
            .await
            .map_err(errors::statement)?;
        Ok(Self {
            server_version: column(&row, 0)?,
            in_recovery: column(&row, 1)?,
            encrypted: column(&row, 2)?,
            local: column(&row, 3)?,
            wait_timeout: timeouts.wait,
            create_timeout: timeouts.create,
        })
    }

    pub(super) fn warn(&self) {
        if self.encrypted == Some(false) && !self.local {
            tracing::warn!("the connection to the database on another host is not encrypted");
        }
        if self.wait_timeout.is_none() || self.create_timeout.is_none() {
            tracing::warn!(
                wait_timeout = ?self.wait_timeout,
                create_timeout = ?self.create_timeout,
                "the pool has no timeout, so that a caller may wait for a connection without limit"
            );
        }
    }
}

/// Behind a transaction pooler the store cannot set the time limit of lookups.
pub(super) async fn warn_without_statement_timeout(client: &ClientWrapper) -> Result<(), Error> {
    let asked = client.query_typed_one(
        "SELECT pg_catalog.current_setting('statement_timeout')",
        &[],
    );
    let row = asked.await.map_err(errors::statement)?;
    let timeout: String = column(&row, 0)?;
    if timeout == "0" {
        tracing::warn!(
            "the database role has no statement_timeout, so that a lookup goes on after it was given up: ALTER ROLE … \
             SET statement_timeout"
        );
    }
    Ok(())
}
