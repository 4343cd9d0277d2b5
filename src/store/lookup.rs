//! The trait for lookups, and its results.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    error::Error,
    metrics::StoreMetrics,
    session::{Session, SessionId, TokenDigest, UserKey},
};

/// The default of [`SessionLookup::max_concurrent_lookups`]. Two connections keep two processors
/// busy. More connections would share the same work.
pub(crate) const MAX_CONCURRENT_LOOKUPS: usize = 2;

/// The number of statements that wait on one connection for the server, if the way to it takes the
/// time. A slow statement delays those behind it, so they are few.
pub(crate) const STATEMENTS_PER_CONNECTION: usize = 4;

/// Lookup of live sessions by the digests of their tokens.
///
/// [`LoadUserLayer`](crate::load_user::LoadUserLayer) needs no other trait of a store. A process
/// that has no database and queries another service implements this trait only.
///
/// # Outcomes
///
/// * **Live**: the session exists, has reached neither of its limits by the store's clock, and its
///   user is allowed to be signed in.
/// * **Absent**: the session is unknown, expired or revoked, or its user is disabled. This is one
///   outcome, and not an error.
/// * **Failed**: the lookup could not decide. An implementation must not report this as absent.
///
/// # Contract
///
/// The service passes at least one digest to `find`, and no digest twice. `find` must return
/// exactly one result for each digest, in any order.
///
/// If an implementation omits a digest or returns it twice, the waiters for that digest fail. If an
/// implementation returns a digest that was not requested, the whole call fails.
///
/// The service polls the future of `find` in a task of its own, or in the task of the caller if no
/// other lookup waits. The future may move from the caller to another task. The number of
/// concurrent calls is limited, and the deadline limits the time of each call. The future may be
/// dropped at any await. After the drop, no later call may receive the result of the dropped call.
pub trait SessionLookup: Send + Sync + 'static {
    /// The application's user.
    ///
    /// Callers that wait for the same session share one value. Each caller clones it in its own
    /// task.
    type User: Clone + Send + Sync + 'static;

    /// Finds the live sessions of these digests.
    ///
    /// # Errors
    ///
    /// If the lookup of all digests failed. The failure of one digest, such as a row that cannot be
    /// decoded, is a [`LookupResult::failed`].
    fn find(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Vec<LookupResult<Self::User>>, Error>> + Send;

    /// Returns how many calls of [`find`](Self::find) may be in progress at the same time: 2 by
    /// default. The service reads it once.
    ///
    /// The service uses all of them only if the store is at a distance, so that a call takes longer
    /// than the work that it causes. Otherwise it uses at most a quarter of them, but at least two
    /// if there are as many.
    fn max_concurrent_lookups(&self) -> usize {
        MAX_CONCURRENT_LOOKUPS
    }

    /// Returns the minimum time between two recorded uses of a session.
    ///
    /// `None` means that this lookup records no uses, for example because another service records
    /// them.
    fn touch_interval(&self) -> Option<Duration> {
        None
    }

    /// Records uses of sessions.
    ///
    /// A use is not recorded if the last recorded use is less than one touch interval older, or if
    /// the session has ended.
    ///
    /// # Errors
    ///
    /// If the write failed. The service does not retry the write.
    fn touch(&self, uses: &[SessionUse]) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = uses;
        async { Ok(()) }
    }

    /// Sets the service's [deadline](crate::service::SessionServiceBuilder::deadline). The service
    /// calls this method before the first call of `find`.
    ///
    /// A lookup should pass the deadline to its server, because dropping the future of `find` does
    /// not cancel a query that the server is running. The default implementation ignores the
    /// deadline.
    fn set_deadline(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Returns the metrics of this store, which are part of
    /// [`SessionMetrics`](crate::metrics::SessionMetrics). The default implementation counts
    /// nothing.
    fn metrics(&self) -> StoreMetrics {
        StoreMetrics::default()
    }

    /// Releases the resources that this lookup holds, such as connections.
    ///
    /// [`SessionService::close`](crate::SessionService::close) calls this method once. A later call
    /// of `SessionService::close` calls it again only if the first call was dropped before this
    /// method completed.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A use of a session, for [`SessionLookup::touch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionUse {
    /// The session that was used.
    pub session: SessionId,
    /// When the session was used, by the store's clock
    /// ([`SessionTimestamps::now`](crate::session::SessionTimestamps::now)).
    pub at: SystemTime,
}

impl SessionUse {
    /// Creates a use of this session at this time.
    pub const fn new(session: SessionId, at: SystemTime) -> Self {
        Self { session, at }
    }
}

/// A live session and its user.
#[derive(Clone)]
#[non_exhaustive]
pub struct LiveSession<U> {
    /// The application's user.
    pub user: U,
    /// The session.
    pub session: Session,
    user_key: Option<UserKey>,
}

impl<U> LiveSession<U> {
    /// Creates a live session without a [`UserKey`]. The change of any user invalidates the
    /// session.
    pub const fn new(user: U, session: Session) -> Self {
        Self {
            user,
            session,
            user_key: None,
        }
    }

    /// Sets the key with which a [`SessionFeed`](crate::feed::SessionFeed) invalidates the user.
    pub fn with_user_key(mut self, key: UserKey) -> Self {
        self.user_key = Some(key);
        self
    }

    /// Returns the key with which a [`SessionFeed`](crate::feed::SessionFeed) invalidates the user,
    /// if the store computed a key.
    pub const fn user_key(&self) -> Option<UserKey> {
        self.user_key
    }
}

impl<U> fmt::Debug for LiveSession<U> {
    /// Omits the user, because its data must not reach logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSession")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// A live session whose user is shared between callers. Cloning it runs no code of the application.
pub(crate) struct SharedSession<U> {
    pub(crate) user: Arc<U>,
    pub(crate) session: Session,
    pub(crate) user_key: Option<UserKey>,
}

impl<U> Clone for SharedSession<U> {
    fn clone(&self) -> Self {
        Self {
            user: Arc::clone(&self.user),
            session: self.session,
            user_key: self.user_key,
        }
    }
}

/// A live session that a lookup found. The user is shared only if the user has several owners.
pub(crate) struct FoundSession<U> {
    user: FoundUser<U>,
    pub(crate) session: Session,
    user_key: Option<UserKey>,
}

enum FoundUser<U> {
    Owned(U),
    Shared(Arc<U>),
}

impl<U> FoundSession<U> {
    /// Returns the session with a user that can be shared.
    pub(crate) fn into_shared(self) -> SharedSession<U> {
        SharedSession {
            user: match self.user {
                FoundUser::Owned(user) => Arc::new(user),
                FoundUser::Shared(user) => user,
            },
            session: self.session,
            user_key: self.user_key,
        }
    }

    /// Clones the user, unless this is the last reference to it. The application's `Clone` may
    /// panic. Therefore this method must run in the caller's task.
    pub(crate) fn into_live(self) -> LiveSession<U>
    where
        U: Clone,
    {
        LiveSession {
            user: match self.user {
                FoundUser::Owned(user) => user,
                FoundUser::Shared(user) => Arc::unwrap_or_clone(user),
            },
            session: self.session,
            user_key: self.user_key,
        }
    }
}

impl<U> From<SharedSession<U>> for FoundSession<U> {
    fn from(shared: SharedSession<U>) -> Self {
        Self {
            user: FoundUser::Shared(shared.user),
            session: shared.session,
            user_key: shared.user_key,
        }
    }
}

impl<U> fmt::Debug for FoundSession<U> {
    /// Omits the user, as [`LiveSession`] does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundSession")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// The result of the lookup of one digest.
#[derive(Debug)]
pub struct LookupResult<U> {
    digest: TokenDigest,
    outcome: Result<Option<FoundSession<U>>, Error>,
    may_be_cached: bool,
    retried: bool,
}

impl<U> LookupResult<U> {
    /// Creates the result for a live session.
    pub const fn live(digest: TokenDigest, user: U, session: Session) -> Self {
        Self::found(digest, FoundUser::Owned(user), session)
    }

    /// Creates the result for a live session with a shared user.
    ///
    /// Use it for a store that has its users in memory and must not clone them.
    pub const fn live_shared(digest: TokenDigest, user: Arc<U>, session: Session) -> Self {
        Self::found(digest, FoundUser::Shared(user), session)
    }

    const fn found(digest: TokenDigest, user: FoundUser<U>, session: Session) -> Self {
        let found = FoundSession {
            user,
            session,
            user_key: None,
        };
        Self::of(digest, Ok(Some(found)))
    }

    /// Creates the result for a session that is unknown or has ended, or whose user must not be
    /// signed in.
    pub const fn absent(digest: TokenDigest) -> Self {
        Self::of(digest, Ok(None))
    }

    /// Creates the result for a digest whose lookup failed.
    pub const fn failed(digest: TokenDigest, error: Error) -> Self {
        Self::of(digest, Err(error))
    }

    const fn of(digest: TokenDigest, outcome: Result<Option<FoundSession<U>>, Error>) -> Self {
        Self {
            digest,
            outcome,
            may_be_cached: true,
            retried: false,
        }
    }

    /// Sets the key with which a [`SessionFeed`](crate::feed::SessionFeed) invalidates the user of
    /// a live session. Without a key, the change of any user invalidates the session.
    pub fn with_user_key(mut self, key: UserKey) -> Self {
        if let Ok(Some(live)) = &mut self.outcome {
            live.user_key = Some(key);
        }
        self
    }

    /// Excludes this result from the cache. Use it for a result from a replica. Such a result may
    /// be older than invalidations that have already arrived.
    pub const fn without_caching(mut self) -> Self {
        self.may_be_cached = false;
        self
    }

    /// Marks the result as one of a query that was repeated, for the span of the lookup.
    #[cfg(feature = "postgres")]
    pub(crate) const fn set_retried(&mut self) {
        self.retried = true;
    }

    pub(crate) const fn is_retried(&self) -> bool {
        self.retried
    }

    pub(crate) const fn may_be_cached(&self) -> bool {
        self.may_be_cached
    }

    /// Returns the digest that was looked up.
    pub const fn digest(&self) -> TokenDigest {
        self.digest
    }

    /// Returns the live session, `None` if the session is absent, or the error. Clones the user if
    /// the store has kept a reference to it.
    ///
    /// # Errors
    ///
    /// The error of [`failed`](Self::failed).
    pub fn into_outcome(self) -> Result<Option<LiveSession<U>>, Error>
    where
        U: Clone,
    {
        Ok(self.outcome?.map(FoundSession::into_live))
    }

    pub(crate) fn into_found(self) -> Result<Option<FoundSession<U>>, Error> {
        self.outcome
    }
}
