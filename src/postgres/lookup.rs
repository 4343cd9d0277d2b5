//! The lookup of sessions.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        decode, errors,
        pipelines::{Acquired, Moved, Slot},
        store::PgSessionStore,
        user::PgUser,
    },
    session::TokenDigest,
    store::LookupResult,
};

impl<U: PgUser> PgSessionStore<U> {
    /// Finds the live sessions of these digests. A lookup is retried once, and moved once.
    pub(super) async fn look_up(
        &self,
        digests: &[TokenDigest],
    ) -> Result<Vec<LookupResult<U>>, Error> {
        let lookups = &self.connections.lookups;
        // A statement that is moved later could run for longer than its callers wait.
        let mut move_until = Instant::now() + self.connections.deadline() / 2;
        let mut retried = false;
        let mut acquired = lookups.acquire().await?;
        loop {
            let prepared = self.prepared(acquired).await;
            let found = match prepared {
                Ok(slot) => self.find_on(slot, digests, move_until).await,
                Err(error) => Err(error),
            };
            acquired = match found {
                Ok(Moved::Completed(mut results)) => {
                    if retried {
                        results.iter_mut().for_each(LookupResult::set_retried);
                    }
                    return Ok(results);
                }
                Ok(Moved::To(other)) => {
                    self.connections.counters.lookups_moved.increment();
                    // Once is enough: on the other connection, it may wait behind a slow one again.
                    move_until = Instant::now();
                    other
                }
                Err(error) if errors::is_retryable(&error) && !retried => {
                    tracing::debug!(
                        target: "tower_user_session",
                        event = "lookup_retried",
                        kind = ?error.kind(),
                        %error,
                        "a lookup is retried on a new connection"
                    );
                    self.connections.counters.lookups_retried.increment();
                    retried = true;
                    lookups.acquire().await.map_err(Error::retried)?
                }
                Err(error) if retried => return Err(error.retried()),
                Err(error) => return Err(error),
            };
        }
    }

    /// Returns the slot for a statement, on a connection on which the lookup is prepared.
    async fn prepared<'a>(&'a self, acquired: Acquired<'a>) -> Result<Slot<'a>, Error> {
        let connection = match acquired {
            Acquired::Slot(slot) => return Ok(slot),
            Acquired::Idle(connection) => connection,
        };
        if connection.find.get().is_none() {
            // Computing the hash of the user's key costs server time, and only a feed needs it.
            let with_user_key = self.has_feed.load(Relaxed);
            let statement = self.statements.find(with_user_key);
            let ready = self
                .execution
                .prepare_lookup(&connection, statement, &connection.gate);
            let ready = ready.await.inspect_err(|error| {
                if errors::is_retryable(error) {
                    self.connections.lookups.renew_after(&connection);
                }
            })?;
            let _ = connection.find.set((ready, with_user_key));
        }
        let slot = self.connections.lookups.open(connection);
        slot.ok_or(Error::from_kind(ErrorKind::Connection))
    }

    /// Runs the lookup in this slot. If the statement is moved before `until`, returns the new
    /// place.
    async fn find_on<'a>(
        &'a self,
        slot: Slot<'a>,
        digests: &[TokenDigest],
        until: Instant,
    ) -> Result<Moved<'a, Vec<LookupResult<U>>>, Error> {
        let connection = slot.connection();
        let Some((find, with_user_key)) = connection.find.get() else {
            return Err(Error::from_kind(ErrorKind::Connection));
        };
        let statement = self.statements.find(*with_user_key);
        let query_seq = self.queries_sent.fetch_add(1, Relaxed);
        let values: [&(dyn ToSql + Sync); 2] = [&digests, &query_seq];
        let query = find.query(connection, statement, &values);
        let rows = match slot.run(query, until).await {
            Moved::Completed(rows) => rows,
            Moved::To(acquired) => return Ok(Moved::To(acquired)),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                // The error is due to a value in a row, not to the connection.
                if error.kind() == ErrorKind::Decode {
                    slot.finish();
                } else if errors::is_retryable(&error) {
                    self.connections.lookups.renew_after(connection);
                }
                return Err(error);
            }
        };
        let mut results = Vec::with_capacity(rows.len());
        let mut admitted = None;
        for row in &rows {
            let found = decode::found(row, *with_user_key, self.lifetime)?;
            // The connection is out of sync: the response belongs to an earlier query.
            if found.query_seq != query_seq {
                return Err(Error::from_kind(ErrorKind::Protocol).with_message(
                    "the query response does not match the request: the connection is out of sync",
                ));
            }
            // The fence has a lock, and the rows of one query normally have the same state.
            if admitted != Some(found.state) {
                let in_recovery = connection.gate.admit_state(found.state);
                let allowed = in_recovery.and_then(|in_recovery| self.reject_recovery(in_recovery));
                // The server was demoted or replaced. Its other connections are no better.
                allowed.inspect_err(|_| self.connections.lookups.renew_after(connection))?;
                admitted = Some(found.state);
            }
            results.push(found.result);
        }
        // If a row is missing or has another digest, the connection may be out of sync.
        if is_complete(&results, digests) {
            slot.finish();
        }
        Ok(Moved::Completed(results))
    }
}

/// Returns whether `results` contains each digest exactly once, and no other digest.
fn is_complete<U>(results: &[LookupResult<U>], digests: &[TokenDigest]) -> bool {
    let returned = || results.iter().map(LookupResult::digest);
    // Rows usually come in the order of the digests, but SQL does not guarantee it.
    returned().eq(digests.iter().copied()) || {
        let (mut returned, mut requested) = (returned().collect::<Vec<_>>(), digests.to_vec());
        returned.sort_unstable();
        requested.sort_unstable();
        returned == requested
    }
}
