//! The subscription to a feed, and the replacement of its feed.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    error::{Error, ErrorKind},
    feed::{
        cache::Cache,
        connection::{Connection, run},
        session_feed::SessionFeed,
        subscription_state::{AbortOnDrop, LastHeartbeat, Settings, SubscriptionState},
        watchers::Watchers,
    },
};

/// A feed that was started. When this value is dropped, the task of the feed continues if the feed
/// has become the current feed. Otherwise the task is aborted.
struct Candidate<'a, U> {
    state: &'a SubscriptionState<U>,
    number: u64,
    task: Option<AbortOnDrop>,
}

impl<U> Drop for Candidate<'_, U> {
    fn drop(&mut self) {
        let mut connections = self.state.connections();
        if connections.current == self.number && !connections.stopped {
            connections.task = self.task.take();
        }
    }
}

/// The owner of a subscription. Dropping it ends the subscription.
pub(crate) struct Subscription<U: Clone + Send + Sync + 'static>(Arc<SubscriptionState<U>>);

impl<U: Clone + Send + Sync + 'static> Subscription<U> {
    /// Creates a subscription without a feed.
    pub(crate) fn new(
        cache: Option<Cache<U>>,
        watchers: Arc<Watchers>,
        settings: Settings,
    ) -> Self {
        Self(Arc::new(SubscriptionState::new(cache, watchers, settings)))
    }

    /// Starts a feed, and waits until it is connected. After that, the new feed replaces the
    /// current feed.
    ///
    /// # Errors
    ///
    /// The error of the feed, or [`ErrorKind::Deadline`] if no heartbeat was received before the
    /// deadline.
    pub(crate) async fn connect(&self, feed: impl SessionFeed) -> Result<(), Error> {
        let mut last_heartbeat = self.0.last_heartbeat.subscribe();
        let (failed, failure) = oneshot::channel();
        let connection = {
            let mut connections = self.0.connections();
            connections.newest += 1;
            Arc::new(Connection {
                number: connections.newest,
                state: Arc::clone(&self.0),
                heartbeat_request: Arc::default(),
                covers_users: AtomicBool::new(false),
            })
        };
        let number = connection.number;
        let task = AbortOnDrop(tokio::spawn(run(connection, feed, failed)).abort_handle());
        let _candidate = Candidate {
            state: &self.0,
            number,
            task: Some(task),
        };
        let is_first = |last: &LastHeartbeat| last.connection == number && last.sent.is_some();
        let first = async {
            tokio::select! {
                _ = last_heartbeat.wait_for(is_first) => Ok(()),
                Ok(error) = failure => Err(error),
            }
        };
        timeout(self.0.settings.deadline, first)
            .await
            .unwrap_or_else(|_| {
                Err(Error::from_kind(ErrorKind::Deadline)
                    .with_message("no heartbeat of the session feed came back before the deadline"))
            })
    }
}

impl<U: Clone + Send + Sync + 'static> Drop for Subscription<U> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl<U: Clone + Send + Sync + 'static> std::ops::Deref for Subscription<U> {
    type Target = SubscriptionState<U>;

    fn deref(&self) -> &SubscriptionState<U> {
        &self.0
    }
}
