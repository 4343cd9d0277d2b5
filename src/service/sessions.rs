//! List and revocation of a user's sessions.

use std::any::Any;

use crate::{
    deadline::within,
    error::Error,
    metrics::counters::Counter,
    service::{EndCause, SessionEventKind, SessionService, events::EventFields},
    session::{CurrentSession, SessionId, SessionInfo},
    store::{RevokeScope, SessionStore},
};

/// # List and revocation
///
/// A revoked session is invalid in this process as soon as the call returns. From then on, another
/// process without a cache also rejects the session, if that process queries the same primary.
///
/// Another process with [a cache](Self::enable_cache) may return the session from memory until the
/// notification arrives. That delay never exceeds the
/// [lease](crate::service::SessionServiceBuilder::lease), 1 second by default.
///
/// If a revocation fails, [`Error::is_outcome_unknown`] returns whether the sessions may have
/// ended. Each revocation is atomic: either all of its sessions end, or none of them.
///
/// # Cancellation of a revocation
///
/// If the future is dropped while it runs, the revocation may or may not take effect.
impl<S: SessionStore> SessionService<S> {
    /// Returns the user's live sessions, most recently used first.
    ///
    /// The result contains neither tokens nor digests.
    ///
    /// # Errors
    ///
    /// If the query fails or exceeds the deadline.
    #[doc(alias = "devices")]
    pub async fn sessions_of(&self, user_id: &S::UserId) -> Result<Vec<SessionInfo>, Error> {
        self.within_deadline(self.store().list(user_id)).await
    }

    /// Revokes one session of this user by its id, and returns whether the session existed.
    ///
    /// The result is `false` both for a session of another user and for a session that does not
    /// exist.
    ///
    /// # Errors
    ///
    /// If the query fails or exceeds the deadline.
    #[doc(alias("kick", "sign_out_device"))]
    pub async fn revoke(&self, user_id: &S::UserId, session: SessionId) -> Result<bool, Error> {
        Ok(self.end(user_id, RevokeScope::One(session)).await? > 0)
    }

    /// Revokes all sessions of this user except the current one, and returns their number.
    ///
    /// Call it for "sign out everywhere else" and after a password change (OWASP ASVS 5.0, 7.4.3).
    ///
    /// # Errors
    ///
    /// If the query fails or exceeds the deadline.
    #[doc(alias("sign_out_everywhere_else", "logout_others"))]
    pub async fn revoke_others(
        &self,
        user_id: &S::UserId,
        current: &CurrentSession<S::User>,
    ) -> Result<u64, Error> {
        self.end(user_id, RevokeScope::AllExcept(current.id()))
            .await
    }

    /// Revokes all sessions of this user, and returns their number (OWASP ASVS 5.0, 7.4.5).
    ///
    /// # Errors
    ///
    /// If the query fails or exceeds the deadline.
    #[doc(alias("sign_out_everywhere", "logout_all", "kick"))]
    pub async fn revoke_all(&self, user_id: &S::UserId) -> Result<u64, Error> {
        self.end(user_id, RevokeScope::All).await
    }

    /// Revokes all sessions of all users, and returns their number (OWASP ASVS 5.0, 7.4.5).
    ///
    /// Sign-ins wait until the revocation is complete.
    /// No deadline applies, because the duration grows with the number of sessions.
    ///
    /// # Errors
    ///
    /// If the query fails.
    #[doc(alias("logout_everyone", "truncate"))]
    pub async fn revoke_everyone(&self) -> Result<u64, Error> {
        let revoked = self.store().revoke_everyone().await;
        let ended = self.count_revocation(revoked, |ended| *ended)?;
        self.feed().invalidate_all_local();
        if ended > 0 {
            let kind = SessionEventKind::Ended(EndCause::Revoked);
            self.observe(kind, EventFields::default());
        }
        tracing::warn!(
            target: "tower_user_session",
            event = "everyone_revoked",
            sessions = ended,
            "all sessions of all users revoked"
        );
        Ok(ended)
    }

    async fn end(&self, user_id: &S::UserId, scope: RevokeScope) -> Result<u64, Error> {
        let revoked = self
            .within_deadline(self.store().revoke(user_id, scope))
            .await;
        self.revoked(revoked, Some(user_id), scope).await
    }

    /// Completes a revocation of this scope: reports the ended sessions, removes them from the cache,
    /// and returns their number.
    pub(super) async fn revoked(
        &self,
        revoked: Result<Vec<SessionId>, Error>,
        user_id: Option<&S::UserId>,
        scope: RevokeScope,
    ) -> Result<u64, Error> {
        let ended = self.count_revocation(revoked, |ended| ended.len() as u64)?;
        let sessions = ended.len() as u64;
        let fields = EventFields {
            user_id: user_id.map(|id| id as &(dyn Any + Send + Sync)),
            ..EventFields::default()
        };
        self.observe_ends(EndCause::Revoked, &ended, &fields);
        self.feed().invalidate_local(ended);
        // Another process may just have ended a session that this query did not find. The
        // notification about that session must arrive before this call returns.
        if sessions == 0 || !matches!(scope, RevokeScope::One(_)) {
            self.feed().sync().await;
        }
        tracing::info!(
            target: "tower_user_session",
            event = "sessions_revoked",
            sessions,
            "sessions revoked"
        );
        Ok(sessions)
    }

    fn count_revocation<T>(
        &self,
        revoked: Result<T, Error>,
        sessions: impl FnOnce(&T) -> u64,
    ) -> Result<T, Error> {
        match &revoked {
            Ok(ended) => {
                self.count(Counter::Revocations);
                self.counters()
                    .add(Counter::SessionsRevoked, sessions(ended));
            }
            Err(_) => self.count(Counter::RevocationsFailed),
        }
        revoked
    }

    pub(crate) async fn within_deadline<T>(
        &self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        within(self.deadline(), operation).await
    }
}
