//! What the examples share: the users' table, signing up, checking a password, and starting and
//! stopping a server. None of it is the library's business, which begins where it is known who
//! somebody is.
//!
//! An application on the internet needs what is left out here: a limit on attempts to sign in, a
//! way to confirm an e-mail address and to reset a password, and TLS.

mod accounts;
mod application;
mod credentials;
mod passwords;
mod process;
mod user;

pub use self::{
    accounts::{AccountError, Accounts},
    application::{Application, Client, Sessions},
    credentials::{Credentials, PasswordChange},
    process::{listen, overdue, postgres, shutdown, trace},
    user::User,
};
