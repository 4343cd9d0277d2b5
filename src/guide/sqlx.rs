//! An application on sqlx, Diesel or SeaORM.
//!
//! The application keeps its driver for everything but the sessions. Both use one `DATABASE_URL`.
//! The repository's `examples/axum-sqlx` is a whole application, with tests. The fragments of this
//! page are parts of it, and its tests run them.
//!
//! # Start
//!
//! ```toml
//! sqlx = { version = "0.9", features = ["migrate", "postgres", "runtime-tokio", "uuid"] }
//! tower-user-session = { version = "0.1", features = ["axum", "rustls"] }
//! ```
//!
//! sqlx needs its feature `uuid` for the ids of sessions.
//!
//! ```text
//! let database = PgPool::connect(database_url).await?;
//! MIGRATIONS.run(&database).await?;
//! let store = PgSessionStore::connect(database_url).await?;
//! store.check().await?.require_functions()?;
//! let sessions = Sessions::new(store);
//! ```
//!
//! [`check`](crate::PgSessionStore::check) fails if the store cannot work. The store itself does
//! not need the SQL functions. [`require_functions`](crate::postgres::CheckReport::require_functions)
//! fails if one of them is missing.
//!
//! # Migrations
//!
//! `MIGRATIONS` is `sqlx::migrate!()`. Copy `0001_create_sessions.sql` and
//! `0003_revoke_sessions.sql` from the folder `migrations` of this crate behind the migration that
//! creates your users table, and number them as your tool does. `sqlx migrate run` applies them
//! too. Or call [`PgSessionStore::migrate`](crate::PgSessionStore::migrate) after your own
//! migrations.
//!
//! If your users table has another name or key, set it at the top of each copied file, which otherwise
//! runs unchanged:
//!
//! ```sql
//! SET LOCAL tower_user_session.users_table = 'accounts';
//! SET LOCAL tower_user_session.users_key = 'account_id';
//! ```
//!
//! Each file can run again on a table that it has created. If a new version of this crate changes a
//! file, copy the file again as a new migration. Do not edit a copy that was applied: sqlx compares
//! its checksum.
//!
//! # Connections
//!
//! A process needs the connections of its own pool (`max_connections`, 10 by default in sqlx), and
//! five for the sessions: two for lookups, two for writes, and one for
//! [`check`](crate::PgSessionStore::check), a clean-up or a migration. A
//! [feed](crate::PgSessionStore::feed_with) needs one more, and the triggers of
//! `0002_announce_sessions.sql`. Lookups at a distance from the server need up to six more. The
//! server's `max_connections` must cover this sum for all
//! processes.
//!
//! # Ending sessions in your own transaction
//!
//! The migration creates an SQL function for each revocation:
//! [`Migrate`](crate::postgres::Migrate#functions-for-other-clients) lists them. A change of the
//! password that ends the user's other sessions:
//!
//! ```text
//! let mut transaction = application.database.begin().await?;
//! let update = "UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3";
//! let update = sqlx::query(update).bind(&new_hash).bind(id).bind(&old_hash);
//! if update.execute(&mut *transaction).await?.rows_affected() == 0 {
//!     return Err(Failure::Rejected(StatusCode::CONFLICT));
//! }
//! sqlx::query("SELECT sessions_revoke_others($1, $2)")
//!     .bind(id)
//!     .bind(Uuid::from(session.id()))
//!     .execute(&mut *transaction)
//!     .await?;
//! transaction.commit().await?;
//! let signed_in = application.sessions.reauthenticate(id, &headers).await?;
//! ```
//!
//! Every sign-in must state the hash that was verified. A sign-in with the old password then fails,
//! even if the password changes while it is verified:
//!
//! ```text
//! let sign_in = application.sessions.sign_in(id, &headers);
//! let signed_in = sign_in.if_unchanged("u.password_hash", hash).await?;
//! ```
//!
//! Hash the new password before the transaction begins. A sign-in of this user waits for the
//! transaction, and fails with 503 after the
//! [deadline](crate::service::DEFAULT_DEADLINE) (2 s). If `reauthenticate` fails after the commit,
//! the password has changed, and the user signs in again.
//!
//! To create an account and its first session, commit the account, and then call `sign_in`.
//!
//! Begin the transaction at `READ COMMITTED`, the default. A `DELETE` from the sessions table is not
//! enough: it misses the session of a sign-in in progress.
//!
//! In Diesel the call is `diesel::sql_query`, and in SeaORM `Statement::from_sql_and_values`. The SQL
//! functions return the ids of the ended sessions as an array; `sessions_revoke_everyone` returns
//! their number. The result can be ignored.
//!
//! # Tests
//!
//! `#[sqlx::test]` needs a server in `DATABASE_URL` before the tests start. It passes a pool on a
//! database of the test's own. The store connects to the same database:
//!
//! ```text
//! let mut url = Url::parse(database_url)?;
//! url.set_path(pool.connect_options().get_database().unwrap_or_default());
//! let store = PgSessionStore::<User>::connect(url.as_str()).await?;
//! ```
//!
//! [`cookie_for`](crate::SessionService::cookie_for) (feature `test-util`) then signs a user in. See
//! [`testing`](super::testing).
