//! Sessions in PostgreSQL.

#[cfg(test)]
mod boundaries;
mod check;
mod connection_set;
#[cfg(feature = "rustls")]
mod connection_string;
mod connections;
mod connector;
mod decode;
mod encoding;
mod execution;
mod failure;
mod feed;
mod key_operator;
mod migrate;
mod payload;
#[cfg(feature = "rustls")]
mod pool;
mod reconnect;
mod same_database;
mod same_surroundings;
mod statement;
mod statements;
mod store;
mod suppressed;
#[cfg(feature = "rustls")]
mod tls;
mod transaction;
mod turns;
mod user;
mod users_types;
mod writes;

#[cfg(feature = "rustls")]
pub use self::pool::PgPoolBuilder;
pub use self::{
    check::Check,
    connector::PgConnector,
    feed::PgSessionFeed,
    migrate::Migrate,
    store::PgSessionStore,
    transaction::Demands,
    user::{LookupRow, PgUser, UserRow},
};
