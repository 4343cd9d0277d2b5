//! Tests of an application.
//!
//! The feature `test-util` belongs into the `dev-dependencies`:
//!
//! ```toml
//! [dev-dependencies]
//! tower-user-session = { version = "0.1", features = ["test-util"] }
//! ```
//!
//! # On a test database
//!
//! Handlers name their store: `State<SessionService<PgSessionStore<User>>>`. A test on a real
//! PostgreSQL therefore needs no change of the application. It also tests your SQL: the columns,
//! the condition, and your own statements in the same transaction as a sign-in.
//!
//! [`cookie_for`](crate::SessionService::cookie_for) signs a user in, and returns the `Cookie`
//! header:
//!
//! ```no_run
//! use std::{process, sync::atomic::{AtomicU32, Ordering::Relaxed}};
//! use axum::{Router, body::Body, http::{Request, StatusCode, header::COOKIE}};
//! use tower::ServiceExt as _;
//! use tower_user_session::{
//!     BoxError, PgSessionStore, SessionService, deadpool_postgres::{Manager, Pool, Runtime},
//!     tokio_postgres::{Config, NoTls},
//! };
//! # use tower_user_session::{LookupRow, PgUser};
//! # #[derive(Clone)]
//! # struct User;
//! # impl PgUser for User {
//! #     type Id = i64;
//! #     const COLUMNS: &'static str = "";
//! #     fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> { Ok(User) }
//! # }
//! # type Sessions = SessionService<PgSessionStore<User>>;
//! # fn app(_: Sessions) -> Router { Router::new() }
//!
//! static DATABASES: AtomicU32 = AtomicU32::new(0);
//!
//! /// A database of its own for each test. It stays: use a server that exists for tests only.
//! async fn test_sessions() -> Result<Sessions, BoxError> {
//!     let mut config: Config = std::env::var("TEST_DATABASE_URL")?.parse()?;
//!     let name = format!("test_{}_{}", process::id(), DATABASES.fetch_add(1, Relaxed));
//!     let (client, connection) = config.connect(NoTls).await?;
//!     tokio::spawn(connection);
//!     client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
//!
//!     config.dbname(name);
//!     let pool = Pool::builder(Manager::new(config, NoTls)).runtime(Runtime::Tokio1).build()?;
//!     // include_str!("../migrations/0001_users.sql"), or your migration tool
//!     let users = "CREATE TABLE users (id bigint PRIMARY KEY); INSERT INTO users VALUES (7)";
//!     pool.get().await?.batch_execute(users).await?;
//!     let store = PgSessionStore::new(pool);
//!     store.migrate().await?;
//!     Ok(SessionService::new(store))
//! }
//!
//! #[tokio::test]
//! # async fn hidden() {} // takes the attribute, so that the next function is compiled
//! async fn the_account_is_for_signed_in_users() -> Result<(), BoxError> {
//!     let sessions = test_sessions().await?;
//!     let app = app(sessions.clone());
//!     let anonymous = Request::get("/account").body(Body::empty())?;
//!     assert_eq!(app.clone().oneshot(anonymous).await?.status(), StatusCode::UNAUTHORIZED);
//!
//!     let cookie = sessions.cookie_for(7).await?;
//!     let request = Request::get("/account").header(COOKIE, cookie).body(Body::empty())?;
//!     assert_eq!(app.oneshot(request).await?.status(), StatusCode::OK);
//!     Ok(())
//! }
//! ```
//!
//! # In memory
//!
//! [`MemorySessionStore`](crate::store::MemorySessionStore) needs no server, and a test can move
//! its clock. An application that is generic over the store, or whose alias for the service changes
//! under `cfg(test)`, can use it:
//!
//! ```
//! use std::time::Duration;
//! use http::HeaderMap;
//! use tower_user_session::{Error, ErrorKind, SessionService, store::MemorySessionStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let sessions = SessionService::new(MemorySessionStore::new());
//! let store = sessions.store();
//! store.add_user(7, "Ada");
//!
//! // Expiry: the default limit is 30 days.
//! let signed_in = sessions.sign_in(7, &HeaderMap::new()).await?;
//! store.advance(Duration::from_secs(31 * 24 * 60 * 60));
//! assert!(sessions.user(signed_in.token()).await?.is_none());
//!
//! // The value of a column, for `if_unchanged`.
//! store.set_column(7, "u.password_hash", "new hash".to_owned());
//! let sign_in = sessions.sign_in(7, &HeaderMap::new());
//! let error = sign_in.if_unchanged("u.password_hash", "old hash".to_owned()).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::UserNotAllowed);
//!
//! // A database that is down.
//! store.set_failing(true);
//! assert!(sessions.sign_in(7, &HeaderMap::new()).await.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # Which store
//!
//! | to test | PostgreSQL | in memory |
//! |---|---|---|
//! | guards, redirects, pages | yes | yes |
//! | sign-in, sign-out, revocation, lists, limits per user | yes | yes |
//! | expiry, without waiting | by an `UPDATE` of the times | [`advance`](crate::store::MemorySessionStore::advance) |
//! | a disabled user | by your own column | [`set_disabled`](crate::store::MemorySessionStore::set_disabled) |
//! | `if_unchanged` | by your own column | [`set_column`](crate::store::MemorySessionStore::set_column) |
//! | an unreachable database | stop the server | [`set_failing`](crate::store::MemorySessionStore::set_failing) |
//! | your `PgUser`, your SQL | yes | no |
//! | `in_transaction`, `revoke_others_in_transaction` | yes | no |
//! | notifications of other processes | yes | no |
