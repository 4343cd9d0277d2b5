//! Proving again who one is.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::HeaderMap;

use crate::{
    error::{Error, ErrorKind},
    service::{
        SessionService, SignedIn,
        sign_in::{ATTEMPTS, repeating},
    },
    session::{SessionToken, TokenDigest},
    store::{RotateOutcome, SessionStore},
};

impl<S: SessionStore> SessionService<S> {
    /// Takes down that the person has just proved again who they are, and gives their session a new
    /// token. See [`Reauthenticate`].
    pub fn reauthenticate(&self, user_id: S::UserId, headers: &HeaderMap) -> Reauthenticate<S> {
        Reauthenticate::new(self.clone(), user_id, headers)
    }
}

/// A confirmation that is about to happen, once the application has checked the password again: await
/// it.
///
/// In one atomic step the session gets a new token, the old one is dead (OWASP ASVS 5.0, 7.2.4), and
/// the session's `authenticated_at` is now. Its public name and its absolute limit stay. A session of
/// another user, or one that is over, is not confirmed: [`ErrorKind::SessionNotFound`].
///
/// # Cancellation
///
/// Dropped while it runs, the step may or may not have taken effect; if it has, the client's token is
/// dead and the person must sign in again.
#[must_use = "nothing is confirmed until this is awaited"]
pub struct Reauthenticate<S: SessionStore> {
    sessions: SessionService<S>,
    user_id: S::UserId,
    presented: Vec<TokenDigest>,
}

impl<S: SessionStore> Reauthenticate<S> {
    pub(crate) fn new(
        sessions: SessionService<S>,
        user_id: S::UserId,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            user_id,
            presented: sessions.credentials().digests(headers),
            sessions,
        }
    }

    async fn run(self) -> Result<SignedIn, Error> {
        for _ in 0..ATTEMPTS {
            let token = SessionToken::generate()?;
            let store = self.sessions.store();
            let rotation = store.rotate(&self.user_id, &self.presented, token.digest());
            match self.sessions.within_deadline(rotation).await? {
                RotateOutcome::Rotated {
                    session,
                    remembered,
                } => {
                    // The old token is cached under the same session.
                    self.sessions.feed().invalidate_local(vec![session.id()]);
                    tracing::info!(session = %session.id(), "confirmed");
                    return Ok(SignedIn::new(&self.sessions, token, session, remembered));
                }
                RotateOutcome::NotFound => {
                    return Err(Error::from_kind(ErrorKind::SessionNotFound));
                }
                RotateOutcome::DuplicateDigest => {}
            }
        }
        Err(repeating())
    }
}

impl<S: SessionStore> IntoFuture for Reauthenticate<S> {
    type Output = Result<SignedIn, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: SessionStore> fmt::Debug for Reauthenticate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reauthenticate").finish_non_exhaustive()
    }
}
