//! What a database must do besides looking sessions up.

use std::{future::Future, net::IpAddr, time::Duration};

use crate::{
    error::Error,
    session::{Lifetime, Session, SessionId, SessionInfo, TokenDigest, UserKey},
    store::SessionLookup,
};

/// A place where sessions are kept.
///
/// The one clock that decides anything is the store's. No method ever changes the session of a
/// digest that is taken, except [`rotate`](Self::rotate), and none brings an ended session back.
///
/// An error means that nothing happened, unless
/// [`Error::is_outcome_unknown`] says that this cannot be told.
pub trait SessionStore: SessionLookup {
    /// The key of the application's users.
    type UserId: Send + Sync + 'static;
    /// What a sign-in can demand of its user beyond what the store always demands. `()` where there
    /// is nothing to say.
    type Condition: Default + Send + Sync + 'static;

    /// How long this store's sessions live.
    fn lifetime(&self) -> Lifetime;

    /// Begins a session, and ends the ones it replaces, in one atomic step. Nothing changes unless
    /// the outcome is [`InsertOutcome::Inserted`].
    fn insert(
        &self,
        session: NewSession<'_, Self>,
    ) -> impl Future<Output = Result<InsertOutcome, Error>> + Send
    where
        Self: Sized;

    /// Gives a live session of this user a new digest in place of the one of these that is its own,
    /// and takes down that its person has just proved who they are, in one atomic step.
    fn rotate(
        &self,
        user_id: &Self::UserId,
        old: &[TokenDigest],
        new: TokenDigest,
    ) -> impl Future<Output = Result<RotateOutcome, Error>> + Send;

    /// Ends the sessions of these digests and says which there were. A digest without a session is no
    /// error.
    fn delete(
        &self,
        digests: &[TokenDigest],
    ) -> impl Future<Output = Result<Vec<EndedSession>, Error>> + Send;

    /// The live sessions of a user, the one that was used last first.
    fn list(
        &self,
        user_id: &Self::UserId,
    ) -> impl Future<Output = Result<Vec<SessionInfo>, Error>> + Send;

    /// Ends sessions of one user, and returns their ids. Once it has returned, there is none left of
    /// those it was to end, also of those that were beginning meanwhile.
    fn revoke(
        &self,
        user_id: &Self::UserId,
        which: RevokeScope,
    ) -> impl Future<Output = Result<Vec<SessionId>, Error>> + Send;

    /// Ends every session of everybody, and says how many.
    fn revoke_everyone(&self) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Returns which of these sessions a lookup would find.
    ///
    /// An error of the kind [`ErrorKind::Decode`](crate::ErrorKind::Decode) means that one of them could not be decided
    /// because of what its own rows contain. The service then divides the sessions, until only that one fails.
    fn remaining_lifetimes(
        &self,
        sessions: &[SessionId],
    ) -> impl Future<Output = Result<Vec<RemainingLifetime>, Error>> + Send;

    /// Deletes one bounded batch of sessions that are over, from `place` on, and says where to go on.
    /// `None` for the place means the beginning, in the answer the end.
    fn delete_expired(
        &self,
        place: Option<u64>,
    ) -> impl Future<Output = Result<ExpiredBatch, Error>> + Send;
}

/// A session that is to begin.
#[non_exhaustive]
pub struct NewSession<'a, S: SessionStore> {
    /// The new token's digest.
    pub digest: TokenDigest,
    /// Whose session it is.
    pub user_id: &'a S::UserId,
    /// What must be true of the user, in the same atomic step.
    pub condition: &'a S::Condition,
    /// The sessions that end with it, usually the one the request came with.
    pub replaced: &'a [TokenDigest],
    /// How long it lives at most.
    pub lifetime: Duration,
    /// Whether the person asked to be remembered.
    pub remembered: bool,
    /// What the client calls itself, already bounded.
    pub user_agent: Option<&'a str>,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

impl<'a, S: SessionStore> NewSession<'a, S> {
    /// A session that replaces none and says nothing about the client.
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
    /// The session has begun, and these sessions have ended in the same step.
    Inserted {
        /// The new session.
        session: Session,
        /// The sessions that it replaced, or that made room for it.
        ended: Vec<SessionId>,
    },
    /// There is a session with this digest already. It is untouched.
    DuplicateDigest,
    /// The user does not exist or does not meet a condition for signing in.
    UserRefused,
    /// The user has as many sessions as the limit allows.
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
        /// Whether its person asked to be remembered at the sign-in.
        remembered: bool,
    },
    /// There is a session with the new digest already. Nothing has changed.
    DuplicateDigest,
    /// None of the old digests is of a live session of this user.
    NotFound,
}

/// A session that [`SessionStore::delete`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedSession {
    /// The digest of its token, one of those that were to end.
    pub digest: TokenDigest,
    /// The session's public name.
    pub id: SessionId,
}

impl EndedSession {
    /// The session of this digest.
    pub const fn new(digest: TokenDigest, id: SessionId) -> Self {
        Self { digest, id }
    }
}

/// A session that [`SessionStore::remaining_lifetimes`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemainingLifetime {
    /// The session's public name.
    pub id: SessionId,
    /// How long it lives if it is not used.
    pub remaining: Duration,
    /// By which key a [`SessionFeed`](crate::feed::SessionFeed) announces changes of its user.
    pub user_key: Option<UserKey>,
}

impl RemainingLifetime {
    /// A session that ends after this time unless it is used.
    pub const fn new(id: SessionId, remaining: Duration) -> Self {
        Self {
            id,
            remaining,
            user_key: None,
        }
    }

    /// Sets by which key a [`SessionFeed`](crate::feed::SessionFeed) announces changes of the session's user. Without it,
    /// the session is checked again when any user is announced.
    pub const fn with_user_key(mut self, key: UserKey) -> Self {
        self.user_key = Some(key);
        self
    }
}

/// The outcome of one batch of [`SessionStore::delete_expired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiredBatch {
    /// How many sessions were deleted.
    pub sessions: u64,
    /// The place of the next batch; `None` at the end.
    pub next: Option<u64>,
}

impl ExpiredBatch {
    /// So many sessions were deleted, and the next batch begins here.
    pub const fn new(sessions: u64, next: Option<u64>) -> Self {
        Self { sessions, next }
    }
}

/// Which of a user's sessions [`SessionStore::revoke`] ends.
///
/// A new variant is a breaking change: a store must not take an unknown one for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeScope {
    /// This one, if it is the user's.
    One(SessionId),
    /// All but this one.
    AllExcept(SessionId),
    /// All of them.
    All,
}
