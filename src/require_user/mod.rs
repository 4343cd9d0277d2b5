//! Rejection of unauthenticated requests.
//!
//! [`RequireUserLayer`] requires the user that an outer
//! [`LoadUserLayer`](crate::load_user::LoadUserLayer) attached to the request. If there is no user,
//! the layer responds with 401, or with gRPC status 16 to a gRPC request. The layer makes no query,
//! and allocates nothing for a request that passes.
//!
//! **Without an outer `LoadUserLayer` for the same user type, every request is rejected.** To find
//! a missing layer, enable events of level `DEBUG`: each rejected
//! request logs the user type that no layer attached. The page of [`RequireUserLayer`] shows the order of the layers.
//!
//! | setting | effect |
//! |---|---|
//! | [`allow_if`](RequireUserLayer::allow_if) | rejects users who do not meet a condition: 403, gRPC status 7 |
//! | [`max_auth_age`](RequireUserLayer::max_auth_age) | rejects a user whose last authentication is too old: 401, gRPC status 16 |
//! | [`sign_in_page`](RequireUserLayer::sign_in_page) | redirects a browser's navigation to a page instead of the 401 |
//! | [`rejection_response`](RequireUserLayer::rejection_response) | sets the response |
//!
//! A CORS preflight (`OPTIONS`) has no cookie. Put the CORS layer outside this layer. The CORS
//! layer then responds first.
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
