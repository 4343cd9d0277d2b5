//! What a service does with a feed.

use std::{future::Future, sync::Arc};

use super::{Cache, Ended, Following, SessionFeed, Watchers};
use crate::{CurrentSession, Error, ErrorKind, SessionService, SessionStore};

/// # Signed out everywhere, at once
///
/// A feed tells this process of sessions that ended or changed, whoever did it. It knows when it is
/// deaf: four times in a lease a heartbeat goes through the store and comes back, behind everything that
/// was announced before it. The lease, [`DEFAULT_LEASE`](crate::DEFAULT_LEASE) by default, runs from
/// when the last one that came back was sent.
///
/// | a session ends | a cached answer for it is given | a stream that waits with [`ended`](Self::ended) closes |
/// |---|---|---|
/// | by a call to this service | not after the call has returned | when the store has been asked, at once |
/// | elsewhere, and the feed hears | until the announcement is here: milliseconds | when it is here and the store has been asked |
/// | elsewhere, and the feed is deaf | until the lease is over | within the lease and the time to ask |
/// | by one of its limits | not from that moment on | when it has passed and the store has been asked |
///
/// "A call to this service" is one of those that end sessions in a transaction of their own. What
/// ends in the application's transaction counts as elsewhere.
impl<S: SessionStore> SessionService<S> {
    /// Follows a feed of ended sessions, so that streams that wait with [`ended`](Self::ended) close at
    /// once. Returns when the feed has proved that it hears. From then on it is connected again, after a
    /// pause that grows and is jittered, whenever it is lost.
    ///
    /// # Errors
    ///
    /// When the feed cannot hear: its connection, its triggers, or a database that does not know
    /// `LISTEN`; [`ErrorKind::Configuration`] when one is followed already. Nothing is followed then.
    ///
    /// # Cancellation
    ///
    /// Dropped, nothing is followed.
    pub async fn follow(&self, feed: impl SessionFeed) -> Result<(), Error> {
        self.start(feed, None).await
    }

    /// Follows a feed and keeps up to so many live sessions with their users in memory, where they are
    /// looked up without asking the store. Off by default.
    ///
    /// It never keeps that a session does not exist. A session is kept from the age of a minute on, for
    /// five minutes at most, and while the feed is deaf nothing is kept and every lookup asks the
    /// store.
    ///
    /// Let changes of users be announced as well, and a user who was disabled or whose role changed is
    /// another one at once. Otherwise, and for what is only joined to the users' table, what is kept of
    /// the *user* is as old as the lookup: up to those five minutes.
    ///
    /// # Errors
    ///
    /// As for [`follow`](Self::follow).
    pub async fn cache(&self, feed: impl SessionFeed, sessions: usize) -> Result<(), Error> {
        let cache = Cache::new(
            sessions,
            self.store().lifetime().idle_limit(),
            self.store().touch_interval(),
        );
        self.start(feed, Some(cache)).await
    }

    async fn start(
        &self,
        feed: impl SessionFeed,
        cache: Option<Cache<S::User>>,
    ) -> Result<(), Error> {
        let again = || {
            Error::bare(ErrorKind::Configuration)
                .saying("this service follows a feed of ended sessions already")
        };
        let resolver = self.resolver();
        if resolver.following().is_some() {
            return Err(again());
        }
        let watchers = Arc::clone(&resolver.watchers);
        let (following, task) =
            Following::start(feed, cache, watchers, resolver.lease, self.deadline()).await?;
        resolver
            .follow(following, task)
            .then_some(())
            .ok_or_else(again)
    }

    /// Resolves when this session is over: ended, by whomever and wherever, or expired. Whether it still
    /// is live is asked when the waiting begins.
    ///
    /// It needs no feed. Without one, and while the one that is followed is deaf, the store is asked
    /// twice in a lease about all the sessions that are waited for, a thousand in a statement. A session
    /// that nobody uses expires by its idle limit, though a stream of it is open. Where the store
    /// cannot be asked, a stream stays open until it can, or until the session's absolute limit has
    /// passed.
    pub fn ended(&self, session: &CurrentSession<S::User>) -> Ended {
        Watchers::watch(self.resolver(), session)
    }

    /// Runs the future as long as the session lives.
    ///
    /// # Errors
    ///
    /// Why the session ended before the future did, which is dropped then.
    pub fn while_live<F: Future>(
        &self,
        session: &CurrentSession<S::User>,
        future: F,
    ) -> impl Future<Output = Result<F::Output, super::EndedBecause>> + use<F, S> {
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
