//! What changes sessions, each in one transaction.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::{error::SqlState, types::ToSql};

use super::{
    connections::Borrowed,
    decode::{self, column},
    execution::On,
    failure,
    store::PgSessionStore,
    transaction::Demands,
    user::PgUser,
};
use crate::{
    Device, Error, ErrorKind, Insertion, Lifetime, NewSession, Revocation, Rotation, SessionId,
    SessionStore, TokenDigest,
};

/// Pages of the table that one batch of cleaning up goes through: some thousand sessions.
const PAGES_IN_A_BATCH: u64 = 64;

impl<U: PgUser> SessionStore for PgSessionStore<U> {
    type UserId = U::Id;
    type Condition = Demands;

    fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    async fn insert(&self, new: NewSession<'_, Self>) -> Result<Insertion, Error> {
        let mut client = Borrowed::from(self.pool()).await?;
        let transaction = client.begin().await?;
        let outcome = self.insert_in(&transaction, &new).await?;
        if matches!(outcome, Insertion::Done(_)) {
            transaction.commit().await.map_err(failure::commit)?;
        } else {
            transaction.rollback().await.map_err(failure::statement)?;
        }
        client.give_back();
        Ok(outcome)
    }

    async fn rotate(
        &self,
        user_id: &U::Id,
        old: &[TokenDigest],
        new: TokenDigest,
    ) -> Result<Rotation, Error> {
        let client = Borrowed::from(self.pool()).await?;
        let values: [&(dyn ToSql + Sync); 4] = [&new, user_id, &old, &self.idle_seconds()];
        let rotated = client
            .write(&self.execution, &self.statements.rotate, &values)
            .await;
        match rotated.map(|rows| rows.into_iter().next()) {
            Ok(Some(row)) => Ok(Rotation::Done(decode::current(&row, 0)?, column(&row, 6)?)),
            Ok(None) => Ok(Rotation::NoSession),
            Err(error) if failure::code(&error) == Some(&SqlState::UNIQUE_VIOLATION) => {
                Ok(Rotation::DigestTaken)
            }
            Err(error) => Err(error),
        }
    }

    async fn delete(
        &self,
        digests: &[TokenDigest],
    ) -> Result<Vec<(TokenDigest, SessionId)>, Error> {
        let client = Borrowed::from(self.pool()).await?;
        let rows = client
            .write(&self.execution, &self.statements.delete, &[&digests])
            .await?;
        let ended = rows
            .iter()
            .map(|row| Ok((column(row, 0)?, column(row, 1)?)));
        // The sessions have ended, even if the rows cannot be decoded.
        ended
            .collect::<Result<_, _>>()
            .map_err(Error::with_outcome_unknown)
    }

    async fn list(&self, user_id: &U::Id) -> Result<Vec<Device>, Error> {
        let client = Borrowed::from(self.pool()).await?;
        let values: [&(dyn ToSql + Sync); 2] = [user_id, &self.idle_seconds()];
        let listed = client.query(&self.execution, &self.statements.list, &values);
        let rows = listed.await?;
        rows.iter()
            .map(|row| {
                let mut device = Device::new(&decode::current(row, 0)?);
                device.user_agent = column(row, 6)?;
                device.ip = column(row, 7)?;
                Ok(device)
            })
            .collect()
    }

    async fn revoke(&self, user_id: &U::Id, which: Revocation) -> Result<u64, Error> {
        let mut client = Borrowed::from(self.pool()).await?;
        let transaction = client.begin().await?;
        let ended = self.revoke_in(&transaction, user_id, which).await?;
        transaction.commit().await.map_err(failure::commit)?;
        client.give_back();
        Ok(ended)
    }

    async fn revoke_everyone(&self) -> Result<u64, Error> {
        let mut client = Borrowed::from(self.pool()).await?;
        let transaction = client.begin().await?;
        // A statement of its own, so that the next one sees the sign-ins that it waited for.
        transaction
            .batch_execute(&self.statements.lock_everyone.sql)
            .await
            .map_err(failure::statement)?;
        let on = On::transaction(&transaction);
        let revoke = &self.statements.revoke_everyone;
        let ended = self.execution.execute(on, revoke, &[]).await?;
        transaction.commit().await.map_err(failure::commit)?;
        client.give_back();
        Ok(ended)
    }

    async fn still_live(&self, ids: &[SessionId]) -> Result<Vec<(SessionId, Duration)>, Error> {
        let client = Borrowed::from(self.pool()).await?;
        let values: [&(dyn ToSql + Sync); 2] = [&ids, &self.idle_seconds()];
        let asked = client.query(&self.execution, &self.statements.still_live, &values);
        let rows = asked.await?;
        let mut live = Vec::with_capacity(rows.len());
        for row in &rows {
            self.refuse_recovery(column(row, 1)?)?;
            if let Some(seconds) = column::<Option<f64>>(row, 2)? {
                let remaining = Duration::try_from_secs_f64(seconds.max(0.0));
                live.push((column(row, 0)?, remaining.unwrap_or(Duration::MAX)));
            }
        }
        Ok(live)
    }

    async fn clean_up(&self, place: Option<u64>) -> Result<(u64, Option<u64>), Error> {
        let page = place.unwrap_or(0);
        let next = page + PAGES_IN_A_BATCH;
        let signed = |page: u64| i64::try_from(page).unwrap_or(i64::MAX);
        let (from, to, table) = (signed(page), signed(next), self.table.to_sql());
        let client = Borrowed::from(self.pool()).await?;
        let values: [&(dyn ToSql + Sync); 4] = [&from, &to, &table, &self.idle_seconds()];
        let rows = client
            .write(&self.execution, &self.statements.clean_up, &values)
            .await?;
        let row = rows.first().ok_or(Error::bare(ErrorKind::Row))?;
        let deleted: i64 = column(row, 0)?;
        let my_turn: bool = column(row, 1)?;
        let pages: i64 = column(row, 2)?;
        if !my_turn {
            tracing::debug!(%table, "clean-up skipped: another process is deleting expired sessions");
        }
        let more = my_turn && signed(next) < pages;
        Ok((deleted.unsigned_abs(), more.then_some(next)))
    }
}

impl<U: PgUser> PgSessionStore<U> {
    /// [`SessionStore::insert`] without the transaction around it.
    pub(super) async fn insert_in(
        &self,
        transaction: &Transaction<'_>,
        new: &NewSession<'_, Self>,
    ) -> Result<Insertion, Error> {
        let on = On::transaction(transaction);
        self.lock(on, new.user_id, new.replaced).await?;
        let idle = self.idle_seconds();
        if let Some(limit) = self.limit.filter(|limit| !limit.ends_oldest) {
            let values: [&(dyn ToSql + Sync); 3] = [new.user_id, &new.replaced, &idle];
            let count = &self.statements.count;
            let rows = self.execution.query(on, count, &values).await?;
            let row = rows.first().ok_or(Error::bare(ErrorKind::Row))?;
            if column::<i64>(row, 0)? >= i64::from(limit.sessions) {
                return Ok(Insertion::TooManySessions);
            }
        }
        let lifetime = new.lifetime.as_secs_f64();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &new.digest,
            new.user_id,
            &new.replaced,
            &lifetime,
            &new.remembered,
            &new.user_agent,
            &new.ip,
        ];
        parameters.extend(new.condition.values());
        let insert = self.statements.insert.demanding(new.condition.columns());
        let inserted = self.execution.query(on, &insert, &parameters).await;
        match inserted.map(|rows| rows.into_iter().next()) {
            Ok(Some(row)) => {
                if let Some(limit) = self.limit.filter(|limit| limit.ends_oldest) {
                    let others = i64::from(limit.sessions) - 1;
                    let new_one = &[new.digest][..];
                    let values: [&(dyn ToSql + Sync); 4] = [new.user_id, &new_one, &idle, &others];
                    let end = &self.statements.end_oldest;
                    self.execution.execute(on, end, &values).await?;
                }
                decode::current(&row, 0).map(Insertion::Done)
            }
            Ok(None) => Ok(Insertion::UserRefused),
            // The digest is the only thing that is unique and chosen here.
            Err(error) if failure::code(&error) == Some(&SqlState::UNIQUE_VIOLATION) => {
                Ok(Insertion::DigestTaken)
            }
            // The user was deleted at this moment.
            Err(error) if failure::code(&error) == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                Ok(Insertion::UserRefused)
            }
            Err(error) => Err(error),
        }
    }

    /// [`SessionStore::revoke`] without the transaction around it.
    pub(super) async fn revoke_in(
        &self,
        transaction: &Transaction<'_>,
        user_id: &U::Id,
        which: Revocation,
    ) -> Result<u64, Error> {
        let on = On::transaction(transaction);
        self.lock(on, user_id, &[]).await?;
        let (only, except) = match which {
            Revocation::One(id) => (Some(id), None),
            Revocation::AllBut(id) => (None, Some(id)),
            Revocation::All => (None, None),
        };
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &only, &except];
        self.execution
            .execute(on, &self.statements.revoke, &values)
            .await
    }

    /// Acquires the locks of this user, and of the owners of the sessions that are replaced, until the
    /// transaction ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the transaction's isolation level is above `READ COMMITTED`: its
    /// snapshot could be older than what the lock has waited for.
    async fn lock(
        &self,
        on: On<'_>,
        user_id: &U::Id,
        replaced: &[TokenDigest],
    ) -> Result<(), Error> {
        let table = self.table.to_sql();
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &table, &replaced];
        let lock = &self.statements.lock;
        let rows = self.execution.query(on, lock, &values).await?;
        let row = rows.first().ok_or(Error::bare(ErrorKind::Row))?;
        if column(row, 0)? {
            return Ok(());
        }
        Err(Error::bare(ErrorKind::Configuration).saying(
            "the transaction's isolation level is above READ COMMITTED: begin it with ISOLATION LEVEL \
             READ COMMITTED",
        ))
    }
}
