//! Sessions in PostgreSQL.

mod check;
mod connections;
mod decode;
mod failure;
mod migrate;
mod statements;
mod store;
mod user;

pub use self::{
    check::Check,
    migrate::Migrate,
    store::PgSessionStore,
    user::{PgUser, UserRow},
};
