//! The trait for the whole life of sessions, and its arguments and outcomes.

use std::{future::Future, net::IpAddr, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    session::{Lifetime, Session, SessionId, SessionInfo, TokenDigest, UserKey},
    store::SessionLookup,
};

/// Storage of sessions.
///
/// * All times are from the store's clock.
/// * A method must not change the session of an existing digest, except [`rotate`](Self::rotate).
/// * A method must not make an ended session live again.
/// * An error means that nothing was changed, unless [`Error::is_outcome_unknown`] is `true`.
pub trait SessionStore: SessionLookup {
    /// The type of the users' key.
    type UserId: Send + Sync + 'static;
    /// Conditions on the user that a sign-in can add to the store's own conditions. `()` means
    /// none.
    type Condition: Default + Send + Sync + 'static;
    /// Values for the application's own columns of a session. `()` means none.
    ///
    /// [`SetSessionColumn`] adds a value.
    type SessionValues: Default + Send + Sync + 'static;

    /// Returns the time limits of this store's sessions.
    fn lifetime(&self) -> Lifetime;

    /// Begins a session and ends the sessions that it replaces, in one atomic step.
    ///
    /// Nothing is changed unless the outcome is [`InsertOutcome::Inserted`].
    fn insert(
        &self,
        session: NewSession<'_, Self>,
    ) -> impl Future<Output = Result<InsertOutcome, Error>> + Send
    where
        Self: Sized;

    /// Replaces the digest of a live session of this user, sets the session's authentication time
    /// to now, and sets these columns, in one atomic step.
    ///
    /// `old` contains the digests that the request presents. The method changes the session that
    /// has one of these digests. The other columns keep their values.
    fn rotate(
        &self,
        user_id: &Self::UserId,
        old: &[TokenDigest],
        new: TokenDigest,
        values: &Self::SessionValues,
    ) -> impl Future<Output = Result<RotateOutcome, Error>> + Send;

    /// Sets columns of a live session. Returns whether there is a live session with this id.
    ///
    /// The default fails with [`ErrorKind::Configuration`], because the store has no session
    /// columns.
    fn update(
        &self,
        session: SessionId,
        values: &Self::SessionValues,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = (session, values);
        std::future::ready(Err(no_session_columns()))
    }

    /// Ends the sessions whose columns have these values, and returns their ids.
    ///
    /// If the caller passes a user, the method ends sessions of this user only. When it returns, no
    /// such session is left, including sessions that began concurrently.
    ///
    /// The default fails with [`ErrorKind::Configuration`], because the store has no session
    /// columns.
    fn revoke_where(
        &self,
        user_id: Option<&Self::UserId>,
        values: &Self::SessionValues,
    ) -> impl Future<Output = Result<Vec<SessionId>, Error>> + Send {
        let _ = (user_id, values);
        std::future::ready(Err(no_session_columns()))
    }

    /// Ends the sessions of these digests, and returns the sessions that existed.
    ///
    /// A digest without a session is not an error.
    fn delete(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Vec<EndedSession>, Error>> + Send;

    /// Returns the user's live sessions, most recently used first.
    fn list(
        &self,
        user_id: &Self::UserId,
    ) -> impl Future<Output = Result<Vec<SessionInfo>, Error>> + Send;

    /// Ends sessions of one user, and returns the ids of the ended sessions.
    ///
    /// When the method returns, no session in the scope is left, including sessions that began
    /// concurrently.
    fn revoke(
        &self,
        user_id: &Self::UserId,
        which: RevokeScope,
    ) -> impl Future<Output = Result<Vec<SessionId>, Error>> + Send;

    /// Ends all sessions of all users and returns their number.
    fn revoke_everyone(&self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Returns the sessions in the list that a lookup would find.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] means that the rows of one session made the query fail. The service then
    /// splits the sessions and retries, until only that session fails.
    fn remaining_lifetimes(
        &self,
        sessions: &[SessionId],
    ) -> impl Future<Output = Result<Vec<RemainingLifetime>, Error>> + Send;

    /// Deletes one bounded batch of expired sessions.
    ///
    /// `cursor` is the [`next`](ExpiredBatch::next) of the previous batch, or `None` for the first
    /// batch.
    fn delete_expired(
        &self,
        cursor: Option<u64>,
    ) -> impl Future<Output = Result<ExpiredBatch, Error>> + Send;
}

/// Conditions of a sign-in that can require values of the user's columns, for
/// [`SignIn::if_unchanged`](crate::service::SignIn::if_unchanged). `V` is the type of a value.
///
/// A handler that is generic over its store names the type:
///
/// ```
/// use http::HeaderMap;
/// use tower_user_session::{
///     Error, SessionService, SignedIn,
///     store::{ColumnConditions, SessionStore},
/// };
///
/// async fn sign_in<S>(
///     sessions: &SessionService<S>, headers: &HeaderMap, user_id: i64, checked_hash: String,
/// ) -> Result<SignedIn, Error>
/// where
///     S: SessionStore<UserId = i64, Condition: ColumnConditions<String>>,
/// {
///     sessions.sign_in(user_id, headers).if_unchanged("u.password_hash", checked_hash).await
/// }
/// ```
pub trait ColumnConditions<V> {
    /// Requires that this column of the user still has this value when the session begins.
    fn add(&mut self, column: &'static str, value: V);
}

/// A [`SessionStore`] whose session columns can have values of the type `T`.
///
/// [`SignIn::set`](crate::service::SignIn::set), [`Reauthenticate::set`] and [`UpdateSession::set`]
/// need this trait. Handlers that are generic over the store name it in their bounds.
///
/// [`Reauthenticate::set`]: crate::service::Reauthenticate::set
/// [`UpdateSession::set`]: crate::service::UpdateSession::set
pub trait SetSessionColumn<T>: SessionStore {
    /// Adds the value of a column, or replaces an earlier one.
    fn set(values: &mut Self::SessionValues, column: &'static str, value: T);
}

fn no_session_columns() -> Error {
    Error::from_kind(ErrorKind::Configuration).with_message("the store has no session columns")
}

/// The session that [`SessionStore::insert`] begins.
#[non_exhaustive]
pub struct NewSession<'a, S: SessionStore> {
    /// The new token's digest.
    pub digest: TokenDigest,
    /// The key of the session's user.
    pub user_id: &'a S::UserId,
    /// The conditions on the user, which must be checked in the same atomic step.
    pub condition: &'a S::Condition,
    /// The digests of the sessions that the new session replaces, usually the session of the
    /// request.
    pub replaced: &'a [TokenDigest],
    /// The time to the session's absolute limit.
    pub lifetime: Duration,
    /// Whether the cookie persists when the browser is closed ("remember me").
    pub remembered: bool,
    /// The client's `User-Agent`, already truncated.
    pub user_agent: Option<&'a str>,
    /// The client's IP address, if the application passed it.
    pub ip: Option<IpAddr>,
    /// The values of the session columns that the sign-in sets.
    pub values: Option<&'a S::SessionValues>,
}

impl<'a, S: SessionStore> NewSession<'a, S> {
    /// Creates a session that replaces no other session, without data about the client.
    pub const fn new(
        digest: TokenDigest,
        user_id: &'a S::UserId,
        condition: &'a S::Condition,
        lifetime: Duration,
    ) -> Self {
        Self {
            digest,
            user_id,
            condition,
            replaced: &[],
            lifetime,
            remembered: false,
            user_agent: None,
            ip: None,
            values: None,
        }
    }
}

impl<S: SessionStore> std::fmt::Debug for NewSession<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSession")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// The outcome of [`SessionStore::insert`].
#[derive(Debug)]
#[non_exhaustive]
pub enum InsertOutcome {
    /// The session has begun, and the sessions in `ended` and `over_limit` have ended in the same
    /// step.
    Inserted {
        /// The new session.
        session: Session,
        /// The sessions that the new session replaced.
        ended: Vec<SessionId>,
        /// The user's sessions that ended because of the session limit.
        over_limit: Vec<SessionId>,
    },
    /// A session with this digest exists. That session is unchanged.
    DuplicateDigest,
    /// The user does not exist or does not meet a condition for signing in.
    UserRefused,
    /// The user has reached the limit of sessions.
    TooManySessions,
}

/// The outcome of [`SessionStore::rotate`].
#[derive(Debug)]
#[non_exhaustive]
pub enum RotateOutcome {
    /// The session has the new digest.
    Rotated {
        /// The session.
        session: Session,
        /// Whether the cookie persists when the browser is closed ("remember me").
        remembered: bool,
    },
    /// A session with the new digest exists. Nothing was changed.
    DuplicateDigest,
    /// No live session of this user has one of the old digests.
    NotFound,
}

/// A session that [`SessionStore::delete`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedSession {
    /// The digest of the session's token, which is one of the digests that were passed.
    pub digest: TokenDigest,
    /// The session's public id.
    pub id: SessionId,
}

impl EndedSession {
    /// Creates the ended session of this digest.
    pub const fn new(digest: TokenDigest, id: SessionId) -> Self {
        Self { digest, id }
    }
}

/// A session that [`SessionStore::remaining_lifetimes`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemainingLifetime {
    /// The session's public id.
    pub id: SessionId,
    /// The time until the session expires, if it is not used.
    pub remaining: Duration,
    /// The key with which a [`SessionFeed`](crate::feed::SessionFeed) invalidates the session's
    /// user.
    pub user_key: Option<UserKey>,
}

impl RemainingLifetime {
    /// Creates the remaining lifetime of a session that expires after this time unless it is used.
    pub const fn new(id: SessionId, remaining: Duration) -> Self {
        Self {
            id,
            remaining,
            user_key: None,
        }
    }

    /// Sets the key with which a [`SessionFeed`](crate::feed::SessionFeed) invalidates the
    /// session's user. Without a key, the change of any user causes a new check of the session.
    pub const fn with_user_key(mut self, key: UserKey) -> Self {
        self.user_key = Some(key);
        self
    }
}

/// The outcome of one batch of [`SessionStore::delete_expired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiredBatch {
    /// The number of sessions that were deleted.
    pub sessions: u64,
    /// The cursor of the next batch, or `None` if this was the last batch.
    pub next: Option<u64>,
}

impl ExpiredBatch {
    /// Creates the outcome of a batch.
    pub const fn new(sessions: u64, next: Option<u64>) -> Self {
        Self { sessions, next }
    }
}

/// The sessions of a user that [`SessionStore::revoke`] ends.
///
/// The enum is exhaustive, because a store must handle every variant. A new variant is therefore a
/// breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeScope {
    /// This session, if it belongs to the user.
    One(SessionId),
    /// All sessions except this one.
    AllExcept(SessionId),
    /// All sessions.
    All,
}
