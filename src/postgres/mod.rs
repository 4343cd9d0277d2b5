//! Session store and invalidation feed for PostgreSQL.
//!
//! # Session columns
//!
//! The application can add its own columns to the sessions table. The lookup returns them with the
//! user, in the same statement. Add them by a migration of the application, and name them in
//! [`PgUser::SESSION_COLUMNS`]:
//!
//! ```sql
//! ALTER TABLE sessions
//!     ADD COLUMN active_org_id bigint REFERENCES orgs ON DELETE SET NULL,
//!     ADD COLUMN factors text[] NOT NULL DEFAULT '{password}';
//! ```
//!
//! ```no_run
//! use tower_user_session::{BoxError, LookupRow, PgUser};
//!
//! #[derive(Clone)]
//! struct User {
//!     id: i64,
//!     org: Option<String>,
//!     factors: Vec<String>,
//! }
//!
//! impl PgUser for User {
//!     type Id = i64;
//!     const SESSION_COLUMNS: &'static [&'static str] = &["active_org_id", "factors"];
//!     const COLUMNS: &'static str = "u.id, o.name AS org";
//!     const FROM: &'static str =
//!         "users AS u LEFT JOIN orgs AS o ON o.id = live_session.active_org_id";
//!     // A session in a suspended organization is rejected.
//!     const CONDITION: &'static str = "o.suspended_at IS NULL";
//!
//!     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//!         Ok(User {
//!             id: row.user().get("id")?,
//!             org: row.user().get("org")?,
//!             factors: row.session().get("factors")?,
//!         })
//!     }
//! }
//! ```
//!
//! [`SignIn::set`](crate::service::SignIn::set),
//! [`Reauthenticate::set`](crate::service::Reauthenticate::set) and
//! [`SessionService::update`](crate::SessionService::update) write the columns. Re-authentication
//! keeps the values that it does not set. The role needs `SELECT` on the columns, and `INSERT` and
//! `UPDATE` on the columns that it sets.
//!
//! * When a user signs in, there is no session yet. In `live_session`, a column has the value that
//!   the sign-in sets. Other columns are null there, even if they have a default.
//! * [`PgUser::FROM`] must find the user also if all session columns are null. Use `LEFT JOIN` for a
//!   join with `live_session`. Otherwise sign-ins fail with
//!   [`ErrorKind::Configuration`](crate::ErrorKind::Configuration).
//! * An update and a re-authentication evaluate [`PgUser::CONDITION`] with the values before the
//!   change. If the condition does not hold with the new values, the next lookup rejects the
//!   session.
//! * An unqualified name in [`PgUser::COLUMNS`] and [`PgUser::CONDITION`] is a column of a table in
//!   [`PgUser::FROM`]. It is a session column only if these tables have no such column.
//! * A cached result contains the values. An update by this crate or by another program invalidates
//!   the result. The trigger of [`Migrate::notify_on_revocation`] announces every change of a
//!   session except its last use.
//! * A change in a joined table, such as `orgs`, is not announced. The cache and open streams see
//!   the change within the
//!   [re-check interval](crate::service::SessionServiceBuilder::recheck_interval).
//! * Neither this crate nor the driver logs a value. PostgreSQL's own log contains values if it logs
//!   parameters.

#[cfg(test)]
mod boundaries;
mod check;
mod connect;
mod connection;
mod connection_set;
mod connections;
mod connector;
mod counters;
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
mod session_values;
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
    session_values::SessionValues,
    store::PgSessionStore,
    transaction::SignInConditions,
    user::{LookupRow, PgUser, SessionRow, UserRow},
};
