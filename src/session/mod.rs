//! Values of a session: its token, id, times and limits.
//!
//! | type | what it is | who may see it |
//! |---|---|---|
//! | [`SessionToken`] | the client's secret | the client only |
//! | [`TokenDigest`] | the SHA-256 of the token, which a store keeps | the store only |
//! | [`SessionId`] | the public name of a session, for lists and logs | everyone |
//! | [`CurrentSession`] | the session of a request | the application |
//! | [`SessionInfo`] | an entry in a list of a user's sessions | the user |
//! | [`Lifetime`] | the absolute limit and the idle limit | |
//! | [`SessionLimit`] | the number of sessions of a user | |
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use tower_user_session::session::{Lifetime, SessionToken};
//!
//! # fn main() -> Result<(), tower_user_session::Error> {
//! // Eight hours at most, and half an hour without a request.
//! let lifetime = Lifetime::absolute(Duration::from_secs(8 * 60 * 60))?
//!     .with_idle(Duration::from_secs(30 * 60))?;
//! assert_eq!(lifetime.touch_interval(), Duration::from_secs(2 * 60));
//!
//! // A store never sees a token, only its digest.
//! let token = SessionToken::generate()?;
//! let presented = SessionToken::parse(token.expose().as_bytes()).unwrap();
//! assert_eq!(presented.digest(), token.digest());
//! # Ok(())
//! # }
//! ```

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
