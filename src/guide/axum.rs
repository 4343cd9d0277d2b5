//! An axum application.
//!
//! The feature `axum` adds the extractors. It depends on `axum-core` alone.
//!
//! # State, layers and guards
//!
//! One [`SessionService`] is the state of the handlers and the argument of the layer. It is cheap
//! to clone. On a `Router`, the layer that is added last is reached first:
//!
//! ```
//! use axum::{Router, extract::State, http::HeaderMap, response::Redirect, routing::{get, post}};
//! use tower_http::csrf::CsrfLayer;
//! use tower_user_session::{
//!     CurrentUser, LoadUserLayer, RequireUserLayer, SessionService, SignedOut,
//! };
//! # use tower_user_session::{BoxError, LookupRow, PgSessionStore, PgUser};
//! # #[derive(Clone)]
//! # struct User { email: String, is_admin: bool }
//! # impl PgUser for User {
//! #     type Id = i64;
//! #     const COLUMNS: &'static str = "u.email, u.is_admin";
//! #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//! #         Ok(User { email: row.user().get("email")?, is_admin: row.user().get("is_admin")? })
//! #     }
//! # }
//!
//! type Sessions = SessionService<PgSessionStore<User>>;
//!
//! fn app(sessions: Sessions) -> Router {
//!     let members_only = RequireUserLayer::<User>::new().sign_in_page("/sign-in");
//!     let admins_only = members_only.clone().allow_if(|user: &User| user.is_admin);
//!     let members = Router::new().route("/account", get(account)).route_layer(members_only);
//!     let admins = Router::new().route("/admin", get(account)).route_layer(admins_only);
//!     Router::new()
//!         .route("/", get(home))
//!         .route("/sign-out", post(sign_out))
//!         .merge(members)
//!         .merge(admins)
//!         .layer(LoadUserLayer::new(sessions.clone())) // reached second
//!         .layer(CsrfLayer::new()) // reached first
//!         .with_state(sessions)
//! }
//!
//! /// The guard has rejected anonymous requests already. Without it, the extractor would.
//! async fn account(CurrentUser(user): CurrentUser<User>) -> String {
//!     format!("Hello, {}", user.email)
//! }
//!
//! async fn home(user: Option<CurrentUser<User>>) -> &'static str {
//!     if user.is_some() { "Welcome back" } else { "Please sign in" }
//! }
//!
//! async fn sign_out(
//!     State(sessions): State<Sessions>, headers: HeaderMap,
//! ) -> (SignedOut, Redirect) {
//!     (sessions.sign_out(&headers).await, Redirect::to("/"))
//! }
//! ```
//!
//! `CsrfLayer` is part of tower-http 0.7. If your stack needs an older tower-http, add the newer
//! one under another name:
//!
//! ```toml
//! tower-http-07 = { package = "tower-http", version = "0.7", features = ["csrf"] }
//! ```
//!
//! If the state is a struct, implement `FromRef` for its [`SessionService`], or extract
//! `State<AppState>` and use its field. `#[derive(FromRef)]` needs axum's feature `macros`.
//!
//! If a signed-in user gets 401, the route is outside of `LoadUserLayer`, or the user types of the
//! layer and the guard differ. Enable events of level `DEBUG` to see the user type that no layer
//! attached.
//!
//! # Sign-in
//!
//! A handler checks the password and returns the [`SignedIn`](crate::SignedIn) as the first part of
//! its response. [`ReturnTo`](crate::require_user::ReturnTo) accepts only a path of this site:
//!
//! ```
//! use axum::{
//!     Form, extract::State,
//!     http::{HeaderMap, StatusCode},
//!     response::{IntoResponse, Redirect, Response, Result},
//! };
//! use tower_user_session::{ErrorKind, SignedIn, require_user::ReturnTo};
//! # use tower_user_session::{BoxError, LookupRow, PgSessionStore, PgUser, SessionService};
//! # #[derive(Clone)]
//! # struct User;
//! # impl PgUser for User {
//! #     type Id = i64;
//! #     const COLUMNS: &'static str = "";
//! #     fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> { Ok(User) }
//! # }
//! # type Sessions = SessionService<PgSessionStore<User>>;
//!
//! #[derive(serde::Deserialize)]
//! struct SignInForm {
//!     email: String,
//!     password: String,
//!     next: Option<String>,
//! }
//!
//! async fn sign_in(
//!     State(sessions): State<Sessions>,
//!     headers: HeaderMap,
//!     Form(form): Form<SignInForm>,
//! ) -> Result<(SignedIn, Redirect)> {
//!     let (user_id, hash) = check_password(&form).await.ok_or(StatusCode::UNAUTHORIZED)?;
//!     let signed_in = sessions
//!         .sign_in(user_id, &headers)
//!         .remember(true)
//!         // The password can change while it is checked.
//!         .if_unchanged("u.password_hash", hash)
//!         .await;
//!     let signed_in = match signed_in {
//!         // The same response as for a wrong password.
//!         Err(error) if error.kind() == ErrorKind::UserNotAllowed => {
//!             return Err(StatusCode::UNAUTHORIZED.into());
//!         }
//!         outcome => outcome?,
//!     };
//!     let next = form.next.as_deref().and_then(ReturnTo::parse);
//!     let next = next.as_ref().map_or("/", ReturnTo::as_str);
//!     Ok((signed_in, Redirect::to(next)))
//! }
//!
//! /// Your own check: returns the user with this email and password, and the hash.
//! async fn check_password(form: &SignInForm) -> Option<(i64, String)> {
//! #   let _ = (&form.email, &form.password);
//!     None
//! }
//! ```
//!
//! # Errors
//!
//! | failure | default response | change it with |
//! |---|---|---|
//! | no user, on a guarded route | 401, or a redirect to the sign-in page | [`RequireUserLayer::sign_in_page`], [`RequireUserLayer::rejection_response`] |
//! | user not allowed | 403 | [`RequireUserLayer::forbidden_page`] |
//! | lookup failed | 503 with `Retry-After` | [`LoadUserLayer::rejection_response`] |
//! | a call of the service failed in a handler | [`Error::status`] | `map_err` |
//!
//! For JSON under `/api` and pages elsewhere, give each of the two routers its own `LoadUserLayer`.
//! [`Rejection`](crate::rejection::Rejection) has the status. `examples/axum` in the repository
//! shows both formats.
//!
//! # Behind a proxy
//!
//! The crate reads the client's address from no header. Take it from the header that your proxy
//! overwrites, and pass it to [`SignIn::ip`](crate::service::SignIn::ip). The crate
//! `axum-client-ip` has an extractor for the header of each proxy.
//!
//! # Shutdown
//!
//! Open streams keep a server from stopping. When the shutdown begins, call
//! [`SessionService::end_streams`]. When the server has stopped, call [`SessionService::close`]:
//!
//! ```no_run
//! # use tower_user_session::{SessionService, store::SessionStore};
//! # async fn shutdown_signal() {}
//! async fn serve<S: SessionStore>(
//!     listener: tokio::net::TcpListener,
//!     app: axum::Router,
//!     sessions: SessionService<S>,
//! ) -> std::io::Result<()> {
//!     let streams = sessions.clone();
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(async move {
//!             shutdown_signal().await;
//!             streams.end_streams();
//!         })
//!         .await?;
//!     sessions.close().await;
//!     Ok(())
//! }
//! ```
//!
//! # Streams and WebSockets
//!
//! [`feed`](crate::feed) ends server-sent events and WebSockets with their session.
//! [`websocket`](crate::websocket) checks the origin of a handshake.
//!
//! [`Error::status`]: crate::Error::status
//! [`LoadUserLayer::rejection_response`]: crate::LoadUserLayer::rejection_response
//! [`RequireUserLayer::forbidden_page`]: crate::RequireUserLayer::forbidden_page
//! [`RequireUserLayer::rejection_response`]: crate::RequireUserLayer::rejection_response
//! [`RequireUserLayer::sign_in_page`]: crate::RequireUserLayer::sign_in_page
//! [`SessionService`]: crate::SessionService
//! [`SessionService::close`]: crate::SessionService::close
//! [`SessionService::end_streams`]: crate::SessionService::end_streams
