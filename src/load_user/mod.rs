//! Authentication of requests: the layer that looks up the session and attaches the user.
//!
//! [`LoadUserLayer`] reads the session cookie and looks the session up with the
//! [`SessionService`](crate::service::SessionService). It attaches the user and the
//! [`CurrentSession`](crate::session::CurrentSession) to the request's extensions. The layer never
//! rejects an anonymous request. To reject these requests, add
//! [`RequireUserLayer`](crate::require_user::RequireUserLayer).
//!
//! | the request | the inner service receives | cost |
//! |---|---|---|
//! | has no session cookie | no user | no query, no allocation |
//! | has a malformed or ambiguous cookie | no user | no query |
//! | has a token without a live session | no user | one lookup |
//! | has a token of a live session | the user and its `CurrentSession` | one lookup |
//! | has a token whose lookup fails | no call: the response is a 503 (gRPC 14) | one lookup |
//!
//! The layer first removes a user and a session of its own user type from the extensions. The user
//! of a request therefore comes only from the store, not from an outer layer.
//!
//! A client cannot distinguish a malformed, ambiguous, unknown, expired or revoked token by the
//! response.
//!
//! # Example
//!
//! ```
//! use http::{Request, Response, header::COOKIE};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_user_session::{LoadUserLayer, SessionService, store::MemorySessionStore};
//!
//! #[derive(Clone)]
//! struct User {
//!     name: &'static str,
//! }
//!
//! async fn greet(request: Request<String>) -> Result<Response<String>, std::convert::Infallible> {
//!     let name = request.extensions().get::<User>().map_or("stranger", |user| user.name);
//!     Ok(Response::new(format!("Hello, {name}")))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemorySessionStore::new();
//! store.add_user(7, User { name: "Ada" });
//! let sessions = SessionService::new(store);
//! let app = ServiceBuilder::new()
//!     .layer(LoadUserLayer::new(sessions.clone()))
//!     .service_fn(greet);
//!
//! let response = app.clone().oneshot(Request::new(String::new())).await?;
//! assert_eq!(response.body(), "Hello, stranger");
//!
//! let request = Request::builder().header(COOKIE, sessions.cookie_for(7).await?);
//! let response = app.oneshot(request.body(String::new())?).await?;
//! assert_eq!(response.body(), "Hello, Ada");
//! # Ok(())
//! # }
//! ```
//!
//! # Caches
//!
//! The layer adds `Vary: Cookie` to every response that can depend on a session, including
//! responses to anonymous requests. With bearer tokens it also adds `Vary: Authorization` (RFC 9110
//! §12.5.5). A cache therefore does not send an anonymous page to a user who is signed in.
//!
//! If the request has a live session, and the inner service set no `Cache-Control`, the layer adds
//! `Cache-Control: private`. A shared cache therefore does not send one user's page to another.
//!
//! Adding these fields allocates memory only if the response's header map has no spare capacity, for
//! example because it is empty.
//!
//! [`without_vary_for_anonymous`](LoadUserLayer::without_vary_for_anonymous) is for static content.
//! [`without_cache_headers`](LoadUserLayer::without_cache_headers) disables both fields. Responses
//! to exempt requests, gRPC responses and upgrades are not changed.
//!
//! # Sign-in pages
//!
//! If a browser opens a page, the layer records the path in the request's extensions.
//! [`RequireUserLayer::sign_in_page`](crate::RequireUserLayer::sign_in_page) uses this path to lead
//! back to the page, also inside a nested router. For other requests, nothing is recorded or
//! allocated.
//!
//! # Order of layers
//!
//! The order from the outside is: tracing, CORS, CSRF, `LoadUserLayer`, `RequireUserLayer`, the
//! handlers. A CORS preflight has no cookie, so the CORS layer must respond first. A request that
//! the CSRF layer rejects then costs no lookup.
//!
//! # Several kinds of users
//!
//! An application can have one service for its staff and another service for its customers. The
//! layers of both services can be on one router, in either order. Each layer needs its own cookie
//! and its own user type.
//!
//! A layer attaches and removes only the user of its type and the
//! [`CurrentSession`](crate::session::CurrentSession) of that user. `RequireUserLayer::<Staff>`
//! reads only the `Staff` user.
//!
//! Two layers for one user type are a mistake, unless both use the same service. The inner layer
//! decides which user the handlers see. If the inner layer finds another session than the outer
//! layer, or no session, it logs an error.
//!
//! # Cancellation
//!
//! Dropping the response future cancels the wait for the lookup. Other requests are not affected,
//! and no connection is left in a state that affects a later lookup.

mod cache_headers;
mod future;
mod layer;
mod original_place;
mod service;
mod span_fields;

pub(crate) use self::original_place::OriginalPlace;
pub use self::{future::ResponseFuture, layer::LoadUserLayer, service::LoadUser};
