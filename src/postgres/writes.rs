//! Writes to the sessions table, each in one transaction.

use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::ToSql;

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connections::{Access, run_single},
        decode::{self, column},
        errors,
        fence::Gate,
        locked_writes::{BegunSignIn, ids},
        session_values::SessionValues,
        sql::execution::{Bounds, Execution, Executor},
        store::PgSessionStore,
        transaction::SignInConditions,
        user::PgUser,
    },
    session::{Lifetime, SessionId, SessionInfo, TokenDigest},
    store::{
        EndedSession, ExpiredBatch, InsertOutcome, NewSession, RemainingLifetime, RevokeScope,
        RotateOutcome, SessionStore,
    },
};

/// Table pages that one batch of the clean-up scans: several thousand sessions.
const PAGES_PER_BATCH: u64 = 64;
/// The time limit of a clean-up batch. It may exceed the deadline, because no request waits for it.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// The most sessions that one notification can name; the same number as in
/// `0002_announce_sessions.sql`.
const MAX_SESSIONS_PER_NOTIFICATION: i64 = 242;

impl<U: PgUser> SessionStore for PgSessionStore<U> {
    type UserId = U::Id;
    type Condition = SignInConditions;
    type SessionValues = SessionValues;

    fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    async fn insert(&self, new: NewSession<'_, Self>) -> Result<InsertOutcome, Error> {
        let insert = self.insert_statement(&new)?;
        let _permit = self.connections.queue_write(new.user_id).await?;
        let mut attempts = self.connections.attempts();
        let mut replaced = Vec::new();
        let mut user_may_be_gone = true;
        loop {
            let transaction = self.connections.transaction(&mut attempts).await?;
            let executor = transaction.executor();
            let locked = self.begin_sign_in(executor, &new, &insert, &mut replaced);
            let inserted = match Box::pin(locked).await {
                Ok(BegunSignIn::Ready(ready)) => {
                    let inserted = self.commit_sign_in(executor, &new, &ready, &replaced);
                    let inserted = Box::pin(inserted).await;
                    transaction.end(inserted)
                }
                Ok(BegunSignIn::Rejected(outcome)) => transaction.roll_back(Ok(outcome)).await,
                Err(error) => transaction.roll_back(Err(error)).await,
            };
            match inserted {
                // If the user was deleted concurrently, the second attempt finds no user. A foreign
                // key of the application fails again, and so does one that does not see an
                // inherited row.
                Err(error) if user_may_be_gone && errors::is_foreign_key(&error) => {
                    user_may_be_gone = false;
                }
                Err(error) if attempts.should_retry_transaction(&error).await => {}
                outcome => return self.connections.with_recovery_cause(outcome).await,
            }
        }
    }

    async fn rotate(
        &self,
        user_id: &U::Id,
        old: &[TokenDigest],
        new: TokenDigest,
        values: &SessionValues,
    ) -> Result<RotateOutcome, Error> {
        let rotate = values.applied_to::<U>(&self.statements.rotate)?;
        let _permit = self.connections.queue_write(user_id).await?;
        let idle = self.idle_seconds();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&new, user_id, &old, &idle];
        parameters.extend(values.values());
        let rotated = self.run(Access::Unlocked, &rotate, &parameters).await;
        match rotated.map(|rows| rows.into_iter().next()) {
            Ok(Some(row)) => {
                let decoded = decode::current(&row, 0).and_then(|session| {
                    Ok(RotateOutcome::Rotated {
                        session,
                        remembered: column(&row, 6)?,
                    })
                });
                decoded.map_err(Error::with_outcome_unknown)
            }
            Ok(None) => Ok(RotateOutcome::NotFound),
            Err(error) if errors::is_duplicate_digest(&error, &self.table.name) => {
                Ok(RotateOutcome::DuplicateDigest)
            }
            Err(error) => Err(errors::suppressed(error)),
        }
    }

    async fn update(&self, session: SessionId, values: &SessionValues) -> Result<bool, Error> {
        let update = values.applied_to::<U>(&self.statements.update)?;
        if values.is_empty() {
            return Ok(true);
        }
        let idle = self.idle_seconds();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&session, &idle];
        parameters.extend(values.values());
        let updated = self.run(Access::Unlocked, &update, &parameters).await;
        let updated = updated.map_err(errors::suppressed)?;
        Ok(!updated.is_empty())
    }

    async fn revoke_where(
        &self,
        user_id: Option<&U::Id>,
        values: &SessionValues,
    ) -> Result<Vec<SessionId>, Error> {
        if let Some(user_id) = user_id {
            let revoked = self.revoke_matching(user_id, RevokeScope::All, values);
            revoked.await
        } else {
            let revoked = self.revoke_everyone_matching(values).await;
            self.connections.with_recovery_cause(revoked).await
        }
    }

    async fn delete(&self, digests: &[TokenDigest]) -> Result<Vec<EndedSession>, Error> {
        let rows = self
            .run(Access::Unlocked, &self.statements.delete, &[&digests])
            .await?;
        let (mut found, mut locked) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            // Sessions may have ended even if decoding a row fails.
            let (digest, id, is_unlocked, ended) = (|| {
                Ok::<_, Error>((
                    column(row, 0)?,
                    column(row, 1)?,
                    column(row, 2)?,
                    column(row, 3)?,
                ))
            })()
            .map_err(Error::with_outcome_unknown)?;
            found.push(EndedSession::new(digest, id));
            match (is_unlocked, ended) {
                (_, true) => {}
                (true, false) => return Err(delete_suppressed()),
                (false, false) => locked.push(id),
            }
        }
        if !locked.is_empty() {
            self.delete_locked(&locked).await?;
        }
        Ok(found)
    }

    async fn list(&self, user_id: &U::Id) -> Result<Vec<SessionInfo>, Error> {
        let values: [&(dyn ToSql + Sync); 2] = [user_id, &self.idle_seconds()];
        let rows = self
            .run(Access::Unlocked, &self.statements.list, &values)
            .await?;
        rows.iter()
            .map(|row| {
                let mut info = SessionInfo::new(&decode::current(row, 0)?);
                info.user_agent = column::<Option<decode::LossyText>>(row, 6)?.map(|text| text.0);
                info.ip = column(row, 7)?;
                Ok(info)
            })
            .collect()
    }

    async fn revoke(&self, user_id: &U::Id, scope: RevokeScope) -> Result<Vec<SessionId>, Error> {
        self.revoke_matching(user_id, scope, &SessionValues::default())
            .await
    }

    async fn revoke_everyone(&self) -> Result<u64, Error> {
        let revoked = self.revoke_everyone_unbounded().await;
        self.connections.with_recovery_cause(revoked).await
    }

    async fn remaining_lifetimes(
        &self,
        ids: &[SessionId],
    ) -> Result<Vec<RemainingLifetime>, Error> {
        let values: [&(dyn ToSql + Sync); 2] = [&ids, &self.idle_seconds()];
        let rows = self
            .run(
                Access::Unlocked,
                &self.statements.remaining_lifetimes,
                &values,
            )
            .await?;
        let mut live = Vec::with_capacity(rows.len());
        for row in &rows {
            self.reject_recovery(column(row, 1)?)?;
            if let Some(seconds) = column::<Option<f64>>(row, 2)? {
                let remaining = Duration::try_from_secs_f64(seconds.max(0.0));
                let lifetime =
                    RemainingLifetime::new(column(row, 0)?, remaining.unwrap_or(Duration::MAX));
                let key = decode::user_key(row, 3)?;
                live.push(key.map_or(lifetime, |key| lifetime.with_user_key(key)));
            }
        }
        Ok(live)
    }

    async fn delete_expired(&self, place: Option<u64>) -> Result<ExpiredBatch, Error> {
        let page = place.unwrap_or(0);
        let next = page + PAGES_PER_BATCH;
        let signed = |page: u64| i64::try_from(page).unwrap_or(i64::MAX);
        let (from, to, table) = (signed(page), signed(next), self.table.to_sql());
        let most = MAX_SESSIONS_PER_NOTIFICATION;
        let values: [&(dyn ToSql + Sync); 5] = [&from, &to, &table, &self.idle_seconds(), &most];
        let bounds = Bounds {
            statement: BATCH_TIMEOUT,
            lock: BATCH_TIMEOUT,
        };
        let connections = &self.connections.cleanup;
        let statement = &self.statements.delete_expired;
        let rows = run_single(
            connections,
            &self.execution,
            Some(bounds),
            statement,
            &values,
        )
        .await?;
        let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
        let deleted: i64 = column(row, 0)?;
        let acquired_lock: bool = column(row, 1)?;
        let pages: i64 = column(row, 2)?;
        if !acquired_lock {
            tracing::debug!(
                target: "tower_user_session",
                event = "deletion_skipped",
                %table,
                "clean-up skipped: another process is deleting expired sessions"
            );
        }
        let notified: i64 = column(row, 3)?;
        let next = if notified < most { next } else { page };
        let more = acquired_lock && signed(next) < pages;
        if !more {
            connections.renew();
        }
        Ok(ExpiredBatch::new(
            deleted.unsigned_abs(),
            more.then_some(next),
        ))
    }
}

impl<U: PgUser> PgSessionStore<U> {
    /// Ends sessions whose rows were locked. If a row no longer exists, the other transaction ended
    /// the session.
    async fn delete_locked(&self, ids: &[SessionId]) -> Result<(), Error> {
        let rows = self
            .run(Access::Locked, &self.statements.delete_locked, &[&ids])
            .await?;
        for row in &rows {
            if !column::<bool>(row, 1).map_err(Error::with_outcome_unknown)? {
                return Err(delete_suppressed());
            }
        }
        Ok(())
    }

    /// Ends those sessions of this user in the scope whose columns have these values.
    async fn revoke_matching(
        &self,
        user_id: &U::Id,
        scope: RevokeScope,
        values: &SessionValues,
    ) -> Result<Vec<SessionId>, Error> {
        let revocation = self.revocation(user_id, scope, values)?;
        let _permit = self.connections.queue_write(user_id).await?;
        let mut attempts = self.connections.attempts();
        loop {
            let transaction = self.connections.transaction(&mut attempts).await?;
            let executor = transaction.executor();
            let locked = self.begin_revocation(executor, &revocation);
            let revoked = match Box::pin(locked).await {
                Ok(ready) => {
                    let revoked = self.commit_revocation(executor, &ready, &revocation);
                    let revoked = Box::pin(revoked).await;
                    transaction.end(revoked)
                }
                Err(error) => transaction.roll_back(Err(error)).await,
            };
            match revoked {
                Err(error) if attempts.should_retry_transaction(&error).await => {}
                outcome => return self.connections.with_recovery_cause(outcome).await,
            }
        }
    }

    /// Ends the sessions of all users whose columns have these values, without time limits.
    async fn revoke_everyone_matching(
        &self,
        values: &SessionValues,
    ) -> Result<Vec<SessionId>, Error> {
        let revoke = values.applied_to::<U>(&self.statements.revoke_everyone_where)?;
        let none_left = &self.statements.none_left_of_everyone_where;
        let none_left = values.applied_to::<U>(none_left)?;
        let parameters: Vec<_> = values.values().collect();
        let (client, gate) = self.begin_for_everyone().await?;
        let executor = Executor::connection(&client);
        let ended = self.execution.query(executor, &revoke, &parameters).await?;
        let none_left = self.execution.query(executor, &none_left, &parameters);
        none_left.await.map_err(errors::suppressed)?;
        commit_for_everyone(&client, &gate).await?;
        ids(&ended).map_err(Error::with_outcome_unknown)
    }

    /// [`SessionStore::revoke_everyone`], without time limits.
    async fn revoke_everyone_unbounded(&self) -> Result<u64, Error> {
        let (client, gate) = self.begin_for_everyone().await?;
        let executor = Executor::connection(&client);
        let revoke = &self.statements.revoke_everyone;
        let ended = self.execution.execute(executor, revoke, &[]).await?;
        let none_left = &self.statements.none_left_of_everyone;
        let none_left = self.execution.query(executor, none_left, &[]).await;
        none_left.map_err(errors::suppressed)?;
        commit_for_everyone(&client, &gate).await?;
        Ok(ended)
    }

    /// Begins a transaction without time limits, which no sign-in runs beside, on a new connection.
    async fn begin_for_everyone(&self) -> Result<(ClientWrapper, Gate), Error> {
        let (client, gate) = self.connections.open_new().await?;
        let unbounded = Bounds {
            statement: Duration::ZERO,
            lock: Duration::ZERO,
        };
        Execution::begin(&client, unbounded).await?;
        // A separate statement, so that the next one sees the sign-ins that this one waited for.
        let lock = &self.statements.lock_everyone.sql;
        client
            .batch_execute(lock)
            .await
            .map_err(errors::statement)?;
        Ok((client, gate))
    }
}

/// Commits the transaction of [`PgSessionStore::begin_for_everyone`].
async fn commit_for_everyone(client: &ClientWrapper, gate: &Gate) -> Result<(), Error> {
    let server = gate.server(client).await?;
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(errors::commit)?;
    // If the server was replaced in the meantime, the committed changes may be lost.
    let admitted = gate.admit(server);
    admitted.map_err(Error::with_outcome_unknown)
}

fn delete_suppressed() -> Error {
    Error::from_kind(ErrorKind::Statement)
        .with_message("deleting the session failed: a trigger on the sessions table prevented it")
}
