//! Re-authentication: rotates the session token after the user has proved their identity again.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::HeaderMap;

use crate::{
    error::{Error, ErrorKind},
    metrics::counters::Counter,
    service::{
        SessionEventKind, SessionService, SignedIn,
        events::EventFields,
        sign_in::{MAX_TOKEN_ATTEMPTS, tokens_collided},
    },
    session::{SessionToken, TokenDigest},
    store::{RotateOutcome, SessionStore, SetSessionColumn},
};

impl<S: SessionStore> SessionService<S> {
    /// Records that the user has just proved their identity again, and rotates the session token.
    ///
    /// The caller must verify the password, or another authenticator, before this call.
    /// `headers` are the headers of the request. See [`Reauthenticate`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SessionNotFound`] if the request presents no live session of this user.
    /// Other errors are those of the store, such as [`ErrorKind::Deadline`].
    #[doc(alias = "sudo")]
    pub fn reauthenticate(&self, user_id: S::UserId, headers: &HeaderMap) -> Reauthenticate<S> {
        Reauthenticate::new(self.clone(), user_id, headers)
    }
}

/// A pending re-authentication. Await it to run it.
///
/// The re-authentication is one atomic step:
///
/// * The session gets a new token, and the old token becomes invalid (OWASP ASVS 5.0, 7.2.4).
/// * The session's `authenticated_at` is set to the current time.
///
/// The session's id and its absolute limit do not change.
///
/// # Cancellation
///
/// If the future is dropped while it runs, the step may or may not take effect. If the step takes
/// effect, the client's token is invalid and the user must sign in again.
#[must_use = "the session is not re-authenticated until this is awaited"]
pub struct Reauthenticate<S: SessionStore> {
    sessions: SessionService<S>,
    user_id: S::UserId,
    presented: Vec<TokenDigest>,
    values: S::SessionValues,
    /// For the observer only.
    user_agent: Option<String>,
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
            values: S::SessionValues::default(),
            user_agent: sessions.observed_user_agent(headers),
            sessions,
        }
    }

    /// Sets a session column in the same step. The other columns keep their values. See
    /// [`SignIn::set`](crate::service::SignIn::set).
    ///
    /// # Errors
    ///
    /// As for [`SignIn::set`](crate::service::SignIn::set).
    pub fn set<T>(mut self, column: &'static str, value: T) -> Self
    where
        S: SetSessionColumn<T>,
    {
        S::set(&mut self.values, column, value);
        self
    }

    async fn run(self) -> Result<SignedIn, Error> {
        let outcome = self.rotate().await;
        self.sessions.count(match &outcome {
            Ok(_) => Counter::Reauthentications,
            Err(error) if error.kind() == ErrorKind::SessionNotFound => {
                Counter::ReauthenticationsNotFound
            }
            Err(_) => Counter::ReauthenticationsFailed,
        });
        outcome
    }

    async fn rotate(&self) -> Result<SignedIn, Error> {
        for _ in 0..MAX_TOKEN_ATTEMPTS {
            let token = SessionToken::generate()?;
            let store = self.sessions.store();
            let rotate = store.rotate(&self.user_id, &self.presented, token.digest(), &self.values);
            match self.sessions.within_deadline(rotate).await? {
                RotateOutcome::Rotated {
                    session,
                    remembered,
                } => {
                    // The cache may contain the old token of this session.
                    self.sessions.feed().invalidate_local(vec![session.id()]);
                    let fields = EventFields {
                        user_id: Some(&self.user_id),
                        session: Some(session.id()),
                        user_agent: self.user_agent.as_deref(),
                        ..EventFields::default()
                    };
                    self.sessions
                        .observe(SessionEventKind::Reauthenticated, fields);
                    tracing::info!(
                        target: "tower_user_session",
                        event = "reauthenticated",
                        session = %session.id(),
                        "re-authenticated"
                    );
                    return Ok(SignedIn::new(&self.sessions, token, session, remembered));
                }
                RotateOutcome::NotFound => {
                    return Err(Error::from_kind(ErrorKind::SessionNotFound));
                }
                RotateOutcome::DuplicateDigest => {}
            }
        }
        Err(tokens_collided())
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
