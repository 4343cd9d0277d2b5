//! Features that other engines with PostgreSQL's protocol may lack.

use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use rand::{TryRng, rngs::SysRng};
use tokio::time::timeout;
use tokio_postgres::types::Type;

use crate::{
    error::{Error, ErrorKind},
    postgres::{check::rolled_back, decode::column, errors},
};

/// The time after which a transaction pooler apparently has no second server connection.
const POOLER_WAIT: Duration = Duration::from_secs(1);

/// Verifies that an advisory lock of one connection excludes another connection. The limit of
/// sessions per user and the deletion of expired sessions depend on such locks. Returns whether the
/// second connection responded: behind a transaction pooler with one server connection, it waits
/// until the first connection has released the server.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if both connections get the lock.
pub(super) async fn advisory_locks_exclude(
    first: &ClientWrapper,
    second: &ClientWrapper,
) -> Result<bool, Error> {
    let key = SysRng
        .try_next_u64()
        .map_err(|error| Error::new(ErrorKind::Rng, error))?
        .cast_signed();
    let checking = async {
        try_lock(first, key).await?;
        let second_locks = timeout(POOLER_WAIT, try_lock(second, key)).await;
        let second_locks = second_locks.ok().transpose()?;
        if second_locks == Some(true) {
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(
                "two connections got the same advisory lock: limits of sessions would not hold. \
                 The server does not implement advisory locks, or the pool connects to several \
                 servers",
            ));
        }
        Ok(second_locks.is_some())
    };
    rolled_back(first, checking).await
}

async fn try_lock(client: &ClientWrapper, key: i64) -> Result<bool, Error> {
    let lock = "SELECT pg_catalog.pg_try_advisory_xact_lock($1)";
    let row = client.query_typed_one(lock, &[(&key, Type::INT8)]).await;
    column(&row.map_err(errors::statement)?, 0)
}

/// Returns whether the server accepts `LISTEN`. The transaction is rolled back.
pub(super) async fn accepts_listen(client: &ClientWrapper) -> Result<bool, Error> {
    let listen = async {
        Ok(client
            .batch_execute("LISTEN tower_user_session_check")
            .await)
    };
    let listening = rolled_back(client, listen).await?;
    match listening.map_err(errors::statement) {
        Ok(()) => Ok(true),
        Err(error) if errors::code(&error).is_some() => Ok(false),
        Err(error) => Err(error),
    }
}
