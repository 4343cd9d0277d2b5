//! Sign-in.

use std::{
    fmt,
    future::{Future, IntoFuture},
    net::IpAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use http::HeaderMap;

use crate::{
    cookie::SessionCookie,
    error::{Error, ErrorKind},
    metrics::counters::Counter,
    service::{EndCause, RefusalCause, SessionEventKind, SessionService, events::EventFields},
    session::{Lifetime, Session, SessionToken, TokenDigest, user_agent},
    store::{ColumnConditions, InsertOutcome, NewSession, SessionStore, SetSessionColumn},
};

/// The maximum number of attempts to generate an unused token.
///
/// Only a broken random number generator causes collisions.
pub(crate) const MAX_TOKEN_ATTEMPTS: usize = 3;

impl<S: SessionStore> SessionService<S> {
    /// Begins a session for this user.
    ///
    /// The caller must verify the user's identity before this call.
    /// `headers` are the headers of the sign-in request.
    ///
    /// The sessions of the tokens in `headers` end in the same atomic step, no matter which users
    /// these sessions belong to (OWASP ASVS 5.0, 7.2.4). At most eight cookie tokens count, and at
    /// most eight bearer tokens if
    /// [`bearer_tokens`](crate::service::SessionServiceBuilder::bearer_tokens) is on. The sessions
    /// of further tokens do not end.
    ///
    /// The `User-Agent` is stored for the list of sessions. The stored text has at most 256 bytes,
    /// without control, format and separator characters. A store that cannot encode the text omits
    /// it.
    ///
    /// The token is always new. The service never adopts a token from the client. [`SignIn`] has
    /// more options, which must be set before the sign-in is awaited.
    ///
    /// # Errors
    ///
    /// See [`SignIn`].
    #[doc(alias = "login")]
    pub fn sign_in(&self, user_id: S::UserId, headers: &HeaderMap) -> SignIn<S> {
        self.sign_in_without_request(user_id).request(headers)
    }

    /// Begins a session for this user without a request.
    ///
    /// This method is for a command line, for a test, or for a native client that receives
    /// [`SignedIn::token`](crate::SignedIn::token).
    ///
    /// **This method ends no earlier session of the client.** A server must use
    /// [`sign_in`](Self::sign_in) instead. Otherwise the session of the sign-in request stays
    /// valid.
    ///
    /// # Errors
    ///
    /// See [`SignIn`].
    pub fn sign_in_without_request(&self, user_id: S::UserId) -> SignIn<S> {
        SignIn::new(self.clone(), user_id)
    }
}

/// A pending sign-in. Set its options, then await it to run it.
///
/// The sign-in is one atomic step. It begins the new session and ends the sessions of the request's
/// tokens, within the limits of [`sign_in`](SessionService::sign_in).
///
/// # Errors
///
/// The future resolves with one of these errors, or with another error of the store:
///
/// * [`ErrorKind::UserNotAllowed`] if the user does not exist or does not meet the store's
///   condition, for example because the user is disabled.
/// * [`ErrorKind::TooManySessions`] if the session limit rejects another session.
/// * [`ErrorKind::Deadline`] if the sign-in exceeds the service's deadline.
/// * [`ErrorKind::Rng`] if the random number generator fails or returns duplicate tokens.
/// * [`ErrorKind::Configuration`] if [`max_lifetime`](Self::max_lifetime) is shorter than 1 second.
///
/// # Cancellation
///
/// If the future is dropped before it is polled, nothing happens. If it is dropped while it runs,
/// the step may or may not take effect. If the step takes effect, no client has the token of the
/// new session.
#[must_use = "the user is not signed in until this is awaited"]
pub struct SignIn<S: SessionStore> {
    pub(crate) sessions: SessionService<S>,
    user_id: S::UserId,
    replaced: Vec<TokenDigest>,
    user_agent: Option<String>,
    ip: Option<IpAddr>,
    pub(crate) condition: S::Condition,
    values: S::SessionValues,
    max_lifetime: Option<Duration>,
    remembered: bool,
}

impl<S: SessionStore> SignIn<S> {
    pub(crate) fn new(sessions: SessionService<S>, user_id: S::UserId) -> Self {
        Self {
            user_id,
            replaced: Vec::new(),
            user_agent: None,
            ip: None,
            condition: S::Condition::default(),
            values: S::SessionValues::default(),
            max_lifetime: None,
            remembered: false,
            sessions,
        }
    }

    /// Adds the tokens and the `User-Agent` of the sign-in request.
    pub(crate) fn request(mut self, headers: &HeaderMap) -> Self {
        self.replaced = self.sessions.credentials().digests(headers);
        self.user_agent = user_agent::of(headers);
        self
    }

    /// Sets the client's address for the list of sessions. The default is `None`: no address.
    ///
    /// This crate reads the address from no header, because only the application knows which
    /// proxies it trusts.
    /// An IPv4-mapped IPv6 address, such as `::ffff:192.0.2.7`, is stored as IPv4.
    pub fn ip(mut self, ip: impl Into<Option<IpAddr>>) -> Self {
        self.ip = ip.into().map(|ip| ip.to_canonical());
        self
    }

    /// Sets whether the browser keeps the cookie after the browser is closed. The default is
    /// `false`.
    ///
    /// Without this option, the cookie has no `Max-Age`. The browser deletes the cookie when the
    /// browser session ends. The server's limits apply in both cases.
    pub const fn remember(mut self, remembered: bool) -> Self {
        self.remembered = remembered;
        self
    }

    /// Sets a shorter absolute limit for this session, of at least 1 second.
    ///
    /// The default is the store's absolute limit. A longer lifetime has no effect.
    pub const fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = Some(lifetime);
        self
    }

    /// Signs in only if this column of the user's row still has this value. Otherwise the sign-in
    /// fails with [`ErrorKind::UserNotAllowed`](crate::ErrorKind::UserNotAllowed).
    ///
    /// Verifying a password takes time, and the password may change meanwhile. Pass the hash that
    /// was verified. A sign-in with the old password then cannot succeed after a password change
    /// that revokes the other sessions.
    ///
    /// In PostgreSQL, `column` is an SQL expression of the application, as in `PgUser::COLUMNS`:
    /// never build it from input. `value` implements `ToSql`. The two are compared with
    /// `pg_catalog.=`, which compares a `citext` as text. In a test without a database,
    /// `MemorySessionStore::set_column` sets the column.
    ///
    /// ```no_run
    /// # use tower_user_session::*;
    /// # async fn example<U: PgUser<Id = i64>>(
    /// #     sessions: SessionService<PgSessionStore<U>>, headers: http::HeaderMap,
    /// #     checked_hash: String,
    /// # ) -> Result<(), Error> {
    /// let signed_in =
    ///     sessions.sign_in(7, &headers).if_unchanged("u.password_hash", checked_hash).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("session_auth_hash", "password"))]
    pub fn if_unchanged<V>(mut self, column: &'static str, value: V) -> Self
    where
        S::Condition: ColumnConditions<V>,
    {
        self.condition.add(column, value);
        self
    }

    /// Sets a session column of the new session. A later call for the same column replaces the
    /// value.
    ///
    /// The store must know the column. A `PgSessionStore` knows the columns of
    /// `PgUser::SESSION_COLUMNS`. There, a value has a type that the driver can convert to the
    /// column's type. The crate and the driver log no value.
    ///
    /// # Errors
    ///
    /// The sign-in fails with [`ErrorKind::Configuration`] if the store does not know the column.
    /// An error of the database, such as a violated foreign key, fails the sign-in too.
    pub fn set<T>(mut self, column: &'static str, value: T) -> Self
    where
        S: SetSessionColumn<T>,
    {
        S::set(&mut self.values, column, value);
        self
    }

    async fn run(
        self,
        generate: impl FnMut() -> Result<SessionToken, Error> + Send,
    ) -> Result<SignedIn, Error> {
        let start = Instant::now();
        let outcome = self.insert(generate).await;
        let counters = self.sessions.counters();
        counters.signed_in(start.elapsed());
        if let Err(error) = &outcome
            && !matches!(
                error.kind(),
                ErrorKind::UserNotAllowed | ErrorKind::TooManySessions
            )
        {
            counters.count(Counter::SignInsFailed);
        }
        outcome
    }

    async fn insert(
        &self,
        mut generate: impl FnMut() -> Result<SessionToken, Error> + Send,
    ) -> Result<SignedIn, Error> {
        for _ in 0..MAX_TOKEN_ATTEMPTS {
            let token = generate()?;
            let new = self.new_session(token.digest())?;
            let insert = self.sessions.store().insert(new);
            match self.sessions.within_deadline(insert).await? {
                InsertOutcome::DuplicateDigest => {}
                outcome => {
                    self.observe(&outcome);
                    if let InsertOutcome::Inserted {
                        ended, over_limit, ..
                    } = &outcome
                    {
                        let ended = [&ended[..], over_limit].concat();
                        self.sessions.feed().invalidate_local(ended);
                        // Another process may just have ended a session that this statement did not
                        // find. The notification about that session must arrive before this call
                        // returns.
                        if !self.replaced.is_empty() {
                            self.sessions.feed().sync().await;
                        }
                    }
                    return self.signed_in(token, &outcome);
                }
            }
        }
        Err(tokens_collided())
    }

    fn observe(&self, outcome: &InsertOutcome) {
        let fields = || EventFields {
            user_id: Some(&self.user_id),
            ip: self.ip,
            user_agent: self.user_agent.as_deref(),
            ..EventFields::default()
        };
        let refused = |cause| {
            let kind = SessionEventKind::SignInRefused(cause);
            self.sessions.observe(kind, fields());
        };
        match outcome {
            InsertOutcome::Inserted {
                session,
                ended,
                over_limit,
            } => {
                let mut signed_in = fields();
                signed_in.session = Some(session.id());
                self.sessions.observe(SessionEventKind::SignedIn, signed_in);
                // A replaced session may belong to another user.
                let replaced = EventFields {
                    user_id: None,
                    ..fields()
                };
                self.sessions
                    .observe_ends(EndCause::Replaced, ended, &replaced);
                self.sessions
                    .observe_ends(EndCause::Limit, over_limit, &fields());
            }
            InsertOutcome::UserRefused => refused(RefusalCause::UserNotAllowed),
            InsertOutcome::TooManySessions => refused(RefusalCause::TooManySessions),
            InsertOutcome::DuplicateDigest => {}
        }
    }

    pub(crate) fn new_session(&self, digest: TokenDigest) -> Result<NewSession<'_, S>, Error> {
        let mut new = NewSession::new(
            digest,
            &self.user_id,
            &self.condition,
            self.session_lifetime()?,
        );
        new.replaced = &self.replaced;
        new.remembered = self.remembered;
        new.user_agent = self.user_agent.as_deref();
        new.ip = self.ip;
        new.values = Some(&self.values);
        Ok(new)
    }

    pub(crate) fn signed_in(
        &self,
        token: SessionToken,
        outcome: &InsertOutcome,
    ) -> Result<SignedIn, Error> {
        match outcome {
            InsertOutcome::Inserted { session, .. } => {
                self.sessions.count(Counter::SignIns);
                tracing::info!(
                    target: "tower_user_session",
                    event = "signed_in",
                    session = %session.id(),
                    "signed in"
                );
                Ok(SignedIn::new(
                    &self.sessions,
                    token,
                    *session,
                    self.remembered,
                ))
            }
            InsertOutcome::UserRefused => {
                self.sessions.count(Counter::SignInsNotAllowed);
                Err(Error::from_kind(ErrorKind::UserNotAllowed))
            }
            InsertOutcome::TooManySessions => {
                self.sessions.count(Counter::SignInsTooMany);
                Err(Error::from_kind(ErrorKind::TooManySessions))
            }
            InsertOutcome::DuplicateDigest => Err(tokens_collided()),
        }
    }

    fn session_lifetime(&self) -> Result<Duration, Error> {
        let absolute_limit = self.sessions.store().lifetime().absolute_limit();
        let Some(max_lifetime) = self.max_lifetime else {
            return Ok(absolute_limit);
        };
        if max_lifetime < Lifetime::SHORTEST {
            let context = "max_lifetime must be at least 1 s";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(max_lifetime.min(absolute_limit))
    }
}

/// Returns the error for a sign-in in which the digest of every new token already exists.
pub(crate) fn tokens_collided() -> Error {
    let error = Error::from_kind(ErrorKind::Rng)
        .with_message("the random number generator returned duplicate tokens");
    tracing::error!(
        target: "tower_user_session",
        event = "tokens_collided",
        kind = ?error.kind(),
        %error,
        "token generation failed: every new session token already exists"
    );
    error
}

impl<S: SessionStore> IntoFuture for SignIn<S> {
    type Output = Result<SignedIn, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run(SessionToken::generate))
    }
}

impl<S: SessionStore> fmt::Debug for SignIn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn").finish_non_exhaustive()
    }
}

/// A completed sign-in, whose cookie must be written to the response.
///
/// With the feature `axum`, this type is part of a response (`IntoResponseParts`).
/// Other frameworks call [`write_to`](Self::write_to).
///
/// The response must not have the status 304. A cache merges the headers of a 304 response into the
/// stored response (RFC 9111 §4.3.4).
#[derive(Debug)]
#[must_use = "the client is not signed in until its cookie is written to the response"]
pub struct SignedIn {
    cookie: SessionCookie,
    token: SessionToken,
    session: Session,
    remembered: bool,
}

impl SignedIn {
    pub(crate) fn new<S: SessionStore>(
        sessions: &SessionService<S>,
        token: SessionToken,
        session: Session,
        remembered: bool,
    ) -> Self {
        Self {
            cookie: sessions.cookie().clone(),
            token,
            session,
            remembered,
        }
    }

    /// Writes `Set-Cookie`, `Cache-Control: no-store` and `Vary: Cookie`.
    ///
    /// A cache that stored the response would give one user's session to another user.
    /// The method replaces an earlier `Set-Cookie` of the same name and any `Cache-Control`.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        self.cookie
            .set(headers, &self.token, &self.session, self.remembered);
    }

    /// Returns the new session.
    pub const fn session(&self) -> Session {
        self.session
    }

    /// Returns the new token, for clients without cookies.
    pub const fn token(&self) -> &SessionToken {
        &self.token
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use crate::store::MemorySessionStore;

    /// B04: if the generator repeats a token, the sign-in retries and then fails. The session with
    /// that token does not change.
    #[tokio::test]
    async fn a_duplicate_token_is_retried_and_then_fails() {
        let sessions = SessionService::new(MemorySessionStore::new());
        sessions.store().add_user(1, "Ada");
        sessions.store().add_user(2, "Eve");
        let same = SessionToken::parse(&[b'A'; SessionToken::CHARACTERS]);
        let repeat = || SessionToken::parse(&[b'A'; SessionToken::CHARACTERS]);
        let _ = sessions
            .sign_in_without_request(1)
            .run(|| Ok(repeat().unwrap()))
            .await
            .unwrap();

        let mut attempts = 0;
        let generate = || {
            attempts += 1;
            Ok(repeat().unwrap())
        };
        let error = sessions
            .sign_in_without_request(2)
            .run(generate)
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), attempts),
            (ErrorKind::Rng, MAX_TOKEN_ATTEMPTS)
        );
        assert_eq!(sessions.user(&same.unwrap()).await.unwrap(), Some("Ada"));
    }
}
