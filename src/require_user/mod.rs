//! Turns requests away that nobody is signed in on.
//!
//! [`RequireUserLayer`] looks for the user that [`LoadUserLayer`](crate::load_user::LoadUserLayer), further
//! outside, attached to the request. Where there is none it answers itself: 401, or gRPC status 16
//! to a gRPC request. It asks nobody and allocates nothing for a request that passes.
//!
//! **Without a `LoadUserLayer` for the same user type outside, every request is refused.** Nothing at
//! run time reports a missing layer: [`RequireUserLayer`] shows the order of the layers.
//!
//! It can ask for more: a [condition](RequireUserLayer::allow_if) on the user (403, gRPC status 7),
//! and a [proof of who they are](RequireUserLayer::max_auth_age) that is not too old (401,
//! gRPC status 16). And it can [send a person to the sign-in page](RequireUserLayer::sign_in_page)
//! where a script or another program gets the 401.
//!
//! A CORS preflight (`OPTIONS`) never carries a cookie: put the CORS layer outside this one, so that
//! it answers first.
//!
//! # Example
//!
//! ```
//! use http::{Request, Response, StatusCode, header::COOKIE};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_user_session::{
//!     LoadUserLayer, RequireUserLayer, SessionService, store::MemorySessionStore,
//! };
//!
//! async fn account(_: Request<String>) -> Result<Response<String>, std::convert::Infallible> {
//!     Ok(Response::new("Your balance".to_owned()))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemorySessionStore::new();
//! store.add_user(7, "Ada");
//! let sessions = SessionService::new(store);
//! let app = ServiceBuilder::new()
//!     .layer(LoadUserLayer::new(sessions.clone()))
//!     .layer(RequireUserLayer::<&str>::new())
//!     .service_fn(account);
//!
//! let response = app.clone().oneshot(Request::new(String::new())).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//!
//! let request = Request::builder().header(COOKIE, sessions.cookie_for(7).await?);
//! let response = app.oneshot(request.body(String::new())?).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```

mod future;
mod guard;
mod layer;
mod return_to;
mod service;

pub use self::{
    future::ResponseFuture, layer::RequireUserLayer, return_to::ReturnTo, service::RequireUser,
};
