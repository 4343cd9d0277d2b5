//! Session store and invalidation feed for PostgreSQL.

#[cfg(test)]
mod boundaries;
mod check;
mod connect;
mod connection_set;
mod connections;
mod connector;
mod decode;
mod each_host;
mod encoding;
mod errors;
mod feed;
mod fence;
mod hosts;
mod lanes;
#[cfg(test)]
mod lanes_model;
mod locked_writes;
mod lookup;
mod migrate;
mod payload;
mod pipelines;
mod pool;
mod private_value;
mod reconnect;
mod same_database;
mod same_settings;
mod sql;
mod store;
mod transaction;
mod user;
mod user_queue;
mod writes;

pub use self::{
    check::CheckReport,
    connector::PgConnector,
    feed::PgSessionFeed,
    migrate::Migrate,
    pool::PgPoolBuilder,
    store::PgSessionStore,
    transaction::SignInConditions,
    user::{LookupRow, PgUser, UserRow},
};
