//! Sign-out.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::HeaderMap;

use crate::{
    cookie::SessionCookie,
    error::Error,
    metrics::counters::Counter,
    service::{EndCause, SessionService, events::EventFields},
    session::TokenDigest,
    store::{EndedSession, SessionStore},
};

impl<S: SessionStore> SessionService<S> {
    /// Ends the sessions that this request presents.
    ///
    /// At most eight cookie tokens count, and at most eight bearer tokens if
    /// [`bearer_tokens`](crate::service::SessionServiceBuilder::bearer_tokens) is on. The sessions
    /// of further tokens do not end.
    ///
    /// The sign-out needs no earlier lookup. The sign-out route can therefore be exempt from
    /// [`LoadUserLayer`](crate::load_user::LoadUserLayer). See [`SignOut`].
    #[doc(alias = "logout")]
    pub fn sign_out(&self, headers: &HeaderMap) -> SignOut<S> {
        SignOut::new(self.clone(), headers)
    }
}

/// A pending sign-out. Await it to run it.
///
/// The sign-out ends the sessions of at most eight cookie tokens and at most eight bearer tokens.
/// It is one query, limited by the service's deadline. A repeated sign-out changes nothing.
///
/// The output always removes the cookie, also if there was no session or if the query failed.
/// [`SignedOut::ended`] returns the outcome of the query.
///
/// # Cancellation
///
/// If the future is dropped while it runs, the sessions may or may not end.
#[must_use = "the client is not signed out until this is awaited"]
pub struct SignOut<S: SessionStore> {
    sessions: SessionService<S>,
    digests: Vec<TokenDigest>,
    /// For the observer only.
    user_agent: Option<String>,
}

impl<S: SessionStore> SignOut<S> {
    pub(crate) fn new(sessions: SessionService<S>, headers: &HeaderMap) -> Self {
        Self {
            digests: sessions.credentials().digests(headers),
            user_agent: sessions.observed_user_agent(headers),
            sessions,
        }
    }

    async fn run(self) -> SignedOut {
        let outcome = if self.digests.is_empty() {
            Ok(false)
        } else {
            let ended = self.sessions.within_deadline(self.end()).await;
            self.sync_unless_all_ended(ended).await
        };
        match &outcome {
            Ok(false) => self.sessions.count(Counter::SignOutsWithoutSession),
            Ok(true) => {
                self.sessions.count(Counter::SignOuts);
                self.sessions.report_sign_out();
                tracing::info!(
                    target: "tower_user_session",
                    event = "signed_out",
                    "signed out"
                );
            }
            Err(error) => self.sessions.report_failed_sign_out(error),
        }
        SignedOut {
            cookie: self.sessions.cookie().clone(),
            outcome,
        }
    }

    /// Ends the sessions in the store and in this process, and returns their number.
    async fn end(&self) -> Result<usize, Error> {
        let ended = self.sessions.store().delete(&self.digests).await?;
        let requested =
            |ended: EndedSession| self.digests.contains(&ended.digest).then_some(ended.id);
        let ended: Vec<_> = ended.into_iter().filter_map(requested).collect();
        let count = ended.len();
        let fields = EventFields {
            user_agent: self.user_agent.as_deref(),
            ..EventFields::default()
        };
        self.sessions
            .observe_ends(EndCause::SignedOut, &ended, &fields);
        self.sessions.feed().invalidate_local(ended);
        Ok(count)
    }

    /// Returns whether a session has ended. When the method returns, the cache contains none of the
    /// sessions.
    async fn sync_unless_all_ended(&self, ended: Result<usize, Error>) -> Result<bool, Error> {
        match ended {
            Ok(count) if count >= self.digests.len() => Ok(true),
            Err(error) if !error.is_outcome_unknown() => Err(error),
            // Another process may just have ended a session that the query did not find. The
            // notification about that session must arrive before this call returns.
            partial => {
                self.sessions.feed().sync().await;
                partial.map(|count| count > 0)
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

/// A completed sign-out, whose removal of the cookie must be written to the response.
///
/// With the feature `axum`, this type is part of a response (`IntoResponseParts`).
/// Other frameworks call [`write_to`](Self::write_to).
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

    /// Returns whether the sign-out ended at least one session.
    ///
    /// # Errors
    ///
    /// If the query failed or exceeded the deadline. The session may still be valid, although the
    /// client has deleted its cookie.
    pub const fn ended(&self) -> Result<bool, &Error> {
        match &self.outcome {
            Ok(ended) => Ok(*ended),
            Err(error) => Err(error),
        }
    }
}
