//! Sign up, sign in, who am I, sign out: on axum, with pages that work without JavaScript.

mod accounts;
mod internal;
mod layers;
mod pages;

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use example_application::{Application, User};
use tower_user_session::{CurrentSession, CurrentUser, RequireUserLayer};

pub use self::internal::internal;
use self::pages::Page;

/// The whole application. It asks for the client's address: serve it with
/// `into_make_service_with_connect_info::<SocketAddr>()`.
pub fn router(application: Application) -> Router {
    let members_only = RequireUserLayer::<User>::new().rejection_response(pages::sign_in_first);
    let router = Router::new()
        .route("/", get(home))
        .route("/account", get(account).layer(members_only))
        .route("/api/me", get(me))
        .route("/sign-up", get(pages::sign_up).post(accounts::sign_up))
        .route("/sign-in", get(pages::sign_in).post(accounts::sign_in))
        .route("/sign-out", post(accounts::sign_out))
        .route("/style.css", get(style))
        .route("/favicon.ico", get(StatusCode::NO_CONTENT))
        .route("/healthz", get("ok"))
        .fallback(pages::not_found);
    layers::around(router, application.sessions.clone()).with_state(application)
}

async fn home(user: Option<CurrentUser<User>>) -> Page {
    pages::home(user.map(|CurrentUser(user)| user).as_ref())
}

async fn account(CurrentUser(user): CurrentUser<User>, session: CurrentSession) -> Page {
    pages::account(&user, session)
}

/// Answers 401 where nobody is signed in.
async fn me(CurrentUser(user): CurrentUser<User>) -> Json<User> {
    Json(user)
}

async fn style() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=600"),
    ];
    (headers, include_str!("style.css"))
}
