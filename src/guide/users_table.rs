//! Your users table.
//!
//! [`PgUser`](crate::PgUser) describes it with SQL expressions. The library never creates and never
//! changes it. Call [`check`](crate::PgSessionStore::check) when the process starts: it executes
//! the statement, reads one user, and names each problem.
//!
//! # Types
//!
//! [`UserRow`](crate::postgres::UserRow#types) has the table of SQL types, Rust types and features.
//! Cast every other type in `COLUMNS`, such as an enum or `numeric`. Behind a transaction pooler, also
//! cast `citext`:
//!
//! ```
//! use std::str::FromStr;
//! use tower_user_session::{BoxError, LookupRow, PgUser};
//!
//! // CREATE TYPE plan AS ENUM ('free', 'paid');
//! // CREATE TABLE users (
//! //     id uuid PRIMARY KEY, email citext NOT NULL UNIQUE, plan plan NOT NULL,
//! //     settings jsonb NOT NULL, deleted_at timestamptz
//! // );
//! #[derive(Clone, Copy)]
//! enum Plan { Free, Paid }
//!
//! impl FromStr for Plan {
//!     type Err = BoxError;
//!
//!     fn from_str(text: &str) -> Result<Self, BoxError> {
//!         match text {
//!             "free" => Ok(Plan::Free),
//!             "paid" => Ok(Plan::Paid),
//!             _ => Err(format!("unknown plan: {text}").into()), // fails the lookup: 503
//!         }
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct User { id: uuid::Uuid, email: String, plan: Plan, theme: Option<String> }
//!
//! # #[cfg(feature = "uuid")]
//! impl PgUser for User {
//!     type Id = uuid::Uuid; // with the feature `uuid`
//!     const COLUMNS: &'static str =
//!         "u.id, u.email::text AS email, u.plan::text AS plan, u.settings->>'theme' AS theme";
//!     const CONDITION: &'static str = "u.deleted_at IS NULL";
//!
//!     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//!         let user = row.user();
//!         Ok(User {
//!             id: user.get("id")?,
//!             email: user.get("email")?,
//!             plan: user.get::<&str>("plan")?.parse()?,
//!             theme: user.get("theme")?,
//!         })
//!     }
//! }
//! ```
//!
//! Select only what nearly every request needs, because every lookup reads it. The password's hash
//! is needed at sign-in only.
//!
//! # Who may sign in
//!
//! `CONDITION` is checked at sign-in and at every later request. The next request of an account that
//! was deleted or blocked is anonymous. The account is signed in again if the condition is true
//! again. To end the sessions for good, also call
//! [`revoke_all`](crate::SessionService::revoke_all).
//!
//! # Roles
//!
//! A subquery yields the roles as an array, so that there is one row for each user. A guard checks
//! them:
//!
//! ```
//! use tower_user_session::{BoxError, LookupRow, PgUser, RequireUserLayer};
//!
//! #[derive(Clone)]
//! struct User { id: i64, roles: Vec<String> }
//!
//! impl PgUser for User {
//!     type Id = i64;
//!     const COLUMNS: &'static str = "u.id, ARRAY(
//!         SELECT r.name FROM user_roles AS r WHERE r.user_id = u.id ORDER BY r.name
//!     ) AS roles";
//!
//!     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//!         Ok(User { id: row.user().get("id")?, roles: row.user().get("roles")? })
//!     }
//! }
//!
//! fn requires(role: &'static str) -> RequireUserLayer<User> {
//!     RequireUserLayer::new()
//!         .allow_if(move |user: &User| user.roles.iter().any(|name| name == role))
//! }
//! # let _ = requires("editor");
//! ```
//!
//! With the cache, a change of `user_roles` is not announced, because only the users table has a
//! trigger. Update a column of the user in the same transaction, for example
//! `users.roles_changed_at`, or accept the [re-check interval](crate::feed::DEFAULT_RECHECK_INTERVAL).
//!
//! # Tenants
//!
//! **One table for all tenants:** select the tenant, and compare it with the tenant of the request.
//! A user of another tenant is signed in there, and not here:
//!
//! ```
//! # use http::{header::HOST, request::Parts};
//! # use tower_user_session::RequireUserLayer;
//! # struct User { tenant: String }
//! fn of_this_tenant() -> RequireUserLayer<User> {
//!     RequireUserLayer::new().allow_request_if(|user: &User, head: &Parts| {
//!         // HTTP/1 has the host in the header, and HTTP/2 in the URI.
//!         let header = head.headers.get(HOST).and_then(|host| host.to_str().ok());
//!         let host = head.uri.host().or(header);
//!         host.and_then(|host| host.split('.').next()) == Some(&*user.tenant)
//!     })
//! }
//! # let _ = of_this_tenant();
//! ```
//!
//! **One schema for each tenant:** each has its own users and its own sessions. `FROM` is a
//! constant, so the schema comes from the connection's `search_path`, with one pool and one store
//! for each tenant:
//!
//! ```no_run
//! use tower_user_session::{
//!     Error, PgSessionStore, PgUser, deadpool_postgres::{Manager, Pool, Runtime},
//!     tokio_postgres::{Config, NoTls},
//! };
//!
//! /// `schema` must be a name from your own list of tenants.
//! async fn store_of<U: PgUser>(
//!     config: &Config, schema: &str,
//! ) -> Result<PgSessionStore<U>, Error> {
//!     let mut config = config.clone();
//!     config.options(format!("-c search_path={schema}"));
//!     let pool = Pool::builder(Manager::new(config, NoTls))
//!         .runtime(Runtime::Tokio1)
//!         .max_size(4)
//!         .build()
//!         .map_err(|error| Error::new(tower_user_session::ErrorKind::Configuration, error))?;
//!     let store = PgSessionStore::new(pool).with_schema(schema);
//!     store.migrate().users_table(format!("{schema}.users")).await?;
//!     store.check().await?;
//!     Ok(store)
//! }
//! ```
//!
//! Give each tenant its own host name: the cookie with the prefix `__Host-` belongs to one host.
//! Each store needs connections of its own, so many tenants fit one table better.
