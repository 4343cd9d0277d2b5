//! What a feed implements, and what it announces to.

use std::{future::Future, sync::Arc};

use tokio::time::Instant;

use crate::{
    error::Error,
    session::{SessionId, UserKey},
};

/// Announces sessions that ended elsewhere: in another process, by an operator's `DELETE`, by a cascade. With
/// PostgreSQL it is `PgSessionStore::feed`.
pub trait SessionFeed: Send + Sync + 'static {
    /// Subscribes on one connection until that is lost, and passes announcements on to `hearing` in the order in
    /// which they happened. The service calls it again after a pause that grows and is jittered, also after a panic.
    ///
    /// It must call [`FeedSink::subscribed`] once no further announcement can be missed. After that it sends a heartbeat
    /// whenever [`FeedSink::next_heartbeat`] resolves. When the heartbeat comes back *on the same path as announcements
    /// and behind them*, it calls [`FeedSink::heartbeat_received`]. It must verify that this path leads to the database that the
    /// service's store uses.
    fn listen(&self, hearing: &FeedSink) -> impl Future<Output = Error> + Send;
}

/// Receives the announcements of a [`SessionFeed`].
#[derive(Clone)]
pub struct FeedSink(Arc<dyn Hears>);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation {
    /// These sessions have ended, or a lookup of them may have another result than before.
    Sessions(Vec<SessionId>),
    /// Lookups of all sessions of these users may have another result than before.
    Users(Vec<UserKey>),
    /// Any session may have ended or changed.
    All,
}

/// What a [`SessionFeed`] announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedScope {
    /// Sessions that end or change.
    Sessions,
    /// The same, and users that change.
    SessionsAndUsers,
}

pub(crate) trait Hears: Send + Sync {
    fn subscribed(&self, announces: FeedScope);
    fn invalidate(&self, announcement: Invalidation);
    fn heartbeat_received(&self, sent: Instant);
    fn next_heartbeat(&self) -> futures_core::future::BoxFuture<'_, ()>;
}

impl FeedSink {
    pub(crate) fn new(hears: Arc<dyn Hears>) -> Self {
        Self(hears)
    }

    /// Reports that announcements arrive from now on. Earlier ones may have been missed.
    pub fn subscribed(&self, announces: FeedScope) {
        self.0.subscribed(announces);
    }

    /// Passes an announcement on.
    pub fn invalidate(&self, announcement: Invalidation) {
        self.0.invalidate(announcement);
    }

    /// Reports that a heartbeat which was sent at this time has come back: everything that had been announced by then
    /// has been passed on.
    pub fn heartbeat_received(&self, sent: Instant) {
        self.0.heartbeat_received(sent);
    }

    /// Waits until the next heartbeat is due. Dropping the future loses nothing.
    pub async fn next_heartbeat(&self) {
        self.0.next_heartbeat().await;
    }
}

impl std::fmt::Debug for FeedSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedSink").finish_non_exhaustive()
    }
}
