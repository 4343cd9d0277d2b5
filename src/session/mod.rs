//! The domain: tokens, sessions, what a store must answer, and the service over it.

mod answering;
mod batch;
#[cfg(test)]
mod batch_model;
mod clean_up;
mod confirm;
pub(crate) mod counters;
mod credentials;
mod current;
mod devices;
mod feed;
mod flight;
mod id;
mod lifetime;
mod limit;
mod lookup;
mod notice;
mod resolver;
mod service;
mod sign_in;
mod sign_out;
mod store;
mod timer;
mod token;
mod touch;
mod user_agent;
mod user_key;

pub(crate) use self::answering::Answering;
#[cfg(feature = "postgres")]
pub(crate) use self::resolver::BATCHES_IN_FLIGHT;
pub use self::{
    confirm::Confirm,
    counters::Counts,
    current::{CurrentSession, Session, SessionTimes},
    feed::{
        Announcement, Announces, BodyUntilEnded, DEFAULT_LEASE, DEFAULT_RECHECK_INTERVAL,
        DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS, Ended, EndedBecause, Hearing, SessionFeed,
        StreamUntilEnded,
    },
    id::{ParseSessionIdError, SessionId},
    lifetime::Lifetime,
    limit::SessionLimit,
    lookup::{LiveSession, LookupAnswer, SessionLookup, SessionUse},
    service::{DEFAULT_DEADLINE, SessionService, SessionServiceBuilder},
    sign_in::{SignIn, SignedIn},
    sign_out::{SignOut, SignedOut},
    store::{
        CleanedUp, Device, EndedSession, Insertion, NewSession, Revocation, Rotation, SessionStore,
        StillLive,
    },
    token::{SessionToken, TokenDigest},
    user_key::UserKey,
};
