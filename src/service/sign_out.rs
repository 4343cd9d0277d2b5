//! Ending the session that a request came with.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::HeaderMap;

use crate::{
    cookie::SessionCookie,
    error::Error,
    service::SessionService,
    session::TokenDigest,
    store::{EndedSession, SessionStore},
};

impl<S: SessionStore> SessionService<S> {
    /// Ends whatever sessions this request presents. It needs no lookup before it, so that a route
    /// for signing out can be exempt from the layer. See [`SignOut`].
    pub fn sign_out(&self, headers: &HeaderMap) -> SignOut<S> {
        SignOut::new(self.clone(), headers)
    }
}

/// A sign-out that is about to happen: await it.
///
/// It ends every session that the request presents, and always yields the cookie's removal: when
/// there was no session, and when the database cannot be reached. Doing it again changes nothing.
///
/// A sign-out is one statement, which ends at the service's deadline.
///
/// # Cancellation
///
/// If the future is dropped while it runs, the session may or may not have ended.
#[must_use = "nobody is signed out until this is awaited"]
pub struct SignOut<S: SessionStore> {
    sessions: SessionService<S>,
    digests: Vec<TokenDigest>,
}

impl<S: SessionStore> SignOut<S> {
    pub(crate) fn new(sessions: SessionService<S>, headers: &HeaderMap) -> Self {
        Self {
            digests: sessions.credentials().digests(headers),
            sessions,
        }
    }

    async fn run(self) -> SignedOut {
        let outcome = if self.digests.is_empty() {
            Ok(false)
        } else {
            let ended = self.sessions.within_deadline(self.end()).await;
            self.caught_up(ended).await
        };
        match &outcome {
            Ok(false) => {}
            Ok(true) => tracing::info!("signed out"),
            Err(error) => {
                self.sessions.report_failed_sign_out(error);
            }
        }
        SignedOut {
            cookie: self.sessions.cookie().clone(),
            outcome,
        }
    }

    /// How many sessions have ended, and ended here too.
    async fn end(&self) -> Result<usize, Error> {
        let ended = self.sessions.store().delete(&self.digests).await?;
        let asked = |ended: EndedSession| self.digests.contains(&ended.digest).then_some(ended.id);
        let ended: Vec<_> = ended.into_iter().filter_map(asked).collect();
        let count = ended.len();
        self.sessions.feed().invalidate_local(ended);
        Ok(count)
    }

    /// Whether a session has ended, once none of these is live here any more.
    async fn caught_up(&self, ended: Result<usize, Error>) -> Result<bool, Error> {
        match ended {
            Ok(count) if count >= self.digests.len() => Ok(true),
            Err(error) if !error.is_outcome_unknown() => Err(error),
            // What was not there may have been ended elsewhere a moment ago.
            other => {
                self.sessions.feed().sync().await;
                other.map(|count| count > 0)
            }
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
    outcome: Result<bool, Error>,
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
            Ok(ended) => Ok(*ended),
            Err(error) => Err(error),
        }
    }
}
