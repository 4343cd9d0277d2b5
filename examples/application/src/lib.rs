//! The code that the examples share: the users table, sign-up, password checks, and the start and
//! stop of a server. The library provides none of it: it begins after the user has been
//! authenticated.
//!
//! An application on the internet also needs a limit on sign-in attempts (`example-axum` has one),
//! a check of the email address, a way to reset a password, and TLS.

mod accounts;
mod activity;
mod application;
mod credentials;
mod passwords;
mod process;
mod user;

/// Shown to a person whose sign-out failed.
pub const SIGNED_OUT_HERE: &str = "You are signed out on this device. The server could not end the \
    session yet, and tries again for a minute.";

/// Creates the users table.
pub const USERS: &str = include_str!("users.sql");

/// Creates the audit trail of the sessions. It is a copy of `migrations/optional/audit_sessions.sql`.
pub const AUDIT: &str = include_str!("audit_sessions.sql");

pub use self::{
    accounts::{AccountError, Accounts, Checked},
    activity::Activity,
    application::{Application, Client, Sessions},
    credentials::{Credentials, PasswordChange},
    process::{listen, overdue, postgres, shutdown, trace},
    user::User,
};
