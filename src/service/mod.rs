//! Session service: sign-in, lookup, re-authentication and revocation.
//!
//! A [`SessionService`] is the application's handle to its sessions.
//! [`LoadUserLayer`](crate::load_user::LoadUserLayer) looks sessions up with the same service.
//!
//! # Example
//!
//! The example uses the in-memory store, which needs no database server:
//!
//! ```
//! use http::HeaderMap;
//! use tower_user_session::{SessionService, store::MemorySessionStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_user_session::Error> {
//! let store = MemorySessionStore::new();
//! store.add_user(7, "Ada");
//! let sessions = SessionService::new(store);
//!
//! // The handler of the sign-in form has verified the password of user 7.
//! let request_headers = HeaderMap::new();
//! let mut response_headers = HeaderMap::new();
//! let signed_in = sessions.sign_in(7, &request_headers).await?;
//! signed_in.write_to(&mut response_headers);
//! assert!(response_headers.contains_key("set-cookie"));
//!
//! // The user selects "sign out everywhere".
//! assert_eq!(sessions.revoke_all(&7).await?, 1);
//! assert_eq!(sessions.user(signed_in.token()).await?, None);
//! # Ok(())
//! # }
//! ```

mod builder;
mod delete_expired;
mod events;
mod feed;
mod reauthenticate;
mod reports;
mod sessions;
mod sign_in;
mod sign_out;
#[cfg(feature = "test-util")]
mod test_util;
mod update;

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::sync::OnceCell;

use crate::{
    cookie::{PresentedToken, SessionCookie, credentials::Credentials},
    deadline::within,
    error::Error,
    feed::slot::FeedSlot,
    log_limit::LogLimiter,
    lookup::{batcher::LookupBatcher, last_seen::LastSeenWriter, pending::PendingLookup},
    metrics::{
        SessionMetrics,
        counters::{Counter, Counters},
    },
    outage::Outage,
    service::events::Events,
    session::{SessionToken, TokenDigest},
    store::{LiveSession, SessionLookup},
};

pub use self::{
    builder::SessionServiceBuilder,
    events::{EndCause, RefusalCause, SessionEvent, SessionEventKind, TokenRejection},
    reauthenticate::Reauthenticate,
    sign_in::{SignIn, SignedIn},
    sign_out::{SignOut, SignedOut},
    update::UpdateSession,
};

/// The default deadline of a lookup and of each other operation of a service: 2 seconds.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);

/// Looks up the user of a session token, begins sessions and ends them.
///
/// A service is cheap to clone, and its clones share one state.
/// It is not a `tower::Service`. [`LoadUserLayer`](crate::load_user::LoadUserLayer) connects it to
/// a tower stack.
///
/// A service can be built outside a runtime. Its operations need a tokio runtime with timers.
/// Without such a runtime, they fail with
/// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration).
///
/// # Lookups
///
/// A lookup is sent to the store at once if no query is in flight. Otherwise the service decides by
/// the latency of the last queries. If the latency is mostly the network round trip, the lookup is
/// sent at once too. If it is mostly the store, the lookup joins a batch. The batch is sent when a
/// query returns. If the batch contains at least four lookups, it is sent earlier, beside another
/// query. Under load, many requests therefore share one query. No timer delays a lookup.
///
/// A lookup that is alone runs in the task of its caller. All other batches run in tasks of their
/// own. Dropping the future of a lookup does not affect other waiters: a task completes its query.
///
/// A lookup never receives the result of a query that was sent before the lookup began.
/// Without a cache, a session that has ended is therefore invalid for every later request, in every
/// process that queries the same primary.
///
/// With [a cache](Self::enable_cache), the process that ended the session rejects it as soon as the
/// call returns. Another process may return the session from its cache until the notification
/// arrives. That delay never exceeds the [lease](SessionServiceBuilder::lease): 1 second by
/// default.
///
/// | limit | value |
/// |---|---|
/// | [deadline](SessionServiceBuilder::deadline), including the time in the queue | 2 s (default) |
/// | queries in flight near the store | 2, or as many as this process has processors, up to a quarter of the next row |
/// | queries in flight at a distance from the store | [`max_concurrent_lookups`](SessionLookup::max_concurrent_lookups) |
/// | tokens in one query | 128 |
/// | waiting tokens; further lookups fail at once | 16,384 |
///
/// # Example
///
/// The example uses the in-memory store, which needs no database server:
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
#[doc(alias("AuthSession", "axum-login", "tower-sessions"))]
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
    /// The observer's queue, if the application has an observer.
    events: Option<Events>,
    closed_store: OnceCell<()>,
    rejected: LogLimiter,
    lookup_outage: Arc<Outage>,
    sign_out_outage: Outage,
    deletion_outage: Outage,
    disagreeing: LogLimiter,
}

impl<L: SessionLookup> SessionService<L> {
    /// Returns the user of the session with this token, or `None` if no such session is live.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    ///
    /// # Cancellation
    ///
    /// As for [`resolve`](Self::resolve).
    pub async fn user(&self, token: &SessionToken) -> Result<Option<L::User>, Error> {
        Ok(self.resolve(token).await?.map(|live| live.user))
    }

    /// Returns the session with this token and its user, or `None` if no such session is live.
    ///
    /// The result is `None` in each of these cases: the token is unknown, the session has expired
    /// or was revoked, or the user is disabled.
    ///
    /// # Errors
    ///
    /// If the lookup fails. A caller must not treat a failed lookup as `None`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels this lookup only.
    pub async fn resolve(
        &self,
        token: &SessionToken,
    ) -> Result<Option<LiveSession<L::User>>, Error> {
        self.submit(token.digest()).await
    }

    /// Returns the session with this token digest and its user, or `None` if no such session is
    /// live.
    ///
    /// This method is for a central lookup service that has the database.
    /// Its clients send digests and never reveal the tokens.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    ///
    /// # Cancellation
    ///
    /// As for [`resolve`](Self::resolve).
    pub async fn resolve_digest(
        &self,
        digest: TokenDigest,
    ) -> Result<Option<LiveSession<L::User>>, Error> {
        self.submit(digest).await
    }

    /// Verifies that lookups succeed, for a readiness check.
    ///
    /// The call looks up a digest that no token has. It shares a query with other lookups, counts
    /// as one of them, and bypasses the cache. A failure writes no event.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    ///
    /// # Cancellation
    ///
    /// As for [`resolve`](Self::resolve).
    #[doc(alias("health", "readiness"))]
    pub async fn ping(&self) -> Result<(), Error> {
        self.count(Counter::Lookups);
        let unknown = TokenDigest::from_bytes([0; 32]);
        self.inner.lookups.submit(unknown).await.map(drop)
    }

    /// Closes the service: rejects new lookups, flushes `last_seen_at` and events, and closes the
    /// store.
    ///
    /// Later lookups fail with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    /// A client can still sign out.
    ///
    /// `close` first waits for the lookups in flight, for at most the
    /// [deadline](SessionServiceBuilder::deadline).
    /// It then waits for the pending `last_seen_at` updates, for at most the deadline again.
    /// Updates that are still pending after that may be lost. A `warn` event reports the timeout.
    /// The events that the [observer](SessionServiceBuilder::on_event) has not yet received have
    /// the deadline too.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, new lookups stay rejected. Another call of `close` completes the
    /// operation.
    #[doc(alias("graceful", "shutdown"))]
    pub async fn close(&self) {
        let inner = &*self.inner;
        // A closing service must not return sessions from the cache.
        if let Some(feed) = inner.feed.subscription() {
            feed.stop();
        }
        self.bounded(inner.lookups.close()).await;
        self.bounded(inner.last_seen.flush()).await;
        if let Some(events) = &inner.events {
            self.bounded(events.flush()).await;
        }
        inner.feed.watchers.close();
        let closed = inner.closed_store.get_or_init(|| inner.store.close());
        closed.await;
    }

    /// Ends every wait with [`ended`](Self::ended). Later waits end at once.
    ///
    /// The waits end with
    /// [`EndReason::ServiceClosed`](crate::feed::EndReason::ServiceClosed).
    /// Lookups still work, so the server can complete its requests in flight.
    ///
    /// Call this method when a graceful shutdown begins, because an open stream would delay it.
    /// Call [`close`](Self::close) after the server has stopped.
    #[doc(alias("graceful", "shutdown", "drain", "sigterm"))]
    pub fn end_streams(&self) {
        self.inner.feed.watchers.close();
    }

    /// Returns counters, gauges and latencies. See [the module](crate::metrics) for their names.
    #[doc(alias("prometheus", "opentelemetry", "statistics"))]
    pub fn metrics(&self) -> SessionMetrics {
        let inner = &*self.inner;
        let mut metrics = inner.metrics.read();
        (metrics.lookups_waiting, metrics.statements_in_flight) = inner.lookups.load();
        metrics.watched_streams = inner.feed.watchers.waits();
        metrics.store = inner.store.metrics();
        if let Some(feed) = inner.feed.subscription() {
            metrics.feed_connected = Some(feed.is_fresh());
            metrics.feed_last_proof = Some(feed.since_last_proof());
            metrics.feed_disconnects = feed.disconnects();
            (metrics.cached_sessions, metrics.cache_capacity) = feed.cache_size().unzip();
        }
        metrics
    }

    /// Returns the name and the attributes of the session cookie.
    pub fn cookie(&self) -> &SessionCookie {
        &self.inner.credentials.cookie
    }

    /// Returns the store.
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

    /// Starts a lookup. A session that ends after this call returns may still be found.
    fn submit(&self, digest: TokenDigest) -> PendingLookup<L::User> {
        let inner = &*self.inner;
        self.count(Counter::Lookups);
        if let Some(hit) = inner.feed.subscription().and_then(|feed| feed.hit(&digest)) {
            self.count(Counter::FromCache);
            if hit.touch {
                inner.last_seen.used(&hit.live.session);
            }
            return PendingLookup::of(hit.live);
        }
        inner.lookups.submit(digest)
    }

    /// Starts the lookup of the request's session, or counts the reason why there is no lookup.
    ///
    /// A malformed or ambiguous token is also a security event and is logged.
    pub(crate) fn look_up(&self, headers: &HeaderMap) -> Option<PendingLookup<L::User>> {
        match self.inner.credentials.read(headers) {
            PresentedToken::Token(token) => return Some(self.submit(token.digest())),
            PresentedToken::Several(tokens) => return Some(self.look_up_one_of(&tokens)),
            PresentedToken::Nothing => self.count(Counter::Anonymous),
            PresentedToken::Malformed => self.reject(TokenRejection::Malformed, headers),
            PresentedToken::Ambiguous => self.reject(TokenRejection::Ambiguous, headers),
        }
        None
    }

    /// Looks up every token in one batch. Returns a session only if exactly one of the sessions is
    /// live.
    fn look_up_one_of(&self, tokens: &[SessionToken]) -> PendingLookup<L::User> {
        let digests: Vec<_> = tokens.iter().map(SessionToken::digest).collect();
        self.counters().add(Counter::Lookups, digests.len() as u64);
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
                    sessions.report_rejection(TokenRejection::Ambiguous);
                    Ok(None)
                }
                (None, _) => Ok(None),
            }
        }))
    }

    async fn bounded(&self, wait: impl Future<Output = ()>) {
        let finished = within(self.deadline(), async {
            wait.await;
            Ok(())
        });
        if let Err(error) = finished.await {
            tracing::warn!(
                target: "tower_user_session",
                event = "close_timed_out",
                kind = ?error.kind(),
                %error,
                "close did not finish: lookups, last-seen updates or session events were still \
                 in flight"
            );
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
