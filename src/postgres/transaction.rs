//! Sign-ins and revocations as part of the application's own transaction.

use std::fmt;

use tokio_postgres::{Transaction, types::ToSql};

use crate::{
    error::Error,
    postgres::{
        private_value::PrivateValue, sql::execution::Executor, store::PgSessionStore, user::PgUser,
    },
    service::{SessionService, SignIn, SignedIn},
    session::{CurrentSession, SessionToken},
    store::{ColumnConditions, RevokeScope},
};

/// Preconditions of a sign-in: column values that the user's row must still have.
#[derive(Default)]
pub struct SignInConditions(Vec<(&'static str, PrivateValue)>);

impl SignInConditions {
    pub(super) fn columns(&self) -> Vec<&'static str> {
        self.0.iter().map(|(column, _)| *column).collect()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
        self.0.iter().map(|(_, value)| value as &(dyn ToSql + Sync))
    }
}

impl<V: ToSql + Send + Sync + 'static> ColumnConditions<V> for SignInConditions {
    fn add(&mut self, column: &'static str, value: V) {
        self.0.push((column, PrivateValue::new(value)));
    }
}

impl fmt::Debug for SignInConditions {
    /// Omits the values, because they may be password hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(column, _)| column))
            .finish()
    }
}

impl<U: PgUser> SignIn<PgSessionStore<U>> {
    /// Signs in as part of the application's transaction, at the isolation level `READ COMMITTED`.
    /// Use it to create an account and its first session together.
    ///
    /// Send the cookie only after the transaction has been committed. Other sign-ins and
    /// revocations of this user wait until the transaction ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the transaction's isolation
    /// level is above `READ COMMITTED`. Other errors are those of a sign-in. After an error of the
    /// database, the transaction can only be rolled back. No deadline applies, because the
    /// application owns the transaction.
    #[doc(alias("sqlx", "commit"))]
    pub async fn in_transaction(self, transaction: &Transaction<'_>) -> Result<SignedIn, Error> {
        let token = SessionToken::generate()?;
        let new = self.new_session(token.digest())?;
        let insertion = self
            .sessions
            .store()
            .insert_in(Executor::transaction(transaction), &new)
            .await?;
        self.signed_in(token, &insertion)
    }
}

/// # Writes in the application's transaction
///
/// The methods whose names end in `_in_transaction` are part of the application's transaction, at
/// the isolation level `READ COMMITTED`. Their effect becomes permanent when the transaction is
/// committed. With the cache, this process may accept a session that was ended in this way until
/// the notification arrives: normally milliseconds, never more than the lease. Until the
/// transaction ends, other sign-ins and revocations of this user wait. No deadline applies to the
/// methods. The methods reject a transaction at a level above `READ COMMITTED` with
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration). The snapshot of such a
/// transaction may be older than a sign-in that the call has waited for.
///
/// A transaction of another driver calls an SQL function instead:
/// `SELECT sessions_revoke_others($1, $2)`. See
/// [`Migrate`](crate::postgres::Migrate#functions-for-other-clients).
///
/// ```no_run
/// # use tower_user_session::*;
/// # async fn example<U: PgUser<Id = i64>>(
/// #     sessions: SessionService<PgSessionStore<U>>, user_id: i64, current: CurrentSession<U>,
/// #     hash: String,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = sessions.store().pool().get().await?;
/// let transaction = client.transaction().await?;
/// let change = "UPDATE users SET password_hash = $1 WHERE id = $2";
/// transaction.execute(change, &[&hash, &user_id]).await?;
/// sessions.revoke_others_in_transaction(&transaction, &user_id, &current).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
impl<U: PgUser> SessionService<PgSessionStore<U>> {
    /// Ends all sessions of this user except `current` when the transaction is committed. Returns
    /// the number of sessions.
    #[doc(alias("sqlx", "password"))]
    pub async fn revoke_others_in_transaction(
        &self,
        transaction: &Transaction<'_>,
        user_id: &U::Id,
        current: &CurrentSession<U>,
    ) -> Result<u64, Error> {
        self.store()
            .revoke_in(
                Executor::transaction(transaction),
                user_id,
                RevokeScope::AllExcept(current.id()),
            )
            .await
            .map(|ended| ended.len() as u64)
    }

    /// Ends all sessions of this user when the transaction is committed. Returns the number of
    /// sessions.
    pub async fn revoke_all_in_transaction(
        &self,
        transaction: &Transaction<'_>,
        user_id: &U::Id,
    ) -> Result<u64, Error> {
        self.store()
            .revoke_in(
                Executor::transaction(transaction),
                user_id,
                RevokeScope::All,
            )
            .await
            .map(|ended| ended.len() as u64)
    }
}
