//! A person's sessions, as they and operators see and end them.

use crate::{
    deadline::within,
    error::Error,
    service::SessionService,
    session::{CurrentSession, SessionId, SessionInfo},
    store::{RevokeScope, SessionStore},
};

/// # The sessions of a user
///
/// Once one of the calls that end sessions has returned, no request that starts later is answered as
/// signed in by one of them, in any process. Where a call fails,
/// [`Error::is_outcome_unknown`] says whether they may have ended all the same; nothing is ever
/// half done. The same holds where its future is dropped.
impl<S: SessionStore> SessionService<S> {
    /// The live sessions of this user, the one that was used last first. Never a token or a digest.
    pub async fn sessions_of(&self, user_id: &S::UserId) -> Result<Vec<SessionInfo>, Error> {
        self.within_deadline(self.store().list(user_id)).await
    }

    /// Ends one session by its public name, if it is this user's, and says whether there was one. A
    /// session of somebody else and one that does not exist are the same: `false`.
    pub async fn revoke(&self, user_id: &S::UserId, session: SessionId) -> Result<bool, Error> {
        Ok(self.end(user_id, RevokeScope::One(session)).await? > 0)
    }

    /// Ends all sessions of this user but the current one, and says how many. For "sign out
    /// everywhere else", and after a password was changed (OWASP ASVS 5.0, 7.4.3).
    pub async fn revoke_others(
        &self,
        user_id: &S::UserId,
        current: &CurrentSession<S::User>,
    ) -> Result<u64, Error> {
        self.end(user_id, RevokeScope::AllExcept(current.id()))
            .await
    }

    /// Ends all sessions of this user, and says how many (OWASP ASVS 5.0, 7.4.5).
    pub async fn revoke_all(&self, user_id: &S::UserId) -> Result<u64, Error> {
        self.end(user_id, RevokeScope::All).await
    }

    /// Ends every session of everybody, and says how many (OWASP ASVS 5.0, 7.4.5). Sign-ins wait until
    /// it is done. No deadline applies: it takes as long as there are sessions.
    pub async fn revoke_everyone(&self) -> Result<u64, Error> {
        let ended = self.store().revoke_everyone().await?;
        self.feed().invalidate_all_local();
        tracing::warn!(sessions = ended, "every session was revoked");
        Ok(ended)
    }

    async fn end(&self, user_id: &S::UserId, which: RevokeScope) -> Result<u64, Error> {
        let ended = self
            .within_deadline(self.store().revoke(user_id, which))
            .await?;
        let sessions = ended.len() as u64;
        self.feed().invalidate_local(ended);
        // A session that the call did not find may have been ended elsewhere a moment ago.
        if sessions == 0 || !matches!(which, RevokeScope::One(_)) {
            self.feed().sync().await;
        }
        tracing::info!(sessions, "sessions were revoked");
        Ok(sessions)
    }

    pub(crate) async fn within_deadline<T>(
        &self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        within(self.deadline(), operation).await
    }
}
