//! An axum application with pages for sign-up, sign-in, the account, the list of sessions, a change
//! of the password and sign-out. The pages work without JavaScript. With JavaScript they show at
//! once that the session has ended.

mod accounts;
mod agent;
mod api;
mod events;
mod internal;
mod layers;
mod metrics;
mod pages;
mod password;
mod sessions;
mod socket;
mod throttle;

use std::time::Duration;

use axum::{
    Extension, Router,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use axum_client_ip::ClientIpSource;
use example_application::{Application, User};
use tower_user_session::{CurrentSession, CurrentUser, RequireUserLayer};

pub use self::internal::internal;
use self::{pages::Page, throttle::Throttle};

/// The maximum age of the authentication for a change of the password.
const PROOF: Duration = Duration::from_secs(5 * 60);

/// Returns the whole application. The address of the client is that of the connection: serve it
/// with `into_make_service_with_connect_info::<SocketAddr>()`.
pub fn router(application: Application) -> Router {
    router_behind(ClientIpSource::ConnectInfo, application)
}

/// Returns the whole application, for a server behind a proxy. `source` names the header in which
/// the proxy sends the address of the client. The proxy must overwrite the header: otherwise a
/// client can choose its address.
pub fn router_behind(source: ClientIpSource, application: Application) -> Router {
    let sessions = &application.sessions;
    let pages = layers::identify(pages(), sessions, pages::cross_site, pages::rejected);
    let api = layers::identify(api::router(), sessions, api::cross_site, api::rejected);
    let router = pages
        .nest("/api", api)
        .layer(Extension(Throttle::new()))
        .layer(source.into_extension());
    layers::around(router).with_state(application)
}

fn pages() -> Router<Application> {
    let members_only = RequireUserLayer::<User>::new()
        .sign_in_page("/sign-in")
        .reauthentication_page("/confirm")
        .rejection_response(pages::rejected);
    let proven = members_only.clone().max_auth_age(PROOF);
    let members = Router::new()
        .route("/account", get(account))
        .route("/sessions", get(sessions::list))
        .route("/sessions/end", post(sessions::end))
        .route("/sessions/end-others", post(sessions::end_others))
        .route("/events", get(events::events))
        .route("/socket", get(socket::socket))
        .route(
            "/confirm",
            get(password::confirm_page).post(password::confirm),
        )
        .route_layer(members_only);
    Router::new()
        .route("/", get(home))
        .merge(members)
        .route(
            "/password",
            get(password::page).post(password::change).layer(proven),
        )
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
        .route("/icon.svg", get(icon))
        .route("/favicon.ico", get(StatusCode::NO_CONTENT))
        .route("/healthz", get("ok"))
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::method_not_allowed)
}

async fn home(
    user: Option<CurrentUser<User>>,
    session: Option<CurrentSession<User>>,
    headers: HeaderMap,
) -> Page {
    let user_agent = headers.get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok());
    match (user, session) {
        (Some(CurrentUser(user)), Some(session)) => pages::overview(&user, session, user_agent),
        _ => pages::landing(),
    }
}

async fn account(CurrentUser(user): CurrentUser<User>, session: CurrentSession<User>) -> Page {
    pages::account(&user, session)
}

async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("style.css"))
}

async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("events.js"))
}

async fn icon() -> impl IntoResponse {
    file("image/svg+xml", include_str!("icon.svg"))
}

fn file(content_type: &'static str, content: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "public, max-age=600"),
    ];
    (headers, content)
}
