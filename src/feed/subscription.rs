//! The subscription to a feed. It is connected to one feed at a time.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    error::{Error, ErrorKind},
    feed::{
        cache::Cache,
        connection::{Line, run},
        session_feed::SessionFeed,
        subscription_state::{Settings, SubscriptionState, Task},
        watchers::Watchers,
    },
};

/// A feed that has been started. Dropped, it keeps its task if it has become the current feed, and is stopped
/// otherwise.
struct Candidate<'a, U> {
    state: &'a SubscriptionState<U>,
    number: u64,
    task: Option<Task>,
}

impl<U> Drop for Candidate<'_, U> {
    fn drop(&mut self) {
        let mut lines = self.state.lines();
        if lines.current == self.number && !lines.stopped {
            lines.task = self.task.take();
        }
    }
}

/// The owner of a subscription, which ends with it.
pub(crate) struct Subscription<U: Clone + Send + Sync + 'static>(Arc<SubscriptionState<U>>);

impl<U: Clone + Send + Sync + 'static> Subscription<U> {
    /// A subscription without a feed.
    pub(crate) fn new(
        cache: Option<Cache<U>>,
        watchers: Arc<Watchers>,
        settings: Settings,
    ) -> Self {
        Self(Arc::new(SubscriptionState::new(cache, watchers, settings)))
    }

    /// Starts a feed, and returns once it has proved that it is connected. Only then it replaces the feed before.
    pub(crate) async fn connect(&self, feed: impl SessionFeed) -> Result<(), Error> {
        let mut proof = self.0.proof.subscribe();
        let (failed, failure) = oneshot::channel();
        let line = {
            let mut lines = self.0.lines();
            lines.newest += 1;
            Arc::new(Line {
                number: lines.newest,
                state: Arc::clone(&self.0),
                heartbeat: Arc::default(),
                announces_users: AtomicBool::new(false),
            })
        };
        let number = line.number;
        let task = Task(tokio::spawn(run(line, feed, failed)).abort_handle());
        let _candidate = Candidate {
            state: &self.0,
            number,
            task: Some(task),
        };
        let first = async {
            tokio::select! {
                _ = proof.wait_for(|proof| proof.line == number && proof.sent.is_some()) => Ok(()),
                Ok(error) = failure => Err(error),
            }
        };
        timeout(self.0.settings.deadline, first)
            .await
            .unwrap_or_else(|_| {
                Err(Error::from_kind(ErrorKind::Deadline).with_message(
                    "the session feed did not prove within the deadline that it is connected",
                ))
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
