//! Feeds of ended sessions, the session cache, and streams that end with their session.
//!
//! A [`SessionFeed`] notifies a service of sessions that ended or changed in another process. The
//! service needs a feed for its cache, and to close open streams at once:
//!
//! ```
//! use futures_core::Stream;
//! use tower_user_session::{
//!     CurrentSession, Error, SessionService,
//!     feed::{SessionFeed, StreamUntilEnded},
//!     store::SessionStore,
//! };
//!
//! /// Caches up to 10,000 live sessions.
//! async fn start<S: SessionStore>(
//!     sessions: &SessionService<S>,
//!     feed: impl SessionFeed,
//! ) -> Result<(), Error> {
//!     sessions.enable_cache(feed, 10_000).await
//! }
//!
//! /// Ends the stream when the session ends.
//! fn events<S: SessionStore, E: Stream>(
//!     sessions: &SessionService<S>,
//!     session: &CurrentSession<S::User>,
//!     events: E,
//! ) -> StreamUntilEnded<E> {
//!     sessions.ended(session).close_stream(events)
//! }
//! ```
//!
//! # Heartbeats and the lease
//!
//! The feed sends four heartbeats per lease ([`DEFAULT_LEASE`] by default) on the path of its
//! notifications. When a heartbeat is received, all notifications from before the heartbeat was
//! sent have arrived. The feed counts as connected until one lease after it sent the last heartbeat
//! that was received. While the feed is disconnected, the cache is bypassed and every lookup
//! queries the store.

mod by_user;
pub(crate) mod cache;
pub(crate) mod connection;
mod end_reason;
mod ended;
mod invalidation_log;
#[cfg(test)]
mod invalidation_log_model;
pub(crate) mod recheck;
mod session_feed;
pub(crate) mod slot;
pub(crate) mod subscription;
pub(crate) mod subscription_state;
mod until_ended;
mod watchers;

pub use self::{
    end_reason::EndReason,
    ended::Ended,
    session_feed::{FeedScope, FeedSink, Invalidation, SessionFeed},
    subscription_state::{
        DEFAULT_LEASE, DEFAULT_RECHECK_INTERVAL, DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS,
    },
    until_ended::{BodyUntilEnded, StreamUntilEnded},
};
