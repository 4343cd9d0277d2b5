//! The feed of ended sessions: the cache, streams, order of events, and the connection.

mod cache;
mod connection;
mod in_flight;
mod ordering;
mod outage;
mod staleness;
mod streams;
