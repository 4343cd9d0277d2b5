//! A temporary PostgreSQL for the examples and the tests of this workspace, without installation,
//! configuration or clean-up.
//!
//! # The source of the server
//!
//! The first of these that exists:
//!
//! 1. the server that `DATABASE_URL` names, for examples; tests look at `TEST_DATABASE_URL` only,
//!    so that they never touch a development database. The role there needs `CREATEDB`, and every
//!    test drops its database again;
//! 2. an installed PostgreSQL, found on `PATH`, through `pg_config --bindir` or in the usual
//!    folders. A server that the system runs is not used: the programs start a private one;
//! 3. the PostgreSQL 17.5 that comes with the crates, unless the feature `bundled` is disabled.
//!    It has no contrib modules, no ICU, no TLS, and its timers never fire: `statement_timeout`,
//!    `lock_timeout`, `idle_in_transaction_session_timeout` and deadlock detection do nothing. See
//!    [`Server::is_bundled`].
//!
//! `EPHEMERAL_POSTGRES` forces one: `installed`, `bundled`, or the folder that holds `postgres` and
//! `initdb`.
//!
//! # A private server
//!
//! It has its own folder, which only its user can enter, and listens on a Unix socket. It trades
//! durability for speed: it survives a crash of its processes, not one of the machine. PostgreSQL
//! does not run as root, so a process of root runs it as `postgres` or `nobody`.
//!
//! It leaves nothing behind, whether the process returns, panics, exits, is interrupted or killed:
//! a shell waits at the other end of a pipe, and when the pipe closes, stops the server and removes
//! the folder.
//!
//! All tests of a process share one; a runner that starts a process for each test, like nextest,
//! starts a server for each.
//!
//! If `EPHEMERAL_POSTGRES_KEEP` names a folder, each private server logs each statement with its
//! parameters. After it has stopped, its log, its write-ahead log and the files of its tables are
//! moved there. The folder has an entry that ends in `.running` for each server that runs.
//!
//! # A database for each test
//!
//! [`TestDatabase`] is a copy of a template that the migrations ran on once. Advisory locks and
//! notifications stay inside a database; roles and `pg_stat_statements` are shared by all of them.
//!
//! # A cluster that fails over
//!
//! [`PatroniCluster`] starts two or three servers under Patroni, with etcd and haproxy, from installed
//! programs.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("ephemeral-postgres needs Unix sockets and a Unix shell; on Windows, use WSL");

mod cluster;
mod database;
mod error;
mod folder;
mod installed;
mod keep;
mod name;
mod patroni;
mod program;
mod server;
mod settings;
mod skip;
mod source;
mod url;
mod watchdog;

pub use cluster::StopMode;
pub use database::TestDatabase;
pub use error::Error;
pub use patroni::{Dump, Partition, PatroniCluster};
pub use server::Server;
pub use skip::skip;
pub use source::Source;
