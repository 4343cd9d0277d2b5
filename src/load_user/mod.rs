//! Finds out who is making a request, and attaches the user to it.
//!
//! [`LoadUserLayer`] reads the session cookie, asks the [`SessionService`](crate::service::SessionService)
//! and puts the user and the [`CurrentSession`](crate::session::CurrentSession) into the request's
//! extensions. It never turns an anonymous request away: that is
//! [`RequireUserLayer`](crate::require_user::RequireUserLayer)'s part.
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
//! Every response that a session could have changed gets `Vary: Cookie`, with bearer tokens also
//! `Vary: Authorization` (RFC 9110 §12.5.5): those to anonymous requests too, so that no cache hands the
//! anonymous page to a person who is signed in. A response to a request with a live session gets
//! `Cache-Control: private` as well if the inner service set none, so that no shared cache hands one person's
//! page to another.
//!
//! `Vary` takes a place in the response's header map. That allocates memory only if the map is empty or
//! full. A response with a content type and few other fields has room.
//!
//! [`without_vary_for_anonymous`](LoadUserLayer::without_vary_for_anonymous) is for static content, and
//! [`without_cache_headers`](LoadUserLayer::without_cache_headers) switches all of it off. Responses to exempt
//! requests, gRPC responses and upgrades pass untouched.
//!
//! # Sign-in pages
//!
//! A request that opens a page in a browser carries a copy of its path inwards, in the extensions, so that
//! [`RequireUserLayer::sign_in_page`](crate::RequireUserLayer::sign_in_page) leads back to the page also from
//! inside a nested router. Other anonymous requests carry nothing and cost no allocation.
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
//! [`CurrentSession`](crate::session::CurrentSession); `RequireUserLayer::<Staff>` reads no other one's.
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

mod cache_headers;
mod future;
mod layer;
mod original_place;
mod service;

pub(crate) use self::original_place::OriginalPlace;
pub use self::{future::ResponseFuture, layer::LoadUserLayer, service::LoadUser};
