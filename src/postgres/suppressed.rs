//! Writes that a trigger or a rule of the application suppressed.
//!
//! A trigger that returns NULL for a row makes the server skip the row without an error. Then the statement looks as
//! if there had been no such user or session. Each write that changed less than it might have is followed by a
//! query that tells the two apart.

use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connections::Access,
        decode::column,
        sql::{execution::On, statement::Statement},
        store::PgSessionStore,
        user::PgUser,
    },
    session::TokenDigest,
    store::NewSession,
};

impl<U: PgUser> PgSessionStore<U> {
    /// After `insert.sql` has begun no session.
    pub(super) async fn insert_was_refused(
        &self,
        on: On<'_>,
        new: &NewSession<'_, Self>,
    ) -> Result<(), Error> {
        let allowed = &self.statements.allowed;
        let allowed = allowed.demanding(new.condition.columns());
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![new.user_id];
        parameters.extend(new.condition.values());
        none(&self.execution.query(on, &allowed, &parameters).await?)
    }

    /// After `rotate.sql` has found no session.
    pub(super) async fn rotation_found_nothing(
        &self,
        user_id: &U::Id,
        old: &[TokenDigest],
    ) -> Result<(), Error> {
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &old, &self.idle_seconds()];
        let rotatable = &self.statements.rotatable;
        none(&self.run(Access::Unlocked, rotatable, &values).await?)
    }

    /// After a statement that should have deleted all that this one finds.
    pub(super) async fn none_left(
        &self,
        on: On<'_>,
        remaining: &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), Error> {
        none(&self.execution.query(on, remaining, values).await?)
    }
}

fn none(found: &[Row]) -> Result<(), Error> {
    let row = found.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
    if column(row, 0)? {
        return Err(Error::from_kind(ErrorKind::Statement)
            .with_message("a trigger or a rule on the sessions table suppressed the change"));
    }
    Ok(())
}
