//! Sessions in PostgreSQL.

#[cfg(test)]
mod boundaries;
mod check;
mod connections;
mod decode;
mod failure;
mod feed;
mod migrate;
mod statements;
mod store;
mod transaction;
mod user;
mod writes;

pub use self::{
    check::Check,
    feed::PgSessionFeed,
    migrate::Migrate,
    store::PgSessionStore,
    transaction::Demands,
    user::{PgUser, UserRow},
};
