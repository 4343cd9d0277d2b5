//! Whether the database fits, asked before the first request does.

use deadpool_postgres::Object;

use super::{failure, statements::Statements};
use crate::Error;

/// What kind of server answers, as [`PgSessionStore::check`](super::PgSessionStore::check) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    server_version: String,
    in_recovery: bool,
    encrypted: Option<bool>,
    local: bool,
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
}

/// Rights on columns are found out only by running a statement; this one finds nothing.
const NOBODY: [crate::TokenDigest; 1] = [crate::TokenDigest::from_bytes([0; 32])];

pub(super) async fn run(client: &Object, statements: &Statements) -> Result<Check, Error> {
    let find = client
        .prepare(&statements.find)
        .await
        .map_err(failure::statement)?;
    client
        .query(&find, &[&&NOBODY[..], &None::<f64>, &0_i64])
        .await
        .map_err(failure::statement)?;
    for statement in statements.all() {
        client
            .prepare(statement)
            .await
            .map_err(failure::statement)?;
    }
    let row = client
        .query_one(
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
    let check = Check {
        server_version: row.try_get(0).map_err(read)?,
        in_recovery: row.try_get(1).map_err(read)?,
        encrypted: row.try_get(2).map_err(read)?,
        local: row.try_get(3).map_err(read)?,
    };
    if check.encrypted == Some(false) && !check.local {
        tracing::warn!("the connection to the database on another host is not encrypted");
    }
    Ok(check)
}
