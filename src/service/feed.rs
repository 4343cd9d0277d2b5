//! What a service does with a feed.

use std::{future::Future, sync::Arc};

use crate::{
    error::{Error, ErrorKind},
    feed::{Ended, SessionFeed, cache::Cache, recheck, subscription::Subscription},
    service::SessionService,
    session::CurrentSession,
    store::SessionStore,
};

/// # Feeds, the cache and streams
///
/// A feed announces sessions that ended or changed, and users that changed, no matter which client made the change.
/// Four times in a lease a heartbeat proves that the feed is connected and that everything announced before it has
/// arrived. The lease, [`DEFAULT_LEASE`](crate::feed::DEFAULT_LEASE) by default, runs from when the last heartbeat that came
/// back was sent.
///
/// Some changes are announced by nothing: a row that the lookup joins to the user's, or the passing of time in a
/// condition such as `paid_until > now()`. Therefore a cached result is valid no longer than the *re-check interval*,
/// and a session that a stream waits for is checked again within it, also while the feed is connected. The interval is
/// [`DEFAULT_RECHECK_INTERVAL`](crate::feed::DEFAULT_RECHECK_INTERVAL) if the feed announces users, and
/// [`DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS`](crate::feed::DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS) if it does not, unless
/// [`SessionServiceBuilder::recheck_interval`](crate::service::SessionServiceBuilder::recheck_interval) sets it.
///
/// After a change, a request is still answered as before, or a stream is still open, for at most:
///
/// | change | request without the cache | request with the cache | stream that waits with [`ended`](Self::ended) |
/// |---|---|---|---|
/// | a call to this service ends the session | 0 | 0 | one query |
/// | the session's row ends or changes elsewhere | 0 | a notification: milliseconds | a notification and one query |
/// | the user's row changes, and users are announced | 0 | a notification | a notification and one query |
/// | the user's row changes, and users are not announced | 0 | the re-check interval | the re-check interval and one query |
/// | a joined row, or the time, decides otherwise | 0 | the re-check interval | the re-check interval and one query |
/// | a limit of the session passes | 0 | 0 | one query |
/// | any of these, and the feed is disconnected | 0 | the lease from the last heartbeat | the lease and one query |
/// | any of these, and the store cannot be queried | lookups fail | as above, then lookups fail | until the store can be queried, or the absolute limit passes |
///
/// "0" means that a request which starts after the change was committed sees it. "A call to this service" is one of
/// those that end sessions in a transaction of their own. A session that ends in the application's transaction has
/// ended elsewhere.
///
/// While the feed is connected, re-checks of 100,000 streams are about 100 queries of 1,000 sessions in each interval.
/// One query took a PostgreSQL 15 with 100,000 sessions and users 7 ms of processor time. That is about 0.7 seconds in
/// an interval: 1.2 % of a processor at 60 seconds, and 5 % at 15 seconds. Re-checks are jittered, and sessions that are
/// due soon go with others. Each re-check comes between two thirds of the interval and the whole, so that the cost is up
/// to half as much again.
impl<S: SessionStore> SessionService<S> {
    /// Subscribes to a feed, so that streams that wait with [`ended`](Self::ended) close at once. Returns when the feed
    /// has proved that it is connected. From then on it is connected again, after a pause that grows and is jittered,
    /// whenever the connection is lost.
    ///
    /// # Errors
    ///
    /// An error of the feed: its connection, its triggers, or a database that does not support `LISTEN`.
    /// [`ErrorKind::Deadline`] if it did not prove within the deadline that it is connected, and
    /// [`ErrorKind::Configuration`] if the service has a feed already, or if the feed and the store are connected to
    /// different databases. The service has no feed then.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the service has no feed.
    pub async fn subscribe(&self, feed: impl SessionFeed) -> Result<(), Error> {
        self.start(feed, None).await
    }

    /// Subscribes to a feed and caches up to so many live sessions with their users. Off by default.
    ///
    /// The cache has no negative entries. It is empty, and every lookup queries the store, while the feed is
    /// disconnected. An entry is valid no longer than the re-check interval. A result that a server in recovery returned
    /// is never cached.
    ///
    /// # Errors
    ///
    /// As for [`follow`](Self::subscribe).
    ///
    /// # Cancellation
    ///
    /// As for [`follow`](Self::subscribe).
    pub async fn enable_cache(&self, feed: impl SessionFeed, sessions: usize) -> Result<(), Error> {
        let cache = Cache::new(
            sessions,
            self.store().lifetime().idle_limit(),
            self.store().touch_interval(),
        );
        self.start(feed, Some(cache)).await
    }

    /// Replaces the feed by another one: after a failover, for example, or to connect in another way. The feed before
    /// stays until the new one has proved that it is connected. The cache is emptied then, and keeps its size.
    ///
    /// # Errors
    ///
    /// As for [`follow`](Self::subscribe), and [`ErrorKind::Configuration`] if the service has no feed. The feed before
    /// stays.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the service has one of the two feeds.
    pub async fn replace_feed(&self, feed: impl SessionFeed) -> Result<(), Error> {
        let Some(subscription) = self.feed().subscription() else {
            return Err(Error::from_kind(ErrorKind::Configuration)
                .with_message("the session service has no feed that can be replaced"));
        };
        subscription.connect(feed).await
    }

    async fn start(
        &self,
        feed: impl SessionFeed,
        cache: Option<Cache<S::User>>,
    ) -> Result<(), Error> {
        let again = || {
            Error::from_kind(ErrorKind::Configuration)
                .with_message("the session service has a feed already: use replace_feed")
        };
        let slot = self.feed();
        if slot.subscription().is_some() {
            return Err(again());
        }
        let watchers = Arc::clone(&slot.watchers);
        let subscription = Subscription::new(cache, watchers, slot.settings);
        subscription.connect(feed).await?;
        slot.subscribe(subscription).then_some(()).ok_or_else(again)
    }

    /// Resolves when this session ends, for any reason and in any process, or when it expires. The session is checked
    /// when the wait begins.
    ///
    /// It needs no feed. Without a feed, and while the feed is disconnected, all sessions that streams wait for are
    /// checked twice in a lease, a thousand in a query. While it is connected, they are checked once in a re-check
    /// interval. An open stream is not a use of its session, which expires by its idle limit. If the store cannot be
    /// queried, a stream stays open until it can, or until the session's absolute limit has passed. If only this
    /// session cannot be decided, because its rows make the condition fail, the wait ends with
    /// [`EndReason::Undecidable`](crate::feed::EndReason::Undecidable).
    ///
    /// It must be called inside a tokio runtime; otherwise it resolves with
    /// [`EndReason::ServiceClosed`](crate::feed::EndReason::ServiceClosed).
    pub fn ended(&self, session: &CurrentSession<S::User>) -> Ended {
        recheck::watch(&self.inner.store, &self.inner.feed, session)
    }

    /// Runs the future as long as the session lives.
    ///
    /// # Errors
    ///
    /// Why the session ended before the future did, which is dropped then.
    pub fn run_until_ended<F: Future>(
        &self,
        session: &CurrentSession<S::User>,
        future: F,
    ) -> impl Future<Output = Result<F::Output, crate::feed::EndReason>> + use<F, S> {
        let ended = self.ended(session);
        async move {
            tokio::select! {
                biased;
                because = ended => Err(because),
                output = future => Ok(output),
            }
        }
    }
}
