//! What a store implements: [`SessionLookup`] for looking sessions up, and [`SessionStore`] for their whole life.

pub(crate) mod lookup;
#[cfg(feature = "test-util")]
mod memory;
mod session_store;

#[cfg(feature = "test-util")]
pub use self::memory::MemorySessionStore;
pub use self::{
    lookup::{LiveSession, LookupResult, SessionLookup, SessionUse},
    session_store::{
        EndedSession, ExpiredBatch, InsertOutcome, NewSession, RemainingLifetime, RevokeScope,
        RotateOutcome, SessionStore,
    },
};
