//! The feed of ended sessions: the cache, streams, order of events, and the connection.

mod cache;
mod connection;
mod ordering;
mod staleness;
mod streams;
