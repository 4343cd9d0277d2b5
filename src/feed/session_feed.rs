//! The trait that a feed implements, and the sink for its events.

use std::{future::Future, sync::Arc};

use tokio::time::Instant;

use crate::{
    error::Error,
    session::{SessionId, UserKey},
};

/// Notifies the service of sessions that ended or changed elsewhere: in another process, by an
/// operator's `DELETE`, by a cascading delete.
///
/// `PgSessionStore::feed` creates a feed for PostgreSQL.
pub trait SessionFeed: Send + Sync + 'static {
    /// Listens on one connection until the connection is lost, and returns the cause of the loss.
    ///
    /// The service then calls the method again after a delay, also after a panic. The delay grows
    /// and is jittered.
    ///
    /// # Contract
    ///
    /// * The feed must call [`FeedSink::subscribed`] as soon as it can miss no further
    ///   notification.
    /// * It must pass invalidations to `sink` in the order in which they happened.
    /// * After the call of `subscribed`, it must send a heartbeat whenever
    ///   [`FeedSink::next_heartbeat`] resolves.
    /// * When the feed receives the heartbeat, it must call [`FeedSink::heartbeat_received`].
    /// * The heartbeat must take *the same path as notifications, and arrive after all earlier
    ///   notifications*.
    /// * It must verify that this path leads to the database that the service's store uses.
    ///
    /// # Cancellation
    ///
    /// The service drops the future when the feed is replaced or the service is closed.
    fn listen(&self, sink: &FeedSink) -> impl Future<Output = Error> + Send;
}

/// Receives the events of a [`SessionFeed`].
#[derive(Clone)]
pub struct FeedSink(Arc<dyn FeedHandler>);

/// A set of sessions whose cached lookup results are no longer valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalidation {
    /// These sessions have ended, or the results of their lookups may have changed.
    Sessions(Vec<SessionId>),
    /// The result of a lookup may have changed for every session of these users.
    Users(Vec<UserKey>),
    /// Any session may have ended or changed.
    All,
}

/// The changes of which a [`SessionFeed`] notifies the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedScope {
    /// Sessions that end or change.
    Sessions,
    /// Sessions that end or change, and users that change.
    SessionsAndUsers,
}

pub(crate) trait FeedHandler: Send + Sync {
    fn subscribed(&self, scope: FeedScope);
    fn invalidate(&self, invalidation: Invalidation);
    fn heartbeat_received(&self, sent: Instant);
    fn next_heartbeat(&self) -> futures_core::future::BoxFuture<'_, ()>;
}

impl FeedSink {
    pub(crate) fn new(handler: Arc<dyn FeedHandler>) -> Self {
        Self(handler)
    }

    /// Reports that the feed is subscribed from now on. Earlier notifications may have been missed,
    /// and therefore the service invalidates every session.
    pub fn subscribed(&self, scope: FeedScope) {
        self.0.subscribed(scope);
    }

    /// Invalidates sessions.
    pub fn invalidate(&self, invalidation: Invalidation) {
        self.0.invalidate(invalidation);
    }

    /// Reports that the heartbeat from the time `sent` was received. All notifications from before
    /// that time must have been passed to this sink.
    ///
    /// The feed counts as connected until one lease after `sent`.
    pub fn heartbeat_received(&self, sent: Instant) {
        self.0.heartbeat_received(sent);
    }

    /// Waits until the next heartbeat is due.
    ///
    /// It is due a quarter of a lease after this call. It is due earlier if the service requests a
    /// heartbeat.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next_heartbeat(&self) {
        self.0.next_heartbeat().await;
    }
}

impl std::fmt::Debug for FeedSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedSink").finish_non_exhaustive()
    }
}
