//! What the layer asks of a store.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    error::Error,
    session::{Session, SessionId, TokenDigest, UserKey},
};

/// Two connections keep two processors busy, and more of them only share the same work.
pub(crate) const MAX_CONCURRENT_LOOKUPS: usize = 2;

/// Digests in, live sessions out: all that [`LoadUserLayer`](crate::load_user::LoadUserLayer) needs of a store.
///
/// A service that has no database of its own, and asks another one who somebody is, implements this
/// and nothing else.
///
/// # The outcomes
///
/// * **Live**: the session exists, neither of its limits has passed by the store's clock, and its
///   user may be signed in.
/// * **Absent**: anything else that could be found out. Unknown, expired, revoked and disabled are
///   one outcome, and none of them is an error.
/// * **Failed**: it could not be found out. This is never reported as absent.
///
/// # The contract
///
/// `find` is given at least one digest and no digest twice. It answers each of them exactly once, in
/// any order: answers go to their callers by digest. Whoever does not answer a digest, or answers it
/// twice, fails its callers; whoever answers a digest that was not asked fails the whole call.
///
/// The service calls `find` in a task of its own, bounded in number and by the deadline: a future
/// that is dropped half-way must leave nothing behind that a later call could mistake for its own
/// answer.
pub trait SessionLookup: Send + Sync + 'static {
    /// The application's user. Callers that wait for the same session share one value. Each caller clones it in
    /// its own task.
    type User: Clone + Send + Sync + 'static;

    /// Finds the live sessions of these digests.
    ///
    /// # Errors
    ///
    /// When nothing could be found out about any of them. What concerns one digest alone, such as a
    /// row that cannot be read, is that digest's [`LookupResult::failed`].
    fn find(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Vec<LookupResult<Self::User>>, Error>> + Send;

    /// How long after a session was written down as used it is written down again, or `None` where
    /// that is not this lookup's to write, as with a remote resolver.
    fn touch_interval(&self) -> Option<Duration> {
        None
    }

    /// Records these uses of sessions. A use is not recorded if the last recorded one lies less than an interval before
    /// it, or if the session has ended.
    ///
    /// # Errors
    ///
    /// When it could not be written. It is not tried again.
    fn touch(&self, uses: &[SessionUse]) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = uses;
        async { Ok(()) }
    }

    /// Tells the lookup the service's [deadline](crate::service::SessionServiceBuilder::deadline), before the first call to
    /// `find`. A lookup should bound what it asks of a server by it, because dropping the future of `find` does not
    /// end a statement that the server is running. By default it is ignored.
    fn set_deadline(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Gives up what the lookup holds open. Called by
    /// [`SessionService::close`](crate::SessionService::close): once, and again only if that call
    /// was dropped before this ended.
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
    /// When it was used, by the store's own clock ([`SessionTimestamps::now`](crate::session::SessionTimestamps::now)).
    pub at: SystemTime,
}

impl SessionUse {
    /// A use of this session at this time.
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
    /// A live session whose user has no [`UserKey`]. It is looked up again when any user is announced.
    pub const fn new(user: U, session: Session) -> Self {
        Self {
            user,
            session,
            user_key: None,
        }
    }

    /// Sets by which key a [`SessionFeed`](crate::feed::SessionFeed) announces changes of the user.
    pub fn with_user_key(mut self, key: UserKey) -> Self {
        self.user_key = Some(key);
        self
    }

    /// Returns the key by which a [`SessionFeed`](crate::feed::SessionFeed) announces changes of the user, if the store
    /// computed one.
    pub const fn user_key(&self) -> Option<UserKey> {
        self.user_key
    }
}

impl<U> fmt::Debug for LiveSession<U> {
    /// Leaves the user out: what it holds is the application's to print.
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

/// A live session as a lookup found it. Its user is shared only if more than one holder needs it.
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

    /// Clones the user, unless this is the last reference to it. The application's `Clone` may panic, so this
    /// must run in the caller's task.
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
    /// Leaves out the user, as [`LiveSession`] does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundSession")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// The answer to one digest.
#[derive(Debug)]
pub struct LookupResult<U> {
    digest: TokenDigest,
    outcome: Result<Option<FoundSession<U>>, Error>,
    may_be_cached: bool,
}

impl<U> LookupResult<U> {
    /// The session is live.
    pub const fn live(digest: TokenDigest, user: U, session: Session) -> Self {
        Self::found(digest, FoundUser::Owned(user), session)
    }

    /// The session is live. For a store that keeps its users in memory and must not clone them.
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

    /// There is no such session, or it is over, or its user may not be signed in.
    pub const fn absent(digest: TokenDigest) -> Self {
        Self::of(digest, Ok(None))
    }

    /// It could not be found out for this digest.
    pub const fn failed(digest: TokenDigest, error: Error) -> Self {
        Self::of(digest, Err(error))
    }

    const fn of(digest: TokenDigest, outcome: Result<Option<FoundSession<U>>, Error>) -> Self {
        Self {
            digest,
            outcome,
            may_be_cached: true,
        }
    }

    /// Sets by which key a [`SessionFeed`](crate::feed::SessionFeed) announces changes of a live session's user. Without
    /// it, the session is looked up again when any user is announced.
    pub fn with_user_key(mut self, key: UserKey) -> Self {
        if let Ok(Some(live)) = &mut self.outcome {
            live.user_key = Some(key);
        }
        self
    }

    /// Keeps this answer out of the cache, because it may be older than announcements that have already arrived:
    /// a replica gave it.
    pub const fn without_caching(mut self) -> Self {
        self.may_be_cached = false;
        self
    }

    pub(crate) const fn may_be_cached(&self) -> bool {
        self.may_be_cached
    }

    /// The digest that was asked.
    pub const fn digest(&self) -> TokenDigest {
        self.digest
    }

    /// What was found out. Clones the user if the store has kept a reference to it.
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
