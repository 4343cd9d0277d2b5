//! Detection of writes that an application trigger or rule suppressed.
//!
//! A trigger that returns NULL for a row makes the server skip the row without an error. The
//! statement then returns the same result as for an unknown user or session. After each write that
//! changed fewer rows than it could have changed, a query distinguishes the two cases.

use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connections::Access,
        decode::column,
        sql::{execution::Executor, statement::Statement},
        store::PgSessionStore,
        user::PgUser,
    },
    session::TokenDigest,
    store::NewSession,
};

impl<U: PgUser> PgSessionStore<U> {
    /// Fails if the user may sign in, although `insert.sql` inserted no session.
    pub(super) async fn verify_insert_was_rejected(
        &self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
    ) -> Result<(), Error> {
        let allowed = &self.statements.allowed;
        let allowed = allowed.with_preconditions(new.condition.columns());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![new.user_id];
        parameters.extend(new.condition.values());
        reject_if_found(
            &self
                .execution
                .query(executor, &allowed, &parameters)
                .await?,
        )
    }

    /// Fails if the session exists, although `rotate.sql` found no session.
    pub(super) async fn verify_rotation_found_none(
        &self,
        user_id: &U::Id,
        old: &[TokenDigest],
    ) -> Result<(), Error> {
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &old, &self.idle_seconds()];
        let rotatable = &self.statements.rotatable;
        reject_if_found(&self.run(Access::Unlocked, rotatable, &values).await?)
    }

    /// Fails if a row is left after a statement that should have deleted all rows that `remaining`
    /// finds.
    pub(super) async fn verify_none_left(
        &self,
        executor: Executor<'_>,
        remaining: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), Error> {
        reject_if_found(&self.execution.query(executor, remaining, values).await?)
    }
}

fn reject_if_found(found: &[Row]) -> Result<(), Error> {
    let row = found.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
    if column(row, 0)? {
        return Err(Error::from_kind(ErrorKind::Statement).with_message(
            "the write failed: a trigger or a rule on the sessions table suppressed it",
        ));
    }
    Ok(())
}
