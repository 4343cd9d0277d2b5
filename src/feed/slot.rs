//! The place for the feed of a service, which may have none.

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

/// The subscription of a service, and the sessions that its streams wait for, with or without a subscription.
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

    /// Subscribes to a feed. `false` if there is a subscription already.
    pub(crate) fn subscribe(&self, subscription: Subscription<U>) -> bool {
        self.subscription.set(subscription).is_ok()
    }

    pub(crate) fn subscription(&self) -> Option<&Subscription<U>> {
        self.subscription.get()
    }

    /// Whether the end of a session anywhere is announced here.
    pub(crate) fn is_fresh(&self) -> bool {
        self.subscription()
            .is_some_and(|subscription| subscription.is_fresh())
    }

    /// After this time a session must be checked again while the feed is connected.
    pub(crate) fn recheck_interval(&self) -> Duration {
        self.subscription()
            .map_or(DEFAULT_RECHECK_INTERVAL, |subscription| {
                subscription.recheck_interval()
            })
    }

    /// Ends these here too, which the store has just ended.
    pub(crate) fn invalidate_local(&self, sessions: Vec<SessionId>) {
        if sessions.is_empty() {
            return;
        }
        match self.subscription() {
            Some(subscription) => subscription.end(sessions),
            None => self.watchers.mark_suspect(&sessions),
        }
    }

    /// Ends every session here, because the store has just ended them all.
    pub(crate) fn invalidate_all_local(&self) {
        match self.subscription() {
            Some(subscription) => subscription.end_everything(),
            None => self.watchers.mark_all_suspect(),
        }
    }

    /// Returns once what has just been ended is ended here too.
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
