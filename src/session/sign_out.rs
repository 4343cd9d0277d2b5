//! Ending the session that a request came with.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::HeaderMap;

use super::{SessionService, SessionStore, TokenDigest};
use crate::{Error, SessionCookie};

/// A sign-out that is about to happen: await it.
///
/// It ends every session that the request presents, and always yields the cookie's removal: when
/// there was no session, and when the database cannot be reached. Doing it again changes nothing.
///
/// # Cancellation
///
/// Dropped while it runs, the session may or may not have ended.
#[must_use = "nobody is signed out until this is awaited"]
pub struct SignOut<S: SessionStore> {
    sessions: SessionService<S>,
    digests: Vec<TokenDigest>,
}

impl<S: SessionStore> SignOut<S> {
    pub(super) fn new(sessions: SessionService<S>, headers: &HeaderMap) -> Self {
        Self {
            digests: sessions.credentials().digests(headers),
            sessions,
        }
    }

    async fn run(self) -> SignedOut {
        let outcome = if self.digests.is_empty() {
            Ok(0)
        } else {
            let deletion = self.sessions.store().delete(&self.digests);
            let deleted = self.sessions.within_deadline(deletion).await;
            self.sessions.resolver().catch_up().await;
            deleted
        };
        match &outcome {
            Ok(0) => {}
            Ok(_) => tracing::info!("signed out"),
            Err(error) => {
                self.sessions.report_lingering(error);
            }
        }
        SignedOut {
            cookie: self.sessions.cookie().clone(),
            outcome,
        }
    }
}

impl<S: SessionStore> IntoFuture for SignOut<S> {
    type Output = SignedOut;
    type IntoFuture = Pin<Box<dyn Future<Output = SignedOut> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: SessionStore> fmt::Debug for SignOut<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignOut").finish_non_exhaustive()
    }
}

/// A sign-out that has happened. The cookie's removal must still reach the client.
///
/// With axum it is part of a response (feature `axum`); elsewhere [`write_to`](Self::write_to)
/// writes it.
#[derive(Debug)]
#[must_use = "the client keeps its cookie until the removal is written to the response"]
pub struct SignedOut {
    cookie: SessionCookie,
    outcome: Result<u64, Error>,
}

impl SignedOut {
    /// Writes the removal of the cookie, `Cache-Control: no-store` and `Vary: Cookie`.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        self.cookie.clear(headers);
    }

    /// Whether there was a session and it has ended.
    ///
    /// # Errors
    ///
    /// When the store could not be asked, or did not answer: the session may live on, although this
    /// client has forgotten it.
    pub const fn ended(&self) -> Result<bool, &Error> {
        match &self.outcome {
            Ok(sessions) => Ok(*sessions > 0),
            Err(error) => Err(error),
        }
    }
}
