//! The session of a request, and a session as its store read it.

use std::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    time::{Duration, SystemTime},
};

#[cfg(feature = "postgres")]
use crate::session::Lifetime;
use crate::session::SessionId;

/// The session of a request, for a user of type `U`, as the lookup found it.
///
/// [`LoadUserLayer`](crate::load_user::LoadUserLayer) attaches it to the request's extensions
/// beside the user. `CurrentSession` dereferences to [`Session`], which has the session's id and
/// times.
///
/// `U` separates the sessions of an application with several kinds of users: the session of an
/// `Admin` is never used as the session of a `Customer`.
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
#[doc(alias("auth", "login"))]
pub struct CurrentSession<U> {
    session: Session,
    user: PhantomData<fn() -> U>,
}

impl<U> CurrentSession<U> {
    /// Creates the current session of a user of type `U`.
    ///
    /// Use it for a session that has just begun ([`SignedIn::session`](crate::SignedIn::session))
    /// and in an application's tests. The caller must ensure that the session's user is a `U`.
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
/// All times are from the store's clock. Differences between these times are therefore correct even
/// if this machine's clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Session {
    id: SessionId,
    #[cfg_attr(feature = "serde", serde(flatten))]
    times: SessionTimestamps,
}

/// The times of a session, all from the store's clock.
///
/// A store starts with [`SessionTimestamps::at`] and sets the times that differ:
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
    /// When the user last authenticated: at sign-in, or at re-authentication.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub authenticated_at: SystemTime,
    /// The last recorded use. It may be older than the last request by up to the
    /// [touch interval](crate::session::Lifetime::touch_interval).
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub last_seen_at: SystemTime,
    /// The absolute limit: when the session expires even if it is used.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub expires_at: SystemTime,
    /// The store's time when it read the session.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub now: SystemTime,
}

impl SessionTimestamps {
    /// Creates the times of a session. All of them are `now`, including the limit.
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
    /// Creates a session as a store read it.
    ///
    /// For implementations of [`SessionLookup`](crate::store::SessionLookup).
    pub const fn new(id: SessionId, times: SessionTimestamps) -> Self {
        Self { id, times }
    }

    /// Returns the session's public id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Returns the session's times, from the store's clock.
    pub const fn times(&self) -> SessionTimestamps {
        self.times
    }

    /// Returns the time from the lookup to the session's absolute limit.
    pub fn remaining(&self) -> Duration {
        since(self.times.expires_at, self.times.now)
    }

    /// Returns the time from the user's last authentication to the lookup.
    pub fn since_authentication(&self) -> Duration {
        since(self.times.now, self.times.authenticated_at)
    }

    /// Returns the time from the last recorded use to the lookup.
    pub(crate) fn since_last_seen(&self) -> Duration {
        since(self.times.now, self.times.last_seen_at)
    }

    /// Returns the time from the lookup to the first limit, if the session is not used again.
    pub(crate) fn limit_in(&self, idle_limit: Option<Duration>) -> Duration {
        let idle = idle_limit.map(|limit| limit.saturating_sub(self.since_last_seen()));
        idle.map_or(self.remaining(), |idle| idle.min(self.remaining()))
    }

    /// Applies the store's limits, which may be shorter now than when the session began. Returns
    /// `None` if the session has reached one of these limits.
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

    /// Returns the session as a lookup would find it after this time.
    pub(crate) fn after(mut self, time: Duration) -> Self {
        if let Some(now) = self.times.now.checked_add(time) {
            self.times.now = now;
        }
        self
    }
}

/// Returns the time from `earlier` to `later`, or zero if `earlier` is after `later`.
///
/// The server's `now()` is the start of the query's transaction. A transaction that started after
/// that time can already have committed a later time.
fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
