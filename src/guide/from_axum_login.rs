//! From axum-login and tower-sessions.
//!
//! # Concepts
//!
//! | axum-login, tower-sessions | this crate |
//! |---|---|
//! | `AuthUser` | your user type, with [`PgUser`] |
//! | `AuthnBackend::get_user` | [`PgUser::from_row`], part of the one query |
//! | `AuthnBackend::authenticate`, `Credentials` | your own function that checks the password |
//! | `AuthSession::login(&user)` | [`sessions.sign_in(user_id, &headers)`](crate::SessionService::sign_in); return the [`SignedIn`](crate::SignedIn) |
//! | `AuthSession::logout()` | [`sessions.sign_out(&headers)`](crate::SessionService::sign_out); return the [`SignedOut`](crate::SignedOut) |
//! | `AuthSession` as an extractor, `.user` | [`CurrentUser<User>`](crate::CurrentUser), `Option<CurrentUser<User>>` |
//! | `login_required!(Backend, login_url = "/login")` | [`RequireUserLayer::<User>::new().sign_in_page("/login")`](crate::RequireUserLayer::sign_in_page) |
//! | `AuthzBackend`, `permission_required!` | [`allow_if`](crate::RequireUserLayer::allow_if), [`allow_request_if`](crate::RequireUserLayer::allow_request_if) |
//! | `session_auth_hash` | [`if_unchanged`](crate::service::SignIn::if_unchanged) at sign-in, and [`revoke_others_in_transaction`](crate::SessionService::revoke_others_in_transaction) at the change of the password |
//! | `AuthManagerLayer`, `SessionManagerLayer` | [`LoadUserLayer`](crate::LoadUserLayer) |
//! | `Expiry::OnSessionEnd` | the default; [`remember(true)`](crate::service::SignIn::remember) for a cookie that outlives the browser |
//! | `Expiry::OnInactivity` | [`Lifetime::with_idle`](crate::session::Lifetime::with_idle) |
//! | `Expiry::AtDateTime` | [`Lifetime::absolute`](crate::session::Lifetime::absolute), [`max_lifetime`](crate::service::SignIn::max_lifetime) |
//! | `Session::cycle_id()` | each sign-in and each [`reauthenticate`](crate::SessionService::reauthenticate) issues a new token |
//! | `continuously_delete_expired` | [`delete_expired_every`](crate::SessionService::delete_expired_every) |
//! | `MemoryStore` in tests | [`MemorySessionStore`](crate::store::MemorySessionStore), or a [test database](crate::guide::testing) |
//! | `Session::insert`, `Session::get` | a column or a table of yours, see [below](#what-to-keep-tower-sessions-for) |
//!
//! A list of a user's sessions is [`sessions_of`](crate::SessionService::sessions_of). To sign a
//! user out everywhere, call [`revoke_all`](crate::SessionService::revoke_all).
//!
//! # The handlers
//!
//! With axum-login:
//!
//! ```text
//! async fn sign_in(
//!     mut auth: AuthSession<Backend>, Form(form): Form<Credentials>,
//! ) -> impl IntoResponse {
//!     match auth.authenticate(form).await {
//!         Ok(Some(user)) => match auth.login(&user).await {
//!             Ok(()) => Redirect::to("/").into_response(),
//!             Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
//!         },
//!         Ok(None) => StatusCode::UNAUTHORIZED.into_response(),
//!         Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
//!     }
//! }
//! ```
//!
//! With this crate:
//!
//! ```
//! # use axum::{Form, extract::State, http::{HeaderMap, StatusCode}, response::{Redirect, Result}};
//! # use tower_user_session::{SessionService, SignedIn, store::MemorySessionStore};
//! # #[derive(Clone)] struct User;
//! # type Sessions = SessionService<MemorySessionStore<i64, User>>;
//! # #[derive(serde::Deserialize)] struct Credentials {}
//! # async fn authenticate(_: Credentials) -> Result<Option<i64>> { Ok(None) }
//! async fn sign_in(
//!     State(sessions): State<Sessions>,
//!     headers: HeaderMap,
//!     Form(form): Form<Credentials>,
//! ) -> Result<(SignedIn, Redirect)> {
//!     let user_id = authenticate(form).await?.ok_or(StatusCode::UNAUTHORIZED)?;
//!     Ok((sessions.sign_in(user_id, &headers).await?, Redirect::to("/")))
//! }
//! # let _: axum::routing::MethodRouter<Sessions> = axum::routing::post(sign_in);
//! ```
//!
//! The user type no longer needs the password hash: the change of a password ends the sessions
//! itself.
//!
//! # Move the users
//!
//! The two stacks have different tables and cookies, so both can run in one process. The cookies
//! have the names `id` (the default of tower-sessions) and `__Host-session`.
//!
//! **Everyone signs in again** is the simple way: deploy, and drop the old table later.
//!
//! **Users stay signed in** needs a bridge for some weeks. Put it inside both stacks' layers. If a
//! navigation has only an old session, the bridge begins a new one for the same user:
//!
//! ```
//! use axum::{
//!     extract::{Request, State},
//!     http::{Method, request::Parts},
//!     middleware::Next,
//!     response::{IntoResponse, Redirect, Response, Result},
//! };
//! use tower_user_session::{CurrentUser, SessionService, require_user::ReturnTo};
//! # use tower_user_session::store::MemorySessionStore;
//! # #[derive(Clone)] struct User;
//! # type Sessions = SessionService<MemorySessionStore<i64, User>>;
//!
//! async fn bridge(
//!     State(sessions): State<Sessions>,
//!     user: Option<CurrentUser<User>>,
//!     request: Request,
//!     next: Next,
//! ) -> Result<Response> {
//!     let (head, body) = request.into_parts();
//!     let here = ReturnTo::from_uri(&head.uri);
//!     if let (None, &Method::GET, Some(here)) = (user, &head.method, here)
//!         && let Some(user_id) = take_old_session(&head).await
//!     {
//!         let signed_in = sessions.sign_in(user_id, &head.headers).remember(true).await?;
//!         return Ok((signed_in, Redirect::to(here.as_str())).into_response());
//!     }
//!     Ok(next.run(Request::from_parts(head, body)).await)
//! }
//!
//! /// Deletes the old session, and returns its user.
//! async fn take_old_session(head: &Parts) -> Option<i64> {
//!     // With axum-login:
//!     //   let mut auth = head.extensions.get::<AuthSession<Backend>>()?.clone();
//!     //   auth.logout().await.ok()?.map(|user| user.id())
//! #   let _ = head;
//!     None
//! }
//! # let sessions = SessionService::new(MemorySessionStore::<i64, User>::new());
//! # let _: axum::Router<Sessions> = axum::Router::new()
//! #     .layer(axum::middleware::from_fn_with_state(sessions, bridge));
//! ```
//!
//! The bridge must **delete** the old session. Otherwise a sign-out ends only the new session, and
//! the old one signs the user in again. Remove the bridge after the longest lifetime of an old
//! session.
//!
//! # What to keep tower-sessions for
//!
//! This crate creates no row for an anonymous visitor. Keep tower-sessions beside it for data that
//! exists before a sign-in: a cart, flash messages, a multi-page form. Neither layer depends on the
//! other, and a response can set both cookies. Keep nothing in it that decides who the user is.
//!
//! Data of a signed-in user belongs to a table of yours, by the user's key or by the
//! [`SessionId`](crate::session::SessionId). With the session's id, a foreign key to the table of
//! sessions with `ON DELETE CASCADE` deletes the data when the session is deleted.
//!
//! [`PgUser`]: crate::PgUser
//! [`PgUser::from_row`]: crate::PgUser::from_row
