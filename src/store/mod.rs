//! The traits that a store of sessions implements.
//!
//! An application with PostgreSQL uses `PgSessionStore`. Such an application needs this module only
//! for `MemorySessionStore` in its tests (feature `test-util`).
//!
//! * [`SessionLookup`] looks sessions up. The layers need nothing else. A process without a
//!   database implements this trait to query another service.
//! * [`SessionStore`] also begins, lists, revokes and deletes sessions.
//!
//! # Example
//!
//! A lookup that queries another service:
//!
//! ```
//! use std::time::SystemTime;
//! use tower_user_session::{
//!     Error, ErrorKind, SessionService,
//!     session::{Session, SessionId, SessionTimestamps, TokenDigest},
//!     store::{LookupResult, SessionLookup},
//! };
//!
//! #[derive(Clone)]
//! struct User {
//!     name: String,
//! }
//!
//! struct RemoteLookup;
//!
//! impl SessionLookup for RemoteLookup {
//!     type User = User;
//!
//!     async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<User>>, Error> {
//!         let mut results = Vec::with_capacity(digests.len());
//!         for &digest in digests {
//!             let response = fetch(digest.as_bytes()).await;
//!             results.push(match response {
//!                 Ok(Some((user, session))) => LookupResult::live(digest, user, session),
//!                 Ok(None) => LookupResult::absent(digest),
//!                 // Never `absent`: the session may be live.
//!                 Err(error) => LookupResult::failed(digest, Error::new(ErrorKind::Store, error)),
//!             });
//!         }
//!         Ok(results)
//!     }
//! }
//!
//! # async fn fetch(_: &[u8; 32]) -> Result<Option<(User, Session)>, std::io::Error> {
//! #     let times = SessionTimestamps::at(SystemTime::now());
//! #     let session = Session::new(SessionId::from_bytes([0; 16]), times);
//! #     Ok(Some((User { name: "Ada".to_owned() }, session)))
//! # }
//! let sessions = SessionService::new(RemoteLookup);
//! # let _ = sessions;
//! ```

pub(crate) mod lookup;
#[cfg(feature = "test-util")]
mod memory;
mod session_store;

#[cfg(feature = "test-util")]
pub use self::memory::{
    MemoryConditions, MemorySessionRow, MemorySessionStore, MemorySessionValues,
};
pub use self::{
    lookup::{LiveSession, LookupResult, SessionLookup, SessionUse},
    session_store::{
        ColumnConditions, EndedSession, ExpiredBatch, InsertOutcome, NewSession, RemainingLifetime,
        RevokeScope, RotateOutcome, SessionStore, SetSessionColumn,
    },
};
