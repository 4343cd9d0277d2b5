//! Writes to the sessions table, each in one transaction.

use std::time::Duration;

use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connections::{Access, run_single},
        decode::{self, column},
        encoding::storable,
        errors,
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

    fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    async fn insert(&self, new: NewSession<'_, Self>) -> Result<InsertOutcome, Error> {
        let _permit = self.connections.queue_write(new.user_id).await?;
        let mut attempts = self.connections.attempts();
        let mut replaced = Vec::new();
        let mut user_may_be_gone = true;
        loop {
            let inserted = async {
                let transaction = self.connections.begin(attempts.bounds()).await?;
                let outcome = self
                    .insert_in(transaction.executor(), &new, &mut replaced)
                    .await;
                let is_done =
                    |outcome: &InsertOutcome| matches!(outcome, InsertOutcome::Inserted { .. });
                transaction.end(outcome, is_done).await
            };
            match inserted.await {
                // If the user was deleted concurrently, the second attempt finds no user. A foreign
                // key of the application fails again, and so does one that does not see an
                // inherited row.
                Err(error) if user_may_be_gone && errors::is_foreign_key(&error) => {
                    user_may_be_gone = false;
                }
                Err(error) if attempts.should_retry(&error).await => {}
                outcome => return self.connections.with_recovery_cause(outcome).await,
            }
        }
    }

    async fn rotate(
        &self,
        user_id: &U::Id,
        old: &[TokenDigest],
        new: TokenDigest,
    ) -> Result<RotateOutcome, Error> {
        let _permit = self.connections.queue_write(user_id).await?;
        let values: [&(dyn ToSql + Sync); 4] = [&new, user_id, &old, &self.idle_seconds()];
        let rotated = self
            .run(Access::Unlocked, &self.statements.rotate, &values)
            .await;
        match rotated.map(|rows| rows.into_iter().next()) {
            Ok(Some(row)) => Ok(RotateOutcome::Rotated {
                session: decode::current(&row, 0)?,
                remembered: column(&row, 6)?,
            }),
            Ok(None) => {
                self.verify_rotation_found_none(user_id, old).await?;
                Ok(RotateOutcome::NotFound)
            }
            Err(error) if errors::is_duplicate_digest(&error, &self.table.name) => {
                Ok(RotateOutcome::DuplicateDigest)
            }
            Err(error) => Err(error),
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
        let _permit = self.connections.queue_write(user_id).await?;
        let mut attempts = self.connections.attempts();
        loop {
            let revoked = async {
                let transaction = self.connections.begin(attempts.bounds()).await?;
                let outcome = self.revoke_in(transaction.executor(), user_id, scope).await;
                transaction.end(outcome, |_| true).await
            };
            match revoked.await {
                Err(error) if attempts.should_retry(&error).await => {}
                outcome => return self.connections.with_recovery_cause(outcome).await,
            }
        }
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

    /// [`SessionStore::revoke_everyone`], on a connection without time limits.
    async fn revoke_everyone_unbounded(&self) -> Result<u64, Error> {
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
        let executor = Executor::connection(&client);
        let revoke = &self.statements.revoke_everyone;
        let ended = self.execution.execute(executor, revoke, &[]).await?;
        self.verify_none_left(executor, &self.statements.any_session, &[])
            .await?;
        let server = gate.server(&client).await?;
        let committed = client.batch_execute("COMMIT").await;
        committed.map_err(errors::commit)?;
        // If the server was replaced in the meantime, the committed changes may be lost.
        let admitted = gate.admit(server);
        admitted.map_err(Error::with_outcome_unknown)?;
        Ok(ended)
    }

    /// [`SessionStore::insert`] without the transaction around it. `replaced` contains the sessions
    /// that an earlier attempt tried to replace; a concurrent rotation may have changed their
    /// digests since.
    pub(super) async fn insert_in(
        &self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
        replaced: &mut Vec<SessionId>,
    ) -> Result<InsertOutcome, Error> {
        let locked = self.lock(executor, new.user_id, new.replaced).await?;
        replaced.extend(locked.replaced);
        let user_agent = storable(&locked.encoding, new.user_agent);
        let replaced = &*replaced;
        let idle = self.idle_seconds();
        if let Some(limit) = self.limit.filter(|limit| !limit.ends_oldest) {
            let values: [&(dyn ToSql + Sync); 3] = [new.user_id, replaced, &idle];
            let count = &self.statements.count;
            let rows = self.execution.query(executor, count, &values).await?;
            let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
            if column::<i64>(row, 0)? >= i64::from(limit.sessions) {
                return Ok(InsertOutcome::TooManySessions);
            }
        }
        let lifetime = new.lifetime.as_secs_f64();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &new.digest,
            new.user_id,
            replaced,
            &lifetime,
            &new.remembered,
            &user_agent,
            &new.ip,
        ];
        parameters.extend(new.condition.values());
        let insert = self
            .statements
            .insert
            .with_preconditions(new.condition.columns());
        let inserted = self.execution.query(executor, &insert, &parameters).await;
        match inserted.map(|rows| rows.into_iter().next()) {
            Ok(Some(row)) => {
                let mut ended: Vec<SessionId> = column(&row, 6)?;
                if let Some(limit) = self.limit.filter(|limit| limit.ends_oldest) {
                    let others = i64::from(limit.sessions) - 1;
                    let new_one = &[new.digest][..];
                    let values: [&(dyn ToSql + Sync); 4] = [new.user_id, &new_one, &idle, &others];
                    let end = &self.statements.end_oldest;
                    let oldest = self.execution.query(executor, end, &values).await?;
                    ended.extend(ids(&oldest)?);
                }
                let session = decode::current(&row, 0)?;
                Ok(InsertOutcome::Inserted { session, ended })
            }
            Ok(None) => {
                self.verify_insert_was_rejected(executor, new).await?;
                Ok(InsertOutcome::UserRefused)
            }
            Err(error) if errors::is_duplicate_digest(&error, &self.table.name) => {
                Ok(InsertOutcome::DuplicateDigest)
            }
            Err(error) => Err(error),
        }
    }

    /// [`SessionStore::revoke`] without the transaction around it.
    pub(super) async fn revoke_in(
        &self,
        executor: Executor<'_>,
        user_id: &U::Id,
        scope: RevokeScope,
    ) -> Result<Vec<SessionId>, Error> {
        self.lock(executor, user_id, &[]).await?;
        let (only, except) = match scope {
            RevokeScope::One(id) => (Some(id), None),
            RevokeScope::AllExcept(id) => (None, Some(id)),
            RevokeScope::All => (None, None),
        };
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &only, &except];
        let revoke = &self.statements.revoke;
        let ended = ids(&self.execution.query(executor, revoke, &values).await?)?;
        let remaining = &self.statements.revocable;
        self.verify_none_left(executor, remaining, &values).await?;
        Ok(ended)
    }

    /// Acquires the locks of this user, and of the owners of the replaced sessions, until the
    /// transaction ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the transaction's isolation level is above `READ COMMITTED`,
    /// because its snapshot could be older than what the lock has waited for. [`ErrorKind::Schema`]
    /// if a policy hides sessions.
    async fn lock(
        &self,
        executor: Executor<'_>,
        user_id: &U::Id,
        replaced: &[TokenDigest],
    ) -> Result<Locked, Error> {
        let table = self.table.to_sql();
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &table, &replaced];
        let lock = &self.statements.lock;
        let rows = self.execution.query(executor, lock, &values).await?;
        let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
        if column(row, 3)? {
            return Err(Error::from_kind(ErrorKind::Schema).with_message(
                "row-level security hides sessions from the role, which therefore cannot end \
                 them: PgSessionStore::check returns the remedy",
            ));
        }
        if column(row, 0)? {
            return Ok(Locked {
                replaced: column(row, 2)?,
                encoding: column(row, 4)?,
            });
        }
        Err(Error::from_kind(ErrorKind::Configuration).with_message(
            "the transaction's isolation level is above READ COMMITTED: begin it with ISOLATION \
             LEVEL READ COMMITTED",
        ))
    }
}

/// The result of `lock.sql`.
struct Locked {
    /// The sessions that are replaced.
    replaced: Vec<SessionId>,
    /// The database's encoding.
    encoding: String,
}

fn delete_suppressed() -> Error {
    Error::from_kind(ErrorKind::Statement)
        .with_message("deleting the session failed: a trigger on the sessions table prevented it")
}

fn ids(rows: &[Row]) -> Result<Vec<SessionId>, Error> {
    rows.iter().map(|row| column(row, 0)).collect()
}
