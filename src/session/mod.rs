//! A session: its token, its id, its times and its limits.

mod current;
mod id;
mod info;
mod lifetime;
mod limit;
mod token;
pub(crate) mod user_agent;
mod user_key;

pub(crate) use self::token::DigestHashing;
pub use self::{
    current::{CurrentSession, Session, SessionTimestamps},
    id::{ParseSessionIdError, SessionId},
    info::SessionInfo,
    lifetime::Lifetime,
    limit::SessionLimit,
    token::{SessionToken, TokenDigest},
    user_key::UserKey,
};
