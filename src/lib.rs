//! *Who is making this request?*
//!
//! A [`tower`](https://docs.rs/tower) layer reads the session cookie, asks the [`SessionService`],
//! which turns the token into the user with **one joined PostgreSQL query**, and attaches the user to
//! the request's extensions. It works under axum, hyper, tonic and every other tower server, because
//! its HTTP half knows no framework.
//!
//! ```
//! use axum::{Router, extract::State, http::HeaderMap, response::Redirect, routing::{get, post}};
//! use tower_user_session::{
//!     BoxError, CurrentUser, Error, LoadUserLayer, LookupRow, PgSessionStore, PgUser,
//!     RequireUserLayer, SessionService, SignedIn, SignedOut,
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
//!     const COLUMNS: &'static str = "u.id, u.email"; // FROM is "users AS u" and KEY "u.id" by default
//!
//!     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//!         Ok(User { id: row.user().get("id")?, email: row.user().get("email")? })
//!     }
//! }
//!
//! type Sessions = SessionService<PgSessionStore<User>>;
//!
//! fn app(pool: deadpool_postgres::Pool) -> Router {
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
//! ) -> Result<(SignedIn, Redirect), axum::http::StatusCode> {
//!     let user_id = check_password().await?;
//!     let signed_in = sessions.sign_in(user_id, &headers).await.map_err(unavailable)?;
//!     Ok((signed_in, Redirect::to("/account")))
//! }
//!
//! async fn sign_out(State(sessions): State<Sessions>, headers: HeaderMap) -> (SignedOut, Redirect) {
//!     (sessions.sign_out(&headers).await, Redirect::to("/"))
//! }
//! # async fn check_password() -> Result<i64, axum::http::StatusCode> { Ok(7) }
//! # fn unavailable(_: Error) -> axum::http::StatusCode { axum::http::StatusCode::SERVICE_UNAVAILABLE }
//! ```
//!
//! Nothing here needs axum: elsewhere it is `request.extensions().get::<User>()` and
//! `signed_in.write_to(response.headers_mut())`.
//!
//! # A request's way
//!
//! ```text
//!              request
//!                 │
//!    LoadUser::call
//!                 │  SessionCookie::read          raw bytes; exact name; no decoding, no allocation
//!                 │     no cookie, or not a token ─────────────► inner service: no query
//!                 ▼
//!    SessionService                               digest = SHA-256(token)
//!                 │  the cache, where one is switched on and its feed hears
//!                 │  else: joins the batch that has not been sent yet
//!                 ▼
//!    SessionLookup::find                          one joined query for the whole batch, in a task of
//!                 │                               its own; the answer comes back over a channel
//!                 ▼
//!    found          → user and CurrentSession into the extensions → inner service
//!    not found      → anonymous (unknown, expired, revoked, disabled: one outcome) → inner service
//!    could not know → 503 (gRPC 14); the inner service is never called
//!                 ▼
//!    RequireUser (where a route asks for it): no user → 401, gRPC 16
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `postgres` | yes | [`PgSessionStore`]: sessions in PostgreSQL |
//! | `rustls` | | [`PgPoolBuilder`](crate::postgres::PgPoolBuilder): a pool from a connection URL, with TLS towards every other host |
//! | `axum` | | [`CurrentUser`] and other extractors, and `IntoResponseParts`, on `axum-core` alone |
//! | `serde` | | `Serialize` and `Deserialize` for [`SessionId`](crate::session::SessionId), [`Session`](crate::session::Session), [`SessionTimestamps`](crate::session::SessionTimestamps), [`SessionInfo`](crate::session::SessionInfo) and [`ReturnTo`](crate::require_user::ReturnTo) |
//! | `chrono`, `serde_json`, `time`, `uuid` | | types that [`UserRow::get`](crate::postgres::UserRow::get) can read; see there |
//! | `test-util` | | [`MemorySessionStore`](crate::store::MemorySessionStore), and a signed-in request for an application's tests |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
pub mod cookie;
mod deadline;
mod error;
#[cfg(feature = "axum")]
pub mod extract;
pub mod feed;
pub mod load_user;
mod log_limit;
mod lookup;
mod metrics;
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

/// Compiles what the README shows.
#[cfg(all(doctest, feature = "axum", feature = "rustls", feature = "test-util"))]
#[doc = include_str!("../README.md")]
struct Readme;
