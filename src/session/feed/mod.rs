//! The feed of ended sessions, the cache, and streams that end with their session.
//!
//! The feed proves with heartbeats that it is connected. When one comes back, everything that had been announced when
//! it was sent has arrived.

mod announced;
#[cfg(test)]
mod announced_model;
mod by_user;
mod cache;
mod ended;
mod following;
mod line;
mod recheck;
mod service;
mod until_ended;
mod watchers;

use std::{future::Future, sync::Arc};

use tokio::time::Instant;

pub(crate) use self::{
    cache::{AskedAt, Cache},
    following::{Settings, Subscription},
    watchers::Watchers,
};
pub use self::{
    ended::{Ended, EndedBecause},
    following::{DEFAULT_LEASE, DEFAULT_RECHECK_INTERVAL, DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS},
    until_ended::{BodyUntilEnded, StreamUntilEnded},
};
use super::{SessionId, UserKey};
use crate::Error;

/// Announces sessions that ended elsewhere: in another process, by an operator's `DELETE`, by a cascade. With
/// PostgreSQL it is `PgSessionStore::feed`.
pub trait SessionFeed: Send + Sync + 'static {
    /// Subscribes on one connection until that is lost, and passes announcements on to `hearing` in the order in
    /// which they happened. The service calls it again after a pause that grows and is jittered, also after a panic.
    ///
    /// It must call [`Hearing::connected`] once no further announcement can be missed. After that it sends a heartbeat
    /// whenever [`Hearing::heartbeat_due`] resolves. When the heartbeat comes back *on the same path as announcements
    /// and behind them*, it calls [`Hearing::proved`]. It must verify that this path leads to the database that the
    /// service's store uses.
    fn hear(&self, hearing: &Hearing) -> impl Future<Output = Error> + Send;
}

/// Receives the announcements of a [`SessionFeed`].
#[derive(Clone)]
pub struct Hearing(Arc<dyn Hears>);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announcement {
    /// These sessions have ended, or a lookup of them may have another result than before.
    Sessions(Vec<SessionId>),
    /// Lookups of all sessions of these users may have another result than before.
    Users(Vec<UserKey>),
    /// Any session may have ended or changed.
    Everything,
}

/// What a [`SessionFeed`] announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announces {
    /// Sessions that end or change.
    Sessions,
    /// The same, and users that change.
    SessionsAndUsers,
}

pub(crate) trait Hears: Send + Sync {
    fn connected(&self, announces: Announces);
    fn announced(&self, announcement: Announcement);
    fn proved(&self, sent: Instant);
    fn heartbeat_due(&self) -> futures_core::future::BoxFuture<'_, ()>;
}

impl Hearing {
    pub(crate) fn new(hears: Arc<dyn Hears>) -> Self {
        Self(hears)
    }

    /// Reports that announcements arrive from now on. Earlier ones may have been missed.
    pub fn connected(&self, announces: Announces) {
        self.0.connected(announces);
    }

    /// Passes an announcement on.
    pub fn announced(&self, announcement: Announcement) {
        self.0.announced(announcement);
    }

    /// Reports that a heartbeat which was sent at this time has come back: everything that had been announced by then
    /// has been passed on.
    pub fn proved(&self, sent: Instant) {
        self.0.proved(sent);
    }

    /// Waits until the next heartbeat is due. Dropping the future loses nothing.
    pub async fn heartbeat_due(&self) {
        self.0.heartbeat_due().await;
    }
}

impl std::fmt::Debug for Hearing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearing").finish_non_exhaustive()
    }
}
