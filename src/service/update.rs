//! Update of session columns.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use crate::{
    error::{Error, ErrorKind},
    metrics::counters::Counter,
    service::{SessionEventKind, SessionService, events::EventFields},
    session::{CurrentSession, SessionId},
    store::{RevokeScope, SessionStore, SetSessionColumn},
};

impl<S: SessionStore> SessionService<S> {
    /// Sets session columns of the current session. See [`UpdateSession`].
    ///
    /// ```no_run
    /// # use tower_user_session::*;
    /// # async fn example<U: PgUser>(
    /// #     sessions: SessionService<PgSessionStore<U>>, current: CurrentSession<U>,
    /// # ) -> Result<(), Error> {
    /// sessions.update(&current).set("active_org_id", 7_i64).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn update(&self, current: &CurrentSession<S::User>) -> UpdateSession<S> {
        UpdateSession {
            sessions: self.clone(),
            session: current.id(),
            values: S::SessionValues::default(),
        }
    }

    /// Ends this user's sessions in which a session column has this value, and returns their
    /// number.
    ///
    /// The column is compared with `pg_catalog.=`. A null column never matches. An example is the
    /// logout token of an identity provider ([OpenID Connect Back-Channel Logout 1.0, section
    /// 2.6][oidc]): `sub` selects the user, and `sid` is the value.
    ///
    /// [oidc]: https://openid.net/specs/openid-connect-backchannel-1_0.html#Validation
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the store does not know the column. Otherwise as for
    /// [`revoke_all`](Self::revoke_all).
    pub async fn revoke_where<T>(
        &self,
        user_id: &S::UserId,
        column: &'static str,
        value: T,
    ) -> Result<u64, Error>
    where
        S: SetSessionColumn<T>,
    {
        let values = one::<S, T>(column, value);
        let revoke = self.store().revoke_where(Some(user_id), &values);
        let revoked = self.within_deadline(revoke).await;
        self.revoked(revoked, Some(user_id), RevokeScope::All).await
    }

    /// Ends the sessions of every user in which a session column has this value, and returns their
    /// number.
    ///
    /// Use this method only if the user is unknown. Like
    /// [`revoke_everyone`](Self::revoke_everyone), it locks the sessions table. Sign-ins of all users
    /// wait until it is complete, and no deadline applies. Without an index on the column, it reads
    /// the whole table.
    ///
    /// # Errors
    ///
    /// As for [`revoke_where`](Self::revoke_where), without the deadline.
    pub async fn revoke_everyone_where<T>(
        &self,
        column: &'static str,
        value: T,
    ) -> Result<u64, Error>
    where
        S: SetSessionColumn<T>,
    {
        let values = one::<S, T>(column, value);
        let revoked = self.store().revoke_where(None, &values).await;
        self.revoked(revoked, None, RevokeScope::All).await
    }
}

/// A pending update of session columns. Set the columns, then await it to run it.
///
/// The update is one atomic step, and it changes a live session only. If the session has ended or
/// has expired, or if its user is disabled, the update fails. It never brings a session back.
///
/// After the update has returned, the next request of this process sees the new values. Another
/// process without a cache sees them too. Another process with [a
/// cache](SessionService::enable_cache) sees them when the notification arrives, at the latest after
/// the [lease](crate::service::SessionServiceBuilder::lease).
///
/// An update that sets no column does nothing.
///
/// # Errors
///
/// The future resolves with one of these errors, or with another error of the store:
///
/// * [`ErrorKind::SessionNotFound`] if the session is not live.
/// * [`ErrorKind::Configuration`] if the store does not know a column.
/// * [`ErrorKind::Deadline`] if the update exceeds the service's deadline.
///
/// # Cancellation
///
/// If the future is dropped while it runs, the update may or may not take effect.
#[must_use = "nothing is updated until this is awaited"]
pub struct UpdateSession<S: SessionStore> {
    sessions: SessionService<S>,
    session: SessionId,
    values: S::SessionValues,
}

impl<S: SessionStore> UpdateSession<S> {
    /// Sets a session column. See [`SignIn::set`](crate::service::SignIn::set).
    pub fn set<T>(mut self, column: &'static str, value: T) -> Self
    where
        S: SetSessionColumn<T>,
    {
        S::set(&mut self.values, column, value);
        self
    }

    async fn run(self) -> Result<(), Error> {
        let outcome = self.update().await;
        self.sessions.count(match &outcome {
            Ok(()) => Counter::Updates,
            Err(error) if error.kind() == ErrorKind::SessionNotFound => Counter::UpdatesNotFound,
            Err(_) => Counter::UpdatesFailed,
        });
        outcome
    }

    async fn update(&self) -> Result<(), Error> {
        let update = self.sessions.store().update(self.session, &self.values);
        if !self.sessions.within_deadline(update).await? {
            return Err(Error::from_kind(ErrorKind::SessionNotFound));
        }
        // The cache contains the old values.
        self.sessions.feed().invalidate_local(vec![self.session]);
        let fields = EventFields {
            session: Some(self.session),
            ..EventFields::default()
        };
        self.sessions.observe(SessionEventKind::Updated, fields);
        tracing::info!(
            target: "tower_user_session",
            event = "session_updated",
            session = %self.session,
            "session updated"
        );
        Ok(())
    }
}

impl<S: SessionStore> IntoFuture for UpdateSession<S> {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: SessionStore> fmt::Debug for UpdateSession<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateSession").finish_non_exhaustive()
    }
}

fn one<S: SetSessionColumn<T>, T>(column: &'static str, value: T) -> S::SessionValues {
    let mut values = S::SessionValues::default();
    S::set(&mut values, column, value);
    values
}
