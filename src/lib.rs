//! *Who is making this request?*
//!
//! Cookie sessions for [`tower`](https://docs.rs/tower), stored in PostgreSQL. A layer reads the
//! session cookie, and the [`SessionService`] looks the user up with **one joined query**. The
//! layer attaches the user to the request's extensions.
//!
//! The layer depends on no web framework. It works under axum, hyper, tonic and every other tower
//! server.
//!
//! ```
//! use axum::{
//!     Router, extract::State, http::{HeaderMap, StatusCode}, response::Redirect,
//!     routing::{get, post},
//! };
//! use tower_user_session::{
//!     BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, RequireUserLayer,
//!     SessionService, SignedIn, SignedOut,
//! };
//!
//! #[derive(Clone, Debug)]
//! struct User {
//!     id: i64,
//!     email: String,
//! }
//!
//! impl PgUser for User {
//!     type Id = i64;
//!     // By default, FROM is "users AS u", and KEY is "u.id".
//!     const COLUMNS: &'static str = "u.id, u.email";
//!
//!     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//!         Ok(User { id: row.user().get("id")?, email: row.user().get("email")? })
//!     }
//! }
//!
//! type Sessions = SessionService<PgSessionStore<User>>;
//!
//! fn app(pool: tower_user_session::deadpool_postgres::Pool) -> Router {
//!     let sessions = Sessions::new(PgSessionStore::new(pool));
//!     Router::new()
//!         .route("/account", get(account).layer(RequireUserLayer::<User>::new()))
//!         .route("/sign-in", post(sign_in))
//!         .route("/sign-out", post(sign_out))
//!         .layer(LoadUserLayer::new(sessions.clone()))
//!         .with_state(sessions)
//! }
//!
//! async fn account(CurrentUser(user): CurrentUser<User>) -> String {
//!     format!("Hello, {}", user.email)
//! }
//!
//! async fn sign_in(
//!     State(sessions): State<Sessions>,
//!     headers: HeaderMap,
//! ) -> axum::response::Result<(SignedIn, Redirect)> {
//!     let user_id = check_password().await.ok_or(StatusCode::UNAUTHORIZED)?;
//!     let signed_in = sessions.sign_in(user_id, &headers).await?;
//!     Ok((signed_in, Redirect::to("/account"))) // the response sets the cookie
//! }
//!
//! async fn sign_out(
//!     State(sessions): State<Sessions>,
//!     headers: HeaderMap,
//! ) -> (SignedOut, Redirect) {
//!     (sessions.sign_out(&headers).await, Redirect::to("/"))
//! }
//! # async fn check_password() -> Option<i64> { Some(7) }
//! ```
//!
//! Without axum, use `request.extensions().get::<User>()` and
//! `signed_in.write_to(response.headers_mut())`.
//!
//! # Where to look
//!
//! | I want to … | call |
//! |---|---|
//! | create a store from a URL | [`PgSessionStore::connect`]; TLS needs the feature `rustls` |
//! | create a store from a pool | [`PgSessionStore::new`] |
//! | create the sessions table | [`PgSessionStore::migrate`] |
//! | verify the database at startup | [`PgSessionStore::check`] |
//! | read my own users table | [`PgUser`] |
//! | attach the user to requests | [`LoadUserLayer`] |
//! | reject requests without a user, or with an old authentication | [`RequireUserLayer`] |
//! | allow only some users | [`RequireUserLayer::allow_if`] |
//! | read the user in a handler | [`CurrentUser`] (axum), or the request's extensions |
//! | sign in (log in) | [`SessionService::sign_in`] |
//! | sign out (log out) | [`SessionService::sign_out`] |
//! | authenticate a user again | [`SessionService::reauthenticate`] |
//! | demand a second factor, or act as a user | [`guide::session_columns`] |
//! | list a user's sessions | [`SessionService::sessions_of`] |
//! | sign out another device | [`SessionService::revoke`] |
//! | sign out everywhere else | [`SessionService::revoke_others`] |
//! | change a password and end the other sessions in one transaction | [`SessionService::revoke_others_in_transaction`](SessionService#method.revoke_others_in_transaction) |
//! | do the same with sqlx, Diesel, SeaORM or `psql` | `SELECT sessions_revoke_others(…)`: see [`guide::sqlx`] and [`Migrate`](postgres::Migrate#functions-for-other-clients) |
//! | reject a sign-in whose password was changed meanwhile | [`SignIn::if_unchanged`](service::SignIn::if_unchanged) |
//! | keep a user signed in when the browser closes | [`SignIn::remember`](service::SignIn::remember) |
//! | set the cookie's name and attributes | [`SessionCookie`](cookie::SessionCookie) |
//! | accept bearer tokens | [`SessionServiceBuilder::bearer_tokens`](service::SessionServiceBuilder::bearer_tokens) |
//! | set the limits of sessions | [`Lifetime`](session::Lifetime), [`SessionLimit`](session::SessionLimit) |
//! | delete expired sessions | [`SessionService::delete_expired_every`] |
//! | end streams and web sockets with their session | [`feed`] |
//! | serve requests without a query | [`SessionService::enable_cache`] |
//! | work behind PgBouncer | [`PgSessionStore::with_transaction_pooling`] |
//! | check the origin of a WebSocket handshake | [`websocket`] |
//! | change the response to a rejected request | [`rejection`] |
//! | test a signed-in request | [`SessionService::cookie_for`], [`MemorySessionStore`](store::MemorySessionStore) (feature `test-util`) |
//! | stop a process | [`SessionService::end_streams`], [`SessionService::close`] |
//! | export metrics | [`SessionService::metrics`], [`metrics`] |
//! | answer a readiness check | [`SessionService::ping`] |
//! | keep sessions in another database | [`store`] |
//!
//! [`guide`] has a page for each task: axum, tonic, hyper, axum-login, OAuth, passkeys, tests, and the
//! users table.
//!
//! # A lookup
//!
//! ```text
//!              request
//!                 │
//!    LoadUser::call
//!                 │  SessionCookie::read        raw bytes; exact name; no decoding, no allocation
//!                 │     no cookie, or not a token ────────────► inner service, without a query
//!                 ▼
//!    SessionService                             digest = SHA-256(token)
//!                 │  the cache, if it is enabled and its feed is connected
//!                 │  otherwise: adds the digest to the batch that has not been sent
//!                 ▼
//!    SessionLookup::find                        one joined query for the batch, in its own task;
//!                 │                             a channel delivers each result
//!                 ▼
//!    live    → user and CurrentSession into the extensions → inner service
//!    absent  → no user (unknown, expired, revoked, disabled: one outcome) → inner service
//!    failed  → 503 (gRPC 14); the inner service is not called
//!                 ▼
//!    RequireUser (on routes that need a user): no user → 401 (gRPC 16)
//! ```
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `postgres` | yes | [`PgSessionStore`]: sessions in PostgreSQL |
//! | `rustls` | | TLS for [`PgPoolBuilder`](crate::postgres::PgPoolBuilder), which creates a pool from a connection URL |
//! | `axum` | | [`CurrentUser`] and other extractors, and `IntoResponseParts`; depends on `axum-core` only |
//! | `serde` | | `Serialize` and `Deserialize` for [`SessionId`](crate::session::SessionId), [`Session`](crate::session::Session), [`SessionTimestamps`](crate::session::SessionTimestamps), [`SessionInfo`](crate::session::SessionInfo) and [`ReturnTo`](crate::require_user::ReturnTo) |
//! | `chrono`, `serde_json`, `time`, `uuid` | | types that [`UserRow::get`](crate::postgres::UserRow::get) can read |
//! | `metrics` | | [`MetricsExporter`](crate::metrics::MetricsExporter): metrics through the `metrics` facade |
//! | `test-util` | | [`MemorySessionStore`](crate::store::MemorySessionStore), and signed-in requests for an application's tests |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
pub mod cookie;
mod deadline;
mod error;
#[cfg(feature = "axum")]
pub mod extract;
pub mod feed;
pub mod guide;
pub mod load_user;
mod log_limit;
mod lookup;
pub mod metrics;
mod outage;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod rejection;
pub mod require_user;
#[cfg(feature = "serde")]
mod rfc3339;
pub mod service;
pub mod session;
pub mod store;
pub mod websocket;

#[cfg(feature = "axum")]
pub use self::extract::CurrentUser;
#[cfg(feature = "postgres")]
pub use self::postgres::{LookupRow, PgSessionStore, PgUser};
pub use self::{
    error::{BoxError, Error, ErrorKind},
    load_user::LoadUserLayer,
    require_user::RequireUserLayer,
    service::{SessionService, SignedIn, SignedOut},
    session::CurrentSession,
};
#[cfg(feature = "postgres")]
pub use {deadpool_postgres, tokio_postgres};

/// Compiles the README's examples.
#[cfg(all(doctest, feature = "axum", feature = "rustls", feature = "test-util"))]
#[doc = include_str!("../README.md")]
struct Readme;
