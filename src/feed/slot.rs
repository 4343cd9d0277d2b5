//! The optional feed of a service.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    feed::{
        subscription::Subscription,
        subscription_state::{DEFAULT_RECHECK_INTERVAL, Settings},
        watchers::Watchers,
    },
    session::SessionId,
};

/// The optional subscription of a service, and the sessions that the service watches. Streams can
/// wait without a subscription.
pub(crate) struct FeedSlot<U: Clone + Send + Sync + 'static> {
    subscription: OnceLock<Subscription<U>>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) settings: Settings,
}

impl<U: Clone + Send + Sync + 'static> FeedSlot<U> {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            subscription: OnceLock::new(),
            watchers: Arc::default(),
            settings,
        }
    }

    /// Sets the subscription. Returns `false` if the service already has a subscription.
    pub(crate) fn subscribe(&self, subscription: Subscription<U>) -> bool {
        self.subscription.set(subscription).is_ok()
    }

    pub(crate) fn subscription(&self) -> Option<&Subscription<U>> {
        self.subscription.get()
    }

    /// Returns whether the feed is connected. While it is connected, the end of any session causes
    /// a notification.
    pub(crate) fn is_fresh(&self) -> bool {
        self.subscription()
            .is_some_and(|subscription| subscription.is_fresh())
    }

    /// Returns the time after which a session is checked again while the feed is connected.
    pub(crate) fn recheck_interval(&self) -> Duration {
        self.subscription()
            .map_or(DEFAULT_RECHECK_INTERVAL, |subscription| {
                subscription.recheck_interval()
            })
    }

    /// Invalidates sessions that this process has just ended in the store.
    pub(crate) fn invalidate_local(&self, sessions: Vec<SessionId>) {
        if sessions.is_empty() {
            return;
        }
        match self.subscription() {
            Some(subscription) => subscription.invalidate_sessions(sessions),
            None => self.watchers.mark_suspect(&sessions),
        }
    }

    /// Invalidates all sessions, because this process has just ended them in the store.
    pub(crate) fn invalidate_all_local(&self) {
        match self.subscription() {
            Some(subscription) => subscription.invalidate_all(),
            None => self.watchers.mark_all_suspect(),
        }
    }

    /// Waits until the sessions that this process has just ended are invalid in this process.
    /// Without a connected feed, all watched sessions are marked for a check.
    pub(crate) async fn sync(&self) {
        match self
            .subscription()
            .filter(|subscription| subscription.is_fresh())
        {
            Some(subscription) => subscription.sync().await,
            None => self.watchers.mark_all_suspect(),
        }
    }
}
