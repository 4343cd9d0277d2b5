//! The domain: tokens, sessions, what a store must answer, and the service over it.

mod batch;
pub(crate) mod counters;
mod current;
mod id;
mod lifetime;
mod lookup;
mod notice;
mod resolver;
mod service;
mod sign_in;
mod sign_out;
mod store;
mod token;

pub(crate) use self::resolver::Answering;
#[cfg(feature = "postgres")]
pub(crate) use self::resolver::BATCHES_IN_FLIGHT;
pub use self::{
    counters::Counts,
    current::{CurrentSession, SessionTimes},
    id::SessionId,
    lifetime::Lifetime,
    lookup::{LiveSession, LookupAnswer, SessionLookup},
    service::{DEFAULT_DEADLINE, SessionService, SessionServiceBuilder},
    sign_in::{SignIn, SignedIn},
    sign_out::{SignOut, SignedOut},
    store::{Insertion, NewSession, SessionStore},
    token::{SessionToken, TokenDigest},
};
