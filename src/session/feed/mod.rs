//! A feed of ended sessions, and what rests on it: the cache, and streams that end.
//!
//! The feed knows when it is deaf: a heartbeat goes through the store and comes back. What was heard
//! up to a heartbeat that came back is complete up to the moment in which it was sent.

mod announced;
#[cfg(test)]
mod announced_model;
mod cache;
mod ended;
mod following;
mod service;
mod until_ended;

use std::{future::Future, sync::Arc};

use tokio::time::Instant;

pub(crate) use self::{
    cache::{AskedAt, Cache},
    ended::Watchers,
    following::{Following, Task},
};
pub use self::{
    ended::{Ended, EndedBecause},
    following::DEFAULT_LEASE,
    until_ended::{BodyUntilEnded, StreamUntilEnded},
};
use super::SessionId;
use crate::Error;

/// Where a service hears of sessions that ended elsewhere: another process, an operator's `DELETE`, a
/// cascade. With PostgreSQL it is `PgSessionStore::feed`.
pub trait SessionFeed: Send + Sync + 'static {
    /// Listens on one connection until that is lost, and tells `hearing` what it hears, in the order in
    /// which it happened. The service calls it again, after a pause that grows and is jittered.
    ///
    /// It says [`Hearing::connected`] once nothing more can be missed, and then sends a heartbeat whenever
    /// [`Hearing::heartbeat_due`] says so. When that comes back, *through the same way as what is announced
    /// and behind it*, it says [`Hearing::proved`].
    fn hear(&self, hearing: &Hearing) -> impl Future<Output = Error> + Send;
}

/// What a [`SessionFeed`] tells what it hears.
#[derive(Clone)]
pub struct Hearing(Arc<dyn Hears>);

/// What was announced about sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announcement {
    /// These have ended, or a lookup may answer otherwise for them than before.
    Sessions(Vec<SessionId>),
    /// Anything may have ended or changed.
    Everything,
}

pub(crate) trait Hears: Send + Sync {
    fn connected(&self);
    fn announced(&self, announcement: Announcement);
    fn proved(&self, sent: Instant);
    fn heartbeat_due(&self) -> futures_core::future::BoxFuture<'_, ()>;
}

impl Hearing {
    pub(crate) fn new(hears: Arc<dyn Hears>) -> Self {
        Self(hears)
    }

    /// The feed hears from now on. What happened before may have been missed.
    pub fn connected(&self) {
        self.0.connected();
    }

    /// This was heard.
    pub fn announced(&self, announcement: Announcement) {
        self.0.announced(announcement);
    }

    /// A heartbeat that was sent at this time has come back: everything that had happened by then has
    /// been heard.
    pub fn proved(&self, sent: Instant) {
        self.0.proved(sent);
    }

    /// Waits until a heartbeat is to be sent. Dropping the future loses nothing.
    pub async fn heartbeat_due(&self) {
        self.0.heartbeat_due().await;
    }
}

impl std::fmt::Debug for Hearing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hearing").finish_non_exhaustive()
    }
}
