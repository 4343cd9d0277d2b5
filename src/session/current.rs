//! A session as its store read it, and the one that a request came with.

use std::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    time::{Duration, SystemTime},
};

#[cfg(feature = "postgres")]
use crate::session::Lifetime;
use crate::session::SessionId;

/// The session of a user of type `U` that a request came with, as the database saw it when it was
/// looked up.
///
/// [`LoadUserLayer`](crate::load_user::LoadUserLayer) puts it into the request's extensions beside the user.
/// The type names the user, so that an application with several kinds of users keeps their sessions
/// apart: an `Admin`'s session is never taken for a `Customer`'s. It dereferences to [`Session`],
/// which has the session's name and times.
///
/// ```
/// # use tower_user_session::CurrentSession;
/// # #[derive(Clone)]
/// # struct Admin;
/// fn signed_in_for<B>(request: &http::Request<B>) -> Option<std::time::Duration> {
///     let session = request.extensions().get::<CurrentSession<Admin>>()?;
///     Some(session.since_authentication())
/// }
/// ```
pub struct CurrentSession<U> {
    session: Session,
    user: PhantomData<fn() -> U>,
}

impl<U> CurrentSession<U> {
    /// Takes a session for one of a user of type `U`: one that has just begun
    /// ([`SignedIn::session`](crate::SignedIn::session)), or one of an application's test. Nothing
    /// checks that the session is a `U`'s.
    pub const fn new(session: Session) -> Self {
        Self {
            session,
            user: PhantomData,
        }
    }
}

impl<U> Deref for CurrentSession<U> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl<U> Clone for CurrentSession<U> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<U> Copy for CurrentSession<U> {}

impl<U> PartialEq for CurrentSession<U> {
    fn eq(&self, other: &Self) -> bool {
        self.session == other.session
    }
}

impl<U> Eq for CurrentSession<U> {}

impl<U> fmt::Debug for CurrentSession<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurrentSession")
            .field(&self.session)
            .finish()
    }
}

/// A session as its store read it.
///
/// Every time is the database's: no application clock takes part, so differences between them are
/// right even where this machine's clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Session {
    id: SessionId,
    #[cfg_attr(feature = "serde", serde(flatten))]
    times: SessionTimestamps,
}

/// The times of a session, all by one clock: the store's.
///
/// A store starts from [`SessionTimestamps::at`] and sets the times that differ:
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// use tower_user_session::session::SessionTimestamps;
///
/// let mut times = SessionTimestamps::at(SystemTime::now());
/// times.expires_at += Duration::from_secs(30 * 24 * 60 * 60);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SessionTimestamps {
    /// When the session began.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub created_at: SystemTime,
    /// When the person last proved who they are.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub authenticated_at: SystemTime,
    /// When the session was last written down as used. It lags behind by up to the touch interval.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub last_seen_at: SystemTime,
    /// When the session ends whatever happens.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub expires_at: SystemTime,
    /// The clock's reading when the store answered.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub now: SystemTime,
}

impl SessionTimestamps {
    /// The times of a session for which everything happens now: it begins, is authenticated, is used, and ends.
    pub const fn at(now: SystemTime) -> Self {
        Self {
            created_at: now,
            authenticated_at: now,
            last_seen_at: now,
            expires_at: now,
            now,
        }
    }
}

impl Session {
    /// A session as a store read it. For implementations of
    /// [`SessionLookup`](crate::store::SessionLookup).
    pub const fn new(id: SessionId, times: SessionTimestamps) -> Self {
        Self { id, times }
    }

    /// The session's public name.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The session's times, by the store's clock.
    pub const fn times(&self) -> SessionTimestamps {
        self.times
    }

    /// How long the session could still live when it was looked up.
    pub fn remaining(&self) -> Duration {
        since(self.times.expires_at, self.times.now)
    }

    /// How long ago the person last proved who they are, when the session was looked up.
    pub fn since_authentication(&self) -> Duration {
        since(self.times.now, self.times.authenticated_at)
    }

    /// How long ago the session was last written down as used, when it was looked up.
    pub(crate) fn since_last_seen(&self) -> Duration {
        since(self.times.now, self.times.last_seen_at)
    }

    /// How long it could still live when it was looked up, if nobody used it any more.
    pub(crate) fn limit_in(&self, idle_limit: Option<Duration>) -> Duration {
        let idle = idle_limit.map(|limit| limit.saturating_sub(self.since_last_seen()));
        idle.map_or(self.remaining(), |idle| idle.min(self.remaining()))
    }

    /// Applies the limits of a store, which may have been shortened since the session began. Returns `None` if the
    /// session has reached one of them.
    #[cfg(feature = "postgres")]
    pub(crate) fn limited(mut self, lifetime: Lifetime) -> Option<Self> {
        if let Some(limit) = self.times.created_at.checked_add(lifetime.absolute_limit()) {
            self.times.expires_at = self.times.expires_at.min(limit);
        }
        let idle_limit = lifetime.idle_limit();
        if idle_limit.is_some_and(|limit| self.since_last_seen() >= limit) {
            return None;
        }
        (self.times.expires_at > self.times.now).then_some(self)
    }

    /// The same session so much later.
    pub(crate) fn after(mut self, time: Duration) -> Self {
        if let Some(now) = self.times.now.checked_add(time) {
            self.times.now = now;
        }
        self
    }
}

/// Zero where `earlier` is the later one, as for a row that another transaction has just written.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
