//! `SessionService`: signing in and out, sessions of a user, limits, batches, and the contract with its store.

mod alone;
mod application_panics;
mod batching;
mod conformance;
mod events;
mod lifetimes;
mod reauthenticate;
mod runtimes;
#[cfg(feature = "serde")]
mod serialization;
mod sessions;
mod sign_in;
mod sign_out;
mod store_contract;
