//! Beginning a session.

use std::{
    fmt,
    future::{Future, IntoFuture},
    net::IpAddr,
    pin::Pin,
    time::Duration,
};

use http::HeaderMap;

use crate::{
    cookie::SessionCookie,
    error::{Error, ErrorKind},
    service::SessionService,
    session::{Lifetime, Session, SessionToken, TokenDigest, user_agent},
    store::{InsertOutcome, NewSession, SessionStore},
};

/// Two tokens never collide. Should a broken generator repeat itself, it is asked so often.
pub(crate) const ATTEMPTS: usize = 3;

impl<S: SessionStore> SessionService<S> {
    /// Begins a session for this user, once the application has made sure who they are.
    ///
    /// `headers` are those of the request that asks to sign in. The sessions that it presents end in the same
    /// step, whosever they were (OWASP ASVS 5.0, 7.2.4). Its `User-Agent` is kept for the list of sessions: at most
    /// 256 bytes, without control, format and separator characters. A store whose encoding cannot hold it leaves it
    /// out.
    ///
    /// The token is always new; nothing is adopted from the client. See [`SignIn`] for what else can
    /// be said before it is awaited.
    pub fn sign_in(&self, user_id: S::UserId, headers: &HeaderMap) -> SignIn<S> {
        self.sign_in_without_request(user_id).request(headers)
    }

    /// Like [`sign_in`](Self::sign_in) where there is no request: on a command line, in a test, or for a native
    /// client that is given [`SignedIn::token`](crate::SignedIn::token). **No session ends.** In a server use
    /// [`sign_in`](Self::sign_in), because the session that the request came with would live on.
    pub fn sign_in_without_request(&self, user_id: S::UserId) -> SignIn<S> {
        SignIn::new(self.clone(), user_id)
    }
}

/// A sign-in that is about to happen: say what else is known, then await it.
///
/// In one atomic step it begins the new session and ends the one that the request came with. A user
/// who does not exist, or does not meet the store's condition (disabled, say), is not signed in:
/// [`ErrorKind::UserNotAllowed`].
///
/// # Cancellation
///
/// Dropped before it is awaited, nothing happens. Dropped while it runs, the step may or may not
/// have taken effect; if it has, there is a session whose token nobody holds.
#[must_use = "nobody is signed in until this is awaited"]
pub struct SignIn<S: SessionStore> {
    pub(crate) sessions: SessionService<S>,
    user_id: S::UserId,
    replaced: Vec<TokenDigest>,
    user_agent: Option<String>,
    ip: Option<IpAddr>,
    pub(crate) condition: S::Condition,
    shorter: Option<Duration>,
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
            shorter: None,
            remembered: false,
            sessions,
        }
    }

    /// With the request that asks to sign in.
    pub(crate) fn request(mut self, headers: &HeaderMap) -> Self {
        self.replaced = self.sessions.credentials().digests(headers);
        self.user_agent = user_agent::of(headers);
        self
    }

    /// Where the request came from, for the list of devices. The library reads no header for it: only
    /// the application knows which proxies it trusts. `None` says nothing. An IPv4 address that is mapped to IPv6,
    /// such as `::ffff:192.0.2.7`, is stored as IPv4.
    pub fn ip(mut self, ip: impl Into<Option<IpAddr>>) -> Self {
        self.ip = ip.into().map(|ip| ip.to_canonical());
        self
    }

    /// Whether the person asked to be remembered when the browser is closed. By default not: the
    /// cookie then has no `Max-Age`, and the browser forgets it when it ends its own session. The
    /// server's limits hold in either case.
    pub const fn remember(mut self, remembered: bool) -> Self {
        self.remembered = remembered;
        self
    }

    /// A shorter life for this one session than the store's absolute limit. A longer one has no
    /// effect.
    pub const fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.shorter = Some(lifetime);
        self
    }

    async fn run(
        self,
        mut generate: impl FnMut() -> Result<SessionToken, Error> + Send,
    ) -> Result<SignedIn, Error> {
        for _ in 0..ATTEMPTS {
            let token = generate()?;
            let new = self.new_session(token.digest())?;
            let insertion = self.sessions.store().insert(new);
            match self.sessions.within_deadline(insertion).await? {
                InsertOutcome::DuplicateDigest => {}
                other => {
                    if let InsertOutcome::Inserted { ended, .. } = &other {
                        self.sessions.feed().invalidate_local(ended.clone());
                        // A session that was not found may have been ended elsewhere a moment ago.
                        if !self.replaced.is_empty() {
                            self.sessions.feed().sync().await;
                        }
                    }
                    return self.signed_in(token, &other);
                }
            }
        }
        Err(repeating())
    }

    pub(crate) fn new_session(&self, digest: TokenDigest) -> Result<NewSession<'_, S>, Error> {
        let mut new = NewSession::new(digest, &self.user_id, &self.condition, self.life()?);
        new.replaced = &self.replaced;
        new.remembered = self.remembered;
        new.user_agent = self.user_agent.as_deref();
        new.ip = self.ip;
        Ok(new)
    }

    pub(crate) fn signed_in(
        &self,
        token: SessionToken,
        insertion: &InsertOutcome,
    ) -> Result<SignedIn, Error> {
        match insertion {
            InsertOutcome::Inserted { session, .. } => {
                tracing::info!(session = %session.id(), "signed in");
                Ok(SignedIn::new(
                    &self.sessions,
                    token,
                    *session,
                    self.remembered,
                ))
            }
            InsertOutcome::UserRefused => Err(Error::from_kind(ErrorKind::UserNotAllowed)),
            InsertOutcome::TooManySessions => Err(Error::from_kind(ErrorKind::TooManySessions)),
            InsertOutcome::DuplicateDigest => Err(repeating()),
        }
    }

    fn life(&self) -> Result<Duration, Error> {
        let longest = self.sessions.store().lifetime().absolute_limit();
        let Some(shorter) = self.shorter else {
            return Ok(longest);
        };
        if shorter < Lifetime::SHORTEST {
            let context = "a session must live for at least one second";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(shorter.min(longest))
    }
}

/// Every attempt met a digest that was taken.
pub(crate) fn repeating() -> Error {
    tracing::error!("new session tokens collided with existing ones");
    Error::from_kind(ErrorKind::Rng).with_message("the random generator repeats itself")
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

/// A session that has begun. Its cookie must still reach the client.
///
/// With axum it is part of a response (feature `axum`); elsewhere [`write_to`](Self::write_to)
/// writes it. Do not sign in on a response with status 304: a cache merges its headers into what it
/// has stored (RFC 9111 §4.3.4).
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

    /// Writes `Set-Cookie`, `Cache-Control: no-store` and `Vary: Cookie`: whoever stored such a
    /// response would hand one person's session to another.
    ///
    /// Replaces an earlier `Set-Cookie` of the same name, and whatever `Cache-Control` there was.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        self.cookie
            .set(headers, &self.token, &self.session, self.remembered);
    }

    /// The session that has begun.
    pub const fn session(&self) -> Session {
        self.session
    }

    /// The new token, for clients without cookies.
    pub const fn token(&self) -> &SessionToken {
        &self.token
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use crate::store::MemorySessionStore;

    /// B04: a generator that repeats itself never touches an existing session; it ends in an error.
    #[tokio::test]
    async fn a_digest_that_is_taken_is_drawn_again_and_then_given_up() {
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

        let mut drawn = 0;
        let generate = || {
            drawn += 1;
            Ok(repeat().unwrap())
        };
        let error = sessions
            .sign_in_without_request(2)
            .run(generate)
            .await
            .unwrap_err();
        assert_eq!((error.kind(), drawn), (ErrorKind::Rng, ATTEMPTS));
        assert_eq!(sessions.user(&same.unwrap()).await.unwrap(), Some("Ada"));
    }
}
