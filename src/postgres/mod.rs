//! Session store and invalidation feed for PostgreSQL.

#[cfg(test)]
mod boundaries;
mod check;
mod connection_set;
mod connections;
mod connector;
mod decode;
mod encoding;
mod errors;
mod feed;
mod migrate;
mod payload;
#[cfg(feature = "rustls")]
mod pool;
mod reconnect;
mod same_database;
mod same_settings;
mod sql;
mod store;
mod suppressed;
mod transaction;
mod user;
mod user_queue;
mod writes;

#[cfg(feature = "rustls")]
pub use self::pool::PgPoolBuilder;
pub use self::{
    check::CheckReport,
    connector::PgConnector,
    feed::PgSessionFeed,
    migrate::Migrate,
    store::PgSessionStore,
    transaction::SignInConditions,
    user::{LookupRow, PgUser, UserRow},
};
