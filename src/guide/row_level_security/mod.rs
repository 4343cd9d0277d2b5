//! Row-level security for the application's own tables.
//!
//! PostgreSQL can restrict each statement to the rows of the current user, so that a forgotten
//! `WHERE` reveals nothing. A policy needs to know the user of the request. This guide passes the
//! user's key and session columns as settings of the transaction.
//!
//! This is for tables such as `notes`. Row-level security must not hide rows of the users table and
//! the sessions table from the role of the store: see [`check`](crate::PgSessionStore::check).
//!
//! # Policies
//!
//! ```sql
//! CREATE TABLE notes (
//!     id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
//!     user_id bigint NOT NULL REFERENCES users ON DELETE CASCADE,
//!     org_id bigint NOT NULL REFERENCES orgs ON DELETE CASCADE,
//!     text text NOT NULL
//! );
//! ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
//! CREATE POLICY own ON notes USING (
//!     user_id = nullif(current_setting('app.user_id', true), '')::bigint
//!     AND org_id = nullif(current_setting('app.active_org_id', true), '')::bigint
//! );
//! ```
//!
//! * Without a user, the comparison is null and no row is visible.
//! * **`nullif` is necessary.** A setting that was never set is null. After the end of a transaction
//!   that has set it, the setting is an empty string on that connection. A cast of the empty string
//!   to `bigint` is an error.
//! * `USING` also checks the rows that a statement writes, because there is no `WITH CHECK`.
//! * The owner of the table, superusers and roles with `BYPASSRLS` ignore the policies. Connect with
//!   another role, or use `ALTER TABLE notes FORCE ROW LEVEL SECURITY` for the owner.
//! * A client that can send its own SQL can set any setting. Policies limit the mistakes of an
//!   application, and not an attacker who controls its connection.
//!
//! # Transactions
//!
//! The third argument of `set_config` makes a setting local to the transaction, like `SET LOCAL`:
//!
//! ```
#![doc = include_str!("begin_as.rs")]
//! ```
//!
//! A handler calls it with the user and the session columns of the request:
//!
//! ```no_run
//! use tower_user_session::{BoxError, deadpool_postgres::Pool};
//! # use tower_user_session::tokio_postgres::{Client, Error, Transaction};
//! # async fn begin_as<'a>(client: &'a mut Client, _: i64, _: &[(&str, Option<String>)])
//! #     -> Result<Transaction<'a>, Error> { client.transaction().await }
//! # struct User { id: i64, active_org_id: Option<i64> }
//!
//! async fn notes(pool: &Pool, user: &User) -> Result<Vec<String>, BoxError> {
//!     let mut client = pool.get().await?;
//!     let org = user.active_org_id.map(|id| id.to_string());
//!     let transaction = begin_as(&mut client, user.id, &[("active_org_id", org)]).await?;
//!     let rows = transaction.query("SELECT text FROM notes ORDER BY id", &[]).await?;
//!     transaction.commit().await?;
//!     Ok(rows.iter().map(|row| row.get(0)).collect())
//! }
//! ```
//!
//! Never use `SET` without `LOCAL`, or `set_config` with `false`. The setting would stay on the
//! connection, which the pool lends to the next request.
//!
//! The names must be constants of the application. A name must be valid in a setting: letters,
//! digits and `_`.
//!
//! # Cost
//!
//! A transaction with settings takes three more round trips than a statement alone: `BEGIN`, the
//! settings, and `COMMIT`.
