//! Finds out who is making a request, and attaches the user to it.
//!
//! [`LoadUserLayer`] reads the session cookie, asks the [`SessionService`](crate::SessionService)
//! and puts the user and the [`CurrentSession`](crate::CurrentSession) into the request's
//! extensions. It never turns an anonymous request away: that is
//! [`RequireUserLayer`](crate::RequireUserLayer)'s part.
//!
//! | the request | what the inner service sees | cost |
//! |---|---|---|
//! | has no session cookie | no user | no query, no allocation |
//! | has a malformed or ambiguous one | no user | no query |
//! | has a token of no live session | no user | one lookup |
//! | has a token of a live session | the user and the `CurrentSession` of its type | one lookup |
//! | could not be looked up | nothing: it is answered with 503 (gRPC: 14) | |
//!
//! Whatever the request, a user of the layer's own type, and its session, that something outside put
//! into the extensions are removed first: identity comes from the store alone. A malformed, ambiguous, unknown, expired or revoked
//! cookie looks the same to the client, whatever the inner service answers.
//!
//! # Caches
//!
//! A response to a request with a live session gets `Vary: Cookie`, and `Cache-Control: private`
//! where the inner service set none, so that no shared cache hands one person's page to another.
//! [`without_cache_headers`](LoadUserLayer::without_cache_headers) switches that off. Other
//! responses pass untouched.
//!
//! # Order of layers
//!
//! From the outside in: tracing, CORS, CSRF, `LoadUserLayer`, `RequireUserLayer`, the handlers. A
//! CORS preflight never carries a cookie, so CORS must answer it first; a request that CSRF refuses
//! then costs no lookup.
//!
//! # Several kinds of users
//!
//! An application can have one service for its staff and another one for its customers, with two
//! cookies and two layers on one router, in either order. Each needs a user type of its own. A layer
//! attaches, and removes, only the user of its type and that user's
//! [`CurrentSession`](crate::CurrentSession); `RequireUserLayer::<Staff>` reads no other one's.
//!
//! Two layers for one user type are a mistake unless they are layers of one service. The inner one
//! decides what the handlers see. Where it finds another session than the outer one, or none, it logs
//! an error.
//!
//! # Cancellation
//!
//! Dropping the response future abandons the lookup; nobody else is disturbed, and no connection is
//! left in a state that a later lookup could meet.
//!
//! # Example
//!
//! ```
//! use http::{Request, Response, header::COOKIE};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_user_session::{LoadUserLayer, MemorySessionStore, SessionService};
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

mod future;
mod layer;
mod service;

pub use self::{future::ResponseFuture, layer::LoadUserLayer, service::LoadUser};
