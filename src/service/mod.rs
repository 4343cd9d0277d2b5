//! The domain service: everything an application does with sessions.

mod builder;
mod delete_expired;
mod feed;
mod reauthenticate;
mod sessions;
mod sign_in;
mod sign_out;
#[cfg(feature = "test-util")]
mod test_util;

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::sync::OnceCell;

use crate::{
    cookie::{PresentedToken, SessionCookie, credentials::Credentials},
    deadline::within,
    error::{Chain, Error},
    feed::slot::FeedSlot,
    log_limit::LogLimiter,
    lookup::{batcher::LookupBatcher, last_seen::LastSeenWriter, pending::PendingLookup},
    metrics::{Counter, Counters},
    session::{CurrentSession, SessionToken, TokenDigest},
    store::{LiveSession, SessionLookup},
};

pub use self::{
    builder::SessionServiceBuilder,
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
    inner: Arc<Inner<L>>,
}

struct Inner<L: SessionLookup> {
    store: Arc<L>,
    deadline: Duration,
    credentials: Credentials,
    feed: Arc<FeedSlot<L::User>>,
    last_seen: Arc<LastSeenWriter<L>>,
    lookups: LookupBatcher<L>,
    metrics: Arc<Counters>,
    closed_store: OnceCell<()>,
    rejected: LogLimiter,
    unavailable: LogLimiter,
    failed_sign_outs: LogLimiter,
    disagreeing: LogLimiter,
}

impl<L: SessionLookup> SessionService<L> {
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
        self.submit(token.digest()).await
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
        self.submit(digest).await
    }

    /// Rejects new lookups, waits for those in flight, writes which sessions were used, and closes what the
    /// store holds open. Later lookups fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed); signing out still works.
    ///
    /// It waits for the lookups in flight for at most the [deadline](SessionServiceBuilder::deadline), and for
    /// the writes for at most the deadline again. Uses that are not written by then are lost, and a `warn`
    /// event says so.
    pub async fn close(&self) {
        let inner = &*self.inner;
        // Nothing is answered from memory any more.
        if let Some(feed) = inner.feed.subscription() {
            feed.stop();
        }
        self.bounded(inner.lookups.close()).await;
        self.bounded(inner.last_seen.flush()).await;
        inner.feed.watchers.close();
        let closed = inner.closed_store.get_or_init(|| inner.store.close());
        closed.await;
    }

    /// Ends every stream that waits for the end of its session
    /// ([`EndReason::ServiceClosed`](crate::feed::EndReason::ServiceClosed)), and each later one at once. Lookups go on.
    ///
    /// For a server that drains: call it when the server is asked to stop, because a stream would keep it from stopping.
    /// Requests in flight are still answered. Call [`close`](Self::close) once the server has stopped.
    pub fn end_streams(&self) {
        self.inner.feed.watchers.close();
    }

    /// How often what happened.
    pub fn metrics(&self) -> SessionMetrics {
        self.inner.metrics.read()
    }

    /// The cookie that this service reads and writes.
    pub fn cookie(&self) -> &SessionCookie {
        &self.inner.credentials.cookie
    }

    /// The store.
    pub fn store(&self) -> &L {
        &self.inner.store
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.inner.credentials
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.inner.deadline
    }

    pub(crate) fn feed(&self) -> &Arc<FeedSlot<L::User>> {
        &self.inner.feed
    }

    /// Asks whose session this is. The question counts as asked when this returns.
    fn submit(&self, digest: TokenDigest) -> PendingLookup<L::User> {
        let inner = &*self.inner;
        inner.metrics.add(Counter::Lookups, 1);
        if let Some(hit) = inner.feed.subscription().and_then(|feed| feed.hit(&digest)) {
            inner.metrics.add(Counter::FromCache, 1);
            if hit.touch {
                inner.last_seen.used(&hit.live.session);
            }
            return PendingLookup::of(hit.live);
        }
        inner.lookups.submit(digest)
    }

    /// Asks whose session this request is of, or counts why it cannot be of one. A rejected cookie is also a
    /// security event.
    pub(crate) fn look_up(&self, headers: &HeaderMap) -> Option<PendingLookup<L::User>> {
        match self.inner.credentials.read(headers) {
            PresentedToken::Token(token) => return Some(self.submit(token.digest())),
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
        self.inner
            .metrics
            .add(Counter::Lookups, digests.len() as u64);
        let answers = match self.inner.lookups.submit_together(&digests) {
            Ok(answers) => answers,
            Err(error) => return PendingLookup::failed(error),
        };
        let sessions = self.clone();
        PendingLookup::one_of(Box::pin(async move {
            let mut live = answers.live().await?.into_iter();
            match (live.next(), live.next()) {
                (Some(live), None) => {
                    sessions.inner.last_seen.used(&live.session);
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

    async fn bounded(&self, wait: impl Future<Output = ()>) {
        let ended = within(self.deadline(), async {
            wait.await;
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "closing did not wait any longer for work in flight");
        }
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.inner.metrics.add(counter, 1);
    }

    fn reject(&self, reason: &'static str) {
        self.count(Counter::Rejected);
        self.report_rejected(reason);
    }

    fn report_rejected(&self, reason: &'static str) {
        if let Some(requests) = self.inner.rejected.count() {
            tracing::warn!(reason, requests, "session cookies were rejected");
        }
    }

    pub(crate) fn report_failed_sign_out(&self, error: &Error) {
        if let Some(sign_outs) = self.inner.failed_sign_outs.count() {
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
        if let Some(requests) = self.inner.disagreeing.count() {
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
        if let Some(requests) = self.inner.unavailable.count() {
            tracing::error!(error = %Chain(error), requests, "sessions could not be looked up");
        }
    }
}

impl<L: SessionLookup> Clone for SessionService<L> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
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
