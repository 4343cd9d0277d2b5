//! The feed of ended sessions, the cache, and streams that end with their session.
//!
//! The feed proves with heartbeats that it is connected. When one comes back, everything that had been announced when
//! it was sent has arrived.

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
