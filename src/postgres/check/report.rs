//! Report of the startup check.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Timeouts};

use crate::{
    error::{Error, ErrorKind},
    postgres::{decode::column, errors},
};

/// Properties of the server and the pool, as
/// [`PgSessionStore::check`](crate::PgSessionStore::check) found them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct CheckReport {
    server_version: String,
    in_recovery: bool,
    pub(super) fenced: bool,
    pub(super) accepts_listen: bool,
    pub(super) missing_functions: Vec<String>,
    encrypted: Option<bool>,
    local: bool,
    wait_timeout: Option<Duration>,
    create_timeout: Option<Duration>,
}

impl CheckReport {
    /// Returns the server's version, as the server reports it.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// Returns whether the server is in recovery: a replica.
    pub const fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Returns whether the store detects that this server was replaced by another primary. It is
    /// false if the role may not execute `pg_control_system()`, `pg_walfile_name` or
    /// `pg_current_wal_lsn()`, or if the server does not have them.
    pub const fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Returns whether the server accepts `LISTEN`, which the cache and the streams need. A replica
    /// does not accept it. A server may accept it without delivering notifications; the feed
    /// detects that when it subscribes.
    pub const fn accepts_listen(&self) -> bool {
        self.accepts_listen
    }

    /// Returns the names of those [functions](crate::postgres::Migrate#functions-for-other-clients)
    /// for other clients that do not exist in the version of this crate, with their schema.
    /// [`migrate`](crate::PgSessionStore::migrate) creates them. The store itself does not need
    /// them. An application that calls them can call [`require_functions`](Self::require_functions).
    pub fn missing_functions(&self) -> &[String] {
        &self.missing_functions
    }

    /// Returns this report, or an error if a [function](Self::missing_functions) is missing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`], with the names of the functions.
    pub fn require_functions(self) -> Result<Self, Error> {
        if self.missing_functions.is_empty() {
            return Ok(self);
        }
        let missing = self.missing_functions.join(", ");
        Err(Error::new(ErrorKind::Schema, missing).with_message(
            "SQL functions for other clients are missing or outdated: run migrate(), or \
             migrations/0003_revoke_sessions.sql",
        ))
    }

    /// Returns whether the connection is encrypted, as the server reports it. `None` if the server
    /// does not report it.
    pub const fn encrypted(&self) -> Option<bool> {
        self.encrypted
    }

    /// Returns whether the connection uses a Unix socket or the loopback interface, as the server
    /// reports it.
    pub const fn is_local(&self) -> bool {
        self.local
    }

    /// Returns how long a caller may wait for a connection of the pool. `None` means without limit.
    /// The [deadline](crate::service::DEFAULT_DEADLINE) limits only the calls of this crate.
    pub const fn wait_timeout(&self) -> Option<Duration> {
        self.wait_timeout
    }

    /// Returns how long opening a connection of the pool may take. `None` means without limit, for
    /// example if a host accepts the connection and then does not respond.
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
            fenced: false,
            accepts_listen: false,
            missing_functions: Vec::new(),
            encrypted: column(&row, 2)?,
            local: column(&row, 3)?,
            wait_timeout: timeouts.wait,
            create_timeout: timeouts.create,
        })
    }

    pub(super) fn warn(&self) {
        if !self.missing_functions.is_empty() {
            tracing::warn!(
                target: "tower_user_session",
                event = "functions_missing",
                functions = self.missing_functions.join(", "),
                "SQL functions that end sessions for other clients are missing or outdated: run \
                 migrate(), or migrations/0003_revoke_sessions.sql"
            );
        }
        if !self.fenced {
            tracing::warn!(
                target: "tower_user_session",
                event = "not_fenced",
                "the role cannot read the timeline of the server: a primary that was replaced is \
                 not detected; grant EXECUTE on pg_control_system(), pg_walfile_name and \
                 pg_current_wal_lsn()"
            );
        }
        if !self.accepts_listen && !self.in_recovery {
            tracing::warn!(
                target: "tower_user_session",
                event = "listen_unsupported",
                "the server does not support LISTEN: the cache and the feed cannot be enabled"
            );
        }
        if self.encrypted == Some(false) && !self.local {
            tracing::warn!(
                target: "tower_user_session",
                event = "database_unencrypted",
                "the connection to the database on another host is not encrypted"
            );
        }
        if self.wait_timeout.is_none() || self.create_timeout.is_none() {
            tracing::warn!(
                target: "tower_user_session",
                event = "pool_without_timeout",
                wait_timeout = ?self.wait_timeout,
                create_timeout = ?self.create_timeout,
                "the pool has no timeout: a caller may wait for a connection without limit"
            );
        }
    }
}

/// Logs a warning if the role has no `statement_timeout`. Behind a transaction pooler, the store
/// cannot set a time limit for lookups.
pub(super) async fn warn_without_statement_timeout(client: &ClientWrapper) -> Result<(), Error> {
    let row = client.query_typed_one(
        "SELECT pg_catalog.current_setting('statement_timeout')",
        &[],
    );
    let row = row.await.map_err(errors::statement)?;
    let timeout: String = column(&row, 0)?;
    if timeout == "0" {
        tracing::warn!(
            target: "tower_user_session",
            event = "role_without_timeout",
            "the database role has no statement_timeout: a lookup continues on the server after \
             it has timed out; run ALTER ROLE … SET statement_timeout"
        );
    }
    Ok(())
}
