//! An axum application with pages for sign-up, sign-in, the account, the list of sessions, a change
//! of the password and sign-out. The pages work without JavaScript. With JavaScript they show at
//! once that the session has ended.

mod accounts;
mod devices;
mod events;
mod internal;
mod layers;
mod pages;
mod password;
mod socket;

use std::time::Duration;

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

/// The maximum age of the authentication for a change of the password.
const PROOF: Duration = Duration::from_secs(5 * 60);

/// Returns the whole application. It extracts the client's address: serve it with
/// `into_make_service_with_connect_info::<SocketAddr>()`.
pub fn router(application: Application) -> Router {
    let members_only = RequireUserLayer::<User>::new()
        .sign_in_page("/sign-in")
        .reauthentication_page("/confirm")
        .rejection_response(pages::sign_in_first);
    let proven = members_only.clone().max_auth_age(PROOF);
    let router = Router::new()
        .route("/", get(home))
        .route("/account", get(account).layer(members_only.clone()))
        .route("/devices", get(devices::list).layer(members_only.clone()))
        .route("/events", get(events::events).layer(members_only.clone()))
        .route("/socket", get(socket::socket).layer(members_only.clone()))
        .route(
            "/devices/end",
            post(devices::end).layer(members_only.clone()),
        )
        .route(
            "/devices/end-others",
            post(devices::end_others).layer(members_only.clone()),
        )
        .route(
            "/confirm",
            get(password::reauthentication_page)
                .post(password::reauthenticate)
                .layer(members_only),
        )
        .route(
            "/password",
            get(password::page).post(password::change).layer(proven),
        )
        .route("/api/me", get(me))
        .route(
            "/sign-up",
            get(accounts::sign_up_page).post(accounts::sign_up),
        )
        .route(
            "/sign-in",
            get(accounts::sign_in_page).post(accounts::sign_in),
        )
        .route("/sign-out", post(accounts::sign_out))
        .route("/style.css", get(style))
        .route("/events.js", get(script))
        .route("/favicon.ico", get(StatusCode::NO_CONTENT))
        .route("/healthz", get("ok"))
        .fallback(pages::not_found);
    layers::around(router, application.sessions.clone()).with_state(application)
}

async fn home(user: Option<CurrentUser<User>>) -> Page {
    pages::home(user.map(|CurrentUser(user)| user).as_ref())
}

async fn account(CurrentUser(user): CurrentUser<User>, session: CurrentSession<User>) -> Page {
    pages::account(&user, session)
}

/// Responds with 401 to an anonymous request.
async fn me(CurrentUser(user): CurrentUser<User>) -> Json<User> {
    Json(user)
}

async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("style.css"))
}

async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("events.js"))
}

fn file(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "public, max-age=600"),
    ];
    (headers, content)
}
