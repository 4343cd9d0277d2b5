//! What a database must do besides looking sessions up.

use std::{future::Future, net::IpAddr, time::Duration};

use super::{CurrentSession, Lifetime, SessionLookup, TokenDigest};
use crate::Error;

/// A place where sessions are kept.
///
/// The one clock that decides anything is the store's. No method ever changes the session of a
/// digest that is taken, and none brings an ended session back.
pub trait SessionStore: SessionLookup {
    /// The key of the application's users.
    type UserId: Send + Sync + 'static;

    /// How long this store's sessions live.
    fn lifetime(&self) -> Lifetime;

    /// Begins a session, and ends the ones it replaces, in one atomic step.
    ///
    /// Nothing changes unless the outcome is [`Insertion::Done`]. Where an error's kind leaves open
    /// whether the step took effect ([`Deadline`](crate::ErrorKind::Deadline),
    /// [`Connection`](crate::ErrorKind::Connection)), it may have: then a session exists whose token
    /// nobody holds.
    fn insert(
        &self,
        session: NewSession<'_, Self::UserId>,
    ) -> impl Future<Output = Result<Insertion, Error>> + Send;

    /// Ends the sessions of these digests and says how many there were. A digest without a session
    /// is no error.
    fn delete(&self, digests: &[TokenDigest]) -> impl Future<Output = Result<u64, Error>> + Send;
}

/// A session that is to begin.
#[derive(Debug)]
#[non_exhaustive]
pub struct NewSession<'a, I> {
    /// The new token's digest.
    pub digest: TokenDigest,
    /// Whose session it is.
    pub user_id: &'a I,
    /// The sessions that end with it, usually the one the request came with.
    pub replaced: &'a [TokenDigest],
    /// How long it lives at most.
    pub lifetime: Duration,
    /// What the client calls itself, already bounded.
    pub user_agent: Option<&'a str>,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

/// The outcome of [`SessionStore::insert`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Insertion {
    /// The session has begun.
    Done(CurrentSession),
    /// There is a session with this digest already. It is untouched.
    DigestTaken,
    /// The user does not exist or does not meet the condition for signing in.
    UserRefused,
}

impl<'a, I> NewSession<'a, I> {
    /// A session that replaces none and says nothing about the client.
    pub const fn new(digest: TokenDigest, user_id: &'a I, lifetime: Duration) -> Self {
        Self {
            digest,
            user_id,
            replaced: &[],
            lifetime,
            user_agent: None,
            ip: None,
        }
    }
}
