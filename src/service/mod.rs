//! The domain service: everything an application does with sessions.

mod delete_expired;
mod feed;
mod reauthenticate;
mod sessions;
mod sign_in;
mod sign_out;

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;

use crate::{
    cookie::{PresentedToken, SessionCookie, credentials::Credentials},
    error::{Chain, Error, ErrorKind},
    feed::DEFAULT_LEASE,
    log_limit::LogLimiter,
    lookup::{batcher::LookupBatcher, last_seen::LastSeenWriter, pending::PendingLookup},
    metrics::Counter,
    session::{CurrentSession, SessionToken, TokenDigest},
    store::{LiveSession, SessionLookup, SessionStore},
};

pub use self::{
    reauthenticate::Reauthenticate,
    sign_in::{SignIn, SignedIn},
    sign_out::{SignOut, SignedOut},
};
pub use crate::metrics::SessionMetrics;

/// How long a lookup, a sign-in or a sign-out may take, unless the application says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);

/// Turns a token into the user, begins sessions and ends them. Not a `tower::Service`:
/// [`LoadUserLayer`](crate::load_user::LoadUserLayer) is what stands in a tower stack, and it holds one of
/// these.
///
/// Cheap to clone; clones are one service. Building one needs no runtime; looking a session up needs
/// the tokio runtime, with its timers, and an error says so where there is none.
///
/// # Lookups
///
/// While nothing is in flight, a lookup goes to the store at once and alone. While something is,
/// lookups gather and go together when it returns, or beside it once there are four of them: under
/// load many requests share one statement. A lookup runs in a task of its own: dropping a call
/// disturbs nobody who waits for the same answer.
/// No lookup is ever answered from a question that was sent before it was asked, so a session that
/// was ended is dead for every request that starts after the ending call returned, in any process.
///
/// | bound | value |
/// |---|---|
/// | deadline, from asking to the answer, waiting included | 2 s |
/// | questions in flight | 2 |
/// | tokens in one question | 128 |
/// | tokens waiting, beyond which lookups fail at once | 16,384 |
///
/// # Example
///
/// With the store for tests, which needs no server:
///
/// ```
/// use http::HeaderMap;
/// use tower_user_session::{SessionService, store::MemorySessionStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_user_session::Error> {
/// let store = MemorySessionStore::new();
/// store.add_user(7, "Ada");
/// let sessions = SessionService::new(store);
///
/// let signed_in = sessions.sign_in_without_request(7).await?;
/// assert_eq!(sessions.user(signed_in.token()).await?, Some("Ada"));
/// # Ok(())
/// # }
/// ```
pub struct SessionService<L: SessionLookup> {
    shared: Arc<Shared<L>>,
}

struct Shared<L: SessionLookup> {
    batcher: Arc<LookupBatcher<L>>,
    credentials: Credentials,
    rejected: LogLimiter,
    unavailable: LogLimiter,
    failed_sign_outs: LogLimiter,
    disagreeing: LogLimiter,
}

/// Settings of a [`SessionService`] that is about to be built.
#[derive(Debug)]
#[must_use]
pub struct SessionServiceBuilder<L> {
    lookup: L,
    credentials: Credentials,
    deadline: Duration,
    lease: Duration,
    recheck_interval: Option<Duration>,
}

impl<L: SessionLookup> SessionService<L> {
    /// A service over this store, with every default.
    pub fn new(store: L) -> Self {
        Self::assemble(Self::builder(store))
    }

    /// A service over this store, with settings of one's own.
    pub fn builder(store: L) -> SessionServiceBuilder<L> {
        SessionServiceBuilder {
            lookup: store,
            credentials: Credentials {
                cookie: SessionCookie::default(),
                bearer: false,
            },
            deadline: DEFAULT_DEADLINE,
            lease: DEFAULT_LEASE,
            recheck_interval: None,
        }
    }

    fn assemble(builder: SessionServiceBuilder<L>) -> Self {
        let shared = Shared {
            batcher: Arc::new(LookupBatcher::new(
                builder.lookup,
                builder.deadline,
                builder.lease,
                builder.recheck_interval,
            )),
            credentials: builder.credentials,
            rejected: LogLimiter::default(),
            unavailable: LogLimiter::default(),
            failed_sign_outs: LogLimiter::default(),
            disagreeing: LogLimiter::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The user whose session this token is of, if it is live.
    ///
    /// # Errors
    ///
    /// When it could not be found out. Dropping the future abandons the question.
    pub async fn user(&self, token: &SessionToken) -> Result<Option<L::User>, Error> {
        Ok(self.resolve(token).await?.map(|live| live.user))
    }

    /// The session that this token is of and its user, if it is live.
    ///
    /// # Errors
    ///
    /// When it could not be found out. Dropping the future abandons the question.
    pub async fn resolve(
        &self,
        token: &SessionToken,
    ) -> Result<Option<LiveSession<L::User>>, Error> {
        self.ask(token.digest()).await
    }

    /// Like [`resolve`](Self::resolve), for the side of a remote resolver that has the database: it
    /// is given digests by services that keep the tokens to themselves.
    ///
    /// # Errors
    ///
    /// When it could not be found out. Dropping the future abandons the question.
    pub async fn resolve_digest(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<LiveSession<L::User>>, Error> {
        self.ask(digest).await
    }

    /// Rejects new lookups, waits for those in flight, writes which sessions were used, and closes what the
    /// store holds open. Later lookups fail with [`ErrorKind::Closed`]; signing out still works.
    ///
    /// It waits for the lookups in flight for at most the [deadline](SessionServiceBuilder::deadline), and for
    /// the writes for at most the deadline again. Uses that are not written by then are lost, and a `warn`
    /// event says so.
    pub async fn close(&self) {
        self.shared.batcher.close().await;
    }

    /// Ends every stream that waits for the end of its session
    /// ([`EndReason::ServiceClosed`](crate::feed::EndReason::ServiceClosed)), and each later one at once. Lookups go on.
    ///
    /// For a server that drains: call it when the server is asked to stop, because a stream would keep it from stopping.
    /// Requests in flight are still answered. Call [`close`](Self::close) once the server has stopped.
    pub fn end_streams(&self) {
        self.shared.batcher.watchers.close();
    }

    /// How often what happened.
    pub fn metrics(&self) -> SessionMetrics {
        self.shared.batcher.counters.read()
    }

    /// The cookie that this service reads and writes.
    pub fn cookie(&self) -> &SessionCookie {
        &self.shared.credentials.cookie
    }

    /// The store.
    pub fn store(&self) -> &L {
        &self.shared.batcher.lookup
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.shared.credentials
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.shared.batcher.deadline
    }

    pub(crate) fn batcher(&self) -> &Arc<LookupBatcher<L>> {
        &self.shared.batcher
    }

    pub(crate) fn ask(&self, digest: TokenDigest) -> PendingLookup<L::User> {
        self.shared.batcher.submit(digest)
    }

    /// Asks whose session this request is of, or counts why it cannot be of one. A rejected cookie is also a
    /// security event.
    pub(crate) fn look_up(&self, headers: &HeaderMap) -> Option<PendingLookup<L::User>> {
        match self.shared.credentials.read(headers) {
            PresentedToken::Token(token) => return Some(self.ask(token.digest())),
            PresentedToken::Several(tokens) => return Some(self.look_up_one_of(&tokens)),
            PresentedToken::Nothing => self.count(Counter::Anonymous),
            PresentedToken::Malformed => self.reject("malformed"),
            PresentedToken::Ambiguous => self.reject("ambiguous"),
        }
        None
    }

    /// Asks about every token in one batch. The answer is the one session that is live; two of them are
    /// ambiguous.
    fn look_up_one_of(&self, tokens: &[SessionToken]) -> PendingLookup<L::User> {
        let digests: Vec<_> = tokens.iter().map(SessionToken::digest).collect();
        let answers = match self.shared.batcher.submit_together(&digests) {
            Ok(answers) => answers,
            Err(error) => return PendingLookup::failed(error),
        };
        let sessions = self.clone();
        PendingLookup::one_of(Box::pin(async move {
            let mut live = answers.live().await?.into_iter();
            match (live.next(), live.next()) {
                (Some(live), None) => {
                    LastSeenWriter::used(&sessions.shared.batcher, &live.session);
                    Ok(Some(live))
                }
                (Some(_), Some(_)) => {
                    sessions.report_rejected("ambiguous");
                    Ok(None)
                }
                (None, _) => Ok(None),
            }
        }))
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.shared.batcher.counters.add(counter, 1);
    }

    fn reject(&self, reason: &'static str) {
        self.count(Counter::Rejected);
        self.report_rejected(reason);
    }

    fn report_rejected(&self, reason: &'static str) {
        if let Some(requests) = self.shared.rejected.count() {
            tracing::warn!(reason, requests, "session cookies were rejected");
        }
    }

    pub(crate) fn report_failed_sign_out(&self, error: &Error) {
        if let Some(sign_outs) = self.shared.failed_sign_outs.count() {
            let error = Chain(error);
            tracing::error!(%error, sign_outs, "sessions may live on after sign-out");
        }
    }

    /// Reports that two layers for one user type found different sessions on one request.
    pub(crate) fn report_disagreement(
        &self,
        outer: CurrentSession<L::User>,
        inner: Option<&CurrentSession<L::User>>,
    ) {
        if inner.is_some_and(|inner| inner.id() == outer.id()) {
            return;
        }
        if let Some(requests) = self.shared.disagreeing.count() {
            let user_type = std::any::type_name::<L::User>();
            tracing::error!(
                user_type,
                requests,
                "two LoadUserLayers for one user type found different sessions; the inner one counts"
            );
        }
    }

    pub(crate) fn report_unavailable(&self, error: &Error) {
        self.count(Counter::Unavailable);
        if let Some(requests) = self.shared.unavailable.count() {
            tracing::error!(error = %Chain(error), requests, "sessions could not be looked up");
        }
    }
}

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

    /// Takes down that the person has just proved again who they are, and gives their session a new
    /// token. See [`Reauthenticate`].
    pub fn reauthenticate(&self, user_id: S::UserId, headers: &HeaderMap) -> Reauthenticate<S> {
        Reauthenticate::new(self.clone(), user_id, headers)
    }

    /// Ends whatever sessions this request presents. It needs no lookup before it, so that a route
    /// for signing out can be exempt from the layer. See [`SignOut`].
    pub fn sign_out(&self, headers: &HeaderMap) -> SignOut<S> {
        SignOut::new(self.clone(), headers)
    }
}

impl<L: SessionLookup> SessionServiceBuilder<L> {
    /// The session cookie's name and attributes.
    pub fn cookie(mut self, cookie: SessionCookie) -> Self {
        self.credentials.cookie = cookie;
        self
    }

    /// Reads the token from `Authorization: Bearer` as well (RFC 6750 §2.1), for gRPC and mobile
    /// clients, which are given [`SignedIn::token`](crate::SignedIn::token). A request that presents
    /// two different tokens is ambiguous and so anonymous. What cannot be a token of this crate, such as a
    /// proxy's JSON Web Token, does not compete with a cookie that can.
    ///
    /// Off by default: a browser's cookie needs no script that could read the token; this header
    /// does.
    pub fn bearer_tokens(mut self) -> Self {
        self.credentials.bearer = true;
        self
    }

    /// How long a lookup may take, waiting, connecting and asking together; likewise a sign-in and a
    /// sign-out. By default [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a feed of ended sessions counts as hearing after its last proof. By default
    /// [`DEFAULT_LEASE`]. See [`SessionService::subscribe`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets after which time a cached result is looked up again, and a session that a stream waits for is checked
    /// again, while the feed is connected. By default
    /// [`DEFAULT_RECHECK_INTERVAL`](crate::feed::DEFAULT_RECHECK_INTERVAL) if the feed announces users, and
    /// [`DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS`](crate::feed::DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS) otherwise. It bounds for how long a
    /// change that nothing announces goes unnoticed: see [`SessionService::enable_cache`].
    pub fn recheck_interval(mut self, interval: Duration) -> Self {
        self.recheck_interval = Some(interval);
        self
    }

    /// The service.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] unless the deadline lies between a millisecond and a minute, the lease between a
    /// tenth of a second and a minute, and the re-check interval between a tenth of a second and an hour.
    pub fn build(self) -> Result<SessionService<L>, Error> {
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.deadline) {
            let context = "the deadline must lie between a millisecond and a minute";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.lease) {
            let context = "the lease must lie between a tenth of a second and a minute";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        let interval = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
        if self
            .recheck_interval
            .is_some_and(|set| !interval.contains(&set))
        {
            let context = "the re-check interval must lie between a tenth of a second and an hour";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(SessionService::assemble(self))
    }
}

impl<L: SessionLookup> Clone for SessionService<L> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<L: SessionLookup> fmt::Debug for SessionService<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService")
            .field("cookie", self.cookie())
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}
