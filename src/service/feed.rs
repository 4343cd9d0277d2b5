//! Session feed of a service: subscription, cache and waits for the end of a session.

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
/// A feed announces ended sessions, changed sessions and changed users, no matter which client made
/// the change.
///
/// The service sends four heartbeats per lease through the feed. When a heartbeat is received, the
/// feed is connected, and all earlier notifications have arrived. The lease starts at the time when
/// the last received heartbeat was sent. The default is
/// [`DEFAULT_LEASE`]: 1 second.
///
/// Some changes cause no notification. One example is a change of a row that the lookup joins to
/// the user's row. Another example is the passing of time in a condition such as
/// `paid_until > now()`. The *re-check interval* limits how long such a change has no effect, also
/// while the feed is connected. A cached session is valid for at most this interval. A session with
/// an open stream is checked again within this interval. The interval is
/// [`DEFAULT_RECHECK_INTERVAL`] if the feed announces users, and
/// [`DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS`][without-users] otherwise.
/// [`SessionServiceBuilder::recheck_interval`][setting] overrides both.
///
/// [`DEFAULT_LEASE`]: crate::feed::DEFAULT_LEASE
/// [`DEFAULT_RECHECK_INTERVAL`]: crate::feed::DEFAULT_RECHECK_INTERVAL
/// [without-users]: crate::feed::DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS
/// [setting]: crate::service::SessionServiceBuilder::recheck_interval
///
/// ## Delays after a change
///
/// The table contains the longest time for which a request still succeeds, or a stream that waits
/// with [`ended`](Self::ended) is still open:
///
/// | change | request, no cache | request, cache | stream |
/// |---|---|---|---|
/// | a call to this service ends the session | 0 | 0 | Q |
/// | another client ends or changes the session's row | 0 | N | N + Q |
/// | the user's row changes, and the feed announces users | 0 | N | N + Q |
/// | the user's row changes, and the feed does not announce users | 0 | R | R + Q |
/// | a joined row or the current time changes the condition | 0 | R | R + Q |
/// | a limit of the session passes | 0 | 0 | Q |
/// | any of these while the feed is disconnected | 0 | L | L + Q |
///
/// * 0: a request that starts after the commit sees the change.
/// * N: the time until the notification arrives, normally some milliseconds, at most L.
/// * Q: the time of one query.
/// * R: the re-check interval.
/// * L: the lease, counted from the time when the last received heartbeat was sent.
///
/// If the store cannot be queried, lookups without a cache fail. Lookups with a cache fail after
/// the time in the table.
/// A stream stays open until the store can be queried or the absolute limit passes.
///
/// The first row applies to calls with a transaction of their own. A session that ends in the
/// application's transaction counts as ended by another client.
///
/// ## Cost of re-checks
///
/// While the feed is connected, the re-checks of 100,000 streams are about 100 queries per
/// interval, with 1,000 sessions each. PostgreSQL 15 with 100,000 sessions and users used 7 ms of
/// processor time per query. The total is about 0.7 s per interval: 1.2 % of a processor at 60
/// seconds, and 5 % at 15 seconds. Re-checks are jittered, and a query includes sessions that are
/// due soon. A session is re-checked after two thirds of the interval at the earliest, and after
/// the whole interval at the latest. The cost can therefore be 50 % higher.
impl<S: SessionStore> SessionService<S> {
    /// Subscribes to a feed. A wait with [`ended`](Self::ended) then ends as soon as the session
    /// ends.
    ///
    /// The call returns when the first heartbeat has been received. After that, the service
    /// reconnects by itself with a jittered exponential backoff.
    ///
    /// # Errors
    ///
    /// * An error of the feed: no connection, missing triggers, or a database without `LISTEN`.
    /// * [`ErrorKind::Deadline`] if no heartbeat is received within the deadline.
    /// * [`ErrorKind::Configuration`] if the service already has a feed, or if the feed and the
    ///   store are connected to different databases.
    ///
    /// After an error, the service does not use this feed.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the service has no feed.
    pub async fn subscribe(&self, feed: impl SessionFeed) -> Result<(), Error> {
        self.start(feed, None).await
    }

    /// Subscribes to a feed and caches up to this number of live sessions with their users.
    ///
    /// The cache is off by default. It has no negative entries.
    /// While the feed is disconnected, the cache is empty and every lookup queries the store.
    /// An entry is valid for at most the re-check interval.
    /// A result from a server in recovery is never cached.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    ///
    /// # Cancellation
    ///
    /// As for [`subscribe`](Self::subscribe).
    #[doc(alias("memory", "ttl"))]
    pub async fn enable_cache(&self, feed: impl SessionFeed, sessions: usize) -> Result<(), Error> {
        let cache = Cache::new(
            sessions,
            self.store().lifetime().idle_limit(),
            self.store().touch_interval(),
        );
        self.start(feed, Some(cache)).await
    }

    /// Replaces the feed, for example after a failover or to change the connection settings.
    ///
    /// The old feed stays in use until the first heartbeat of the new feed has been received. The
    /// cache is emptied at that time. Its capacity does not change.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe). [`ErrorKind::Configuration`] if the service has no
    /// feed. After an error, the old feed stays in use.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the service uses either the old feed or the new feed.
    pub async fn replace_feed(&self, feed: impl SessionFeed) -> Result<(), Error> {
        let Some(subscription) = self.feed().subscription() else {
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(
                "replace_feed failed: the session service has no feed; call subscribe first",
            ));
        };
        subscription.connect(feed).await
    }

    async fn start(
        &self,
        feed: impl SessionFeed,
        cache: Option<Cache<S::User>>,
    ) -> Result<(), Error> {
        let already_subscribed = || {
            Error::from_kind(ErrorKind::Configuration)
                .with_message("the session service already has a feed: call replace_feed")
        };
        let slot = self.feed();
        if slot.subscription().is_some() {
            return Err(already_subscribed());
        }
        let watchers = Arc::clone(&slot.watchers);
        let subscription = Subscription::new(cache, watchers, slot.settings);
        subscription.connect(feed).await?;
        slot.subscribe(subscription)
            .then_some(())
            .ok_or_else(already_subscribed)
    }

    /// Returns a future that resolves when this session ends, for any cause and in any process.
    ///
    /// The session is checked when the wait begins.
    ///
    /// A feed is optional. Without a feed, and while the feed is disconnected, all waiting sessions
    /// are checked twice per lease, 1,000 sessions per query. While the feed is connected, each
    /// session is checked once per re-check interval.
    ///
    /// An open stream does not count as a use of its session. The idle limit therefore applies.
    ///
    /// If the store cannot be queried, the wait continues until the store can be queried or the
    /// session's absolute limit passes.
    /// If only this session's rows make the query fail, the wait ends with
    /// [`EndReason::Undecidable`](crate::feed::EndReason::Undecidable).
    ///
    /// The method must be called inside a tokio runtime. Otherwise the future resolves with
    /// [`EndReason::ServiceClosed`](crate::feed::EndReason::ServiceClosed).
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the wait. It has no effect on the session.
    #[doc(alias("websocket", "sse", "stream"))]
    pub fn ended(&self, session: &CurrentSession<S::User>) -> Ended {
        recheck::watch(&self.inner.store, &self.inner.feed, session)
    }

    /// Runs the future until it completes or the session ends.
    ///
    /// # Errors
    ///
    /// The reason why the session ended, if the session ends first. The future is then dropped.
    pub fn run_until_ended<F: Future>(
        &self,
        session: &CurrentSession<S::User>,
        future: F,
    ) -> impl Future<Output = Result<F::Output, crate::feed::EndReason>> + use<F, S> {
        let ended = self.ended(session);
        async move {
            tokio::select! {
                biased;
                reason = ended => Err(reason),
                output = future => Ok(output),
            }
        }
    }
}
