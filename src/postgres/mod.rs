//! Sessions in PostgreSQL.

#[cfg(test)]
mod boundaries;
mod check;
mod connections;
mod decode;
mod execution;
mod failure;
mod migrate;
mod statement;
mod statements;
mod store;
mod transaction;
mod user;
mod users_types;
mod writes;

pub use self::{
    check::Check,
    migrate::Migrate,
    store::PgSessionStore,
    transaction::Demands,
    user::{PgUser, UserRow},
};
