//! Sign-in with a link that is sent by email. The example writes the link to the log instead.
//!
//! ```sh
//! cargo run --manifest-path examples/email-link/Cargo.toml
//! ```
//!
//! | step | why |
//! |---|---|
//! | `POST /links` creates a link and always responds in the same way | the response does not tell which addresses have an account |
//! | `GET /link` shows a button | programs that scan mail open links, but they press no button |
//! | `POST /link` consumes the link and signs in, in one transaction | a link works once |
//!
//! On the internet, also limit the number of links for each client, and use the default cookie,
//! which needs TLS.

mod links;
mod pages;

use std::time::Duration;

use axum::{
    Form, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use example_application::{listen, postgres, shutdown, trace};
use serde::Deserialize;
use tower_http::csrf::CsrfLayer;
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, SessionService,
    SignedIn, SignedOut,
    cookie::SessionCookie,
    deadpool_postgres::{Manager, Pool, Runtime},
    tokio_postgres::NoTls,
};

use crate::pages::Page;

#[derive(Clone, Debug)]
struct User {
    email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.email";
    const FROM: &'static str = "link_users AS u";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(User {
            email: row.user().get("email")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

/// How long a request waits for a connection before it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let pool = Pool::builder(Manager::new(postgres.config(), NoTls))
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(LONGEST_WAIT))
        .create_timeout(Some(LONGEST_WAIT))
        .build()?;
    pool.get()
        .await?
        .batch_execute(include_str!("tables.sql"))
        .await?;
    let store = PgSessionStore::new(pool).with_table("link_sessions");
    store.migrate().users_table("link_users").await?;
    store.check().await?;
    let cookie = SessionCookie::insecure_for_local_development();
    let sessions = Sessions::builder(store).cookie(cookie).build()?;

    let listener = listen("ADDR", "127.0.0.1:3000").await?;
    tracing::info!("open http://{} in a browser", listener.local_addr()?);
    axum::serve(listener, router(sessions.clone()))
        .with_graceful_shutdown(shutdown())
        .await?;
    sessions.close().await;
    Ok(())
}

fn router(sessions: Sessions) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/links", post(send))
        .route("/link", get(confirm).post(redeem))
        .route("/sign-out", post(sign_out))
        .route("/style.css", get(style))
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(CsrfLayer::new())
        .with_state(sessions)
}

async fn home(user: Option<CurrentUser<User>>) -> Page {
    match user {
        Some(user) => pages::signed_in(&user.email),
        None => pages::form(None),
    }
}

#[derive(Deserialize)]
struct Address {
    email: String,
}

async fn send(
    State(sessions): State<Sessions>,
    headers: HeaderMap,
    Form(Address { email }): Form<Address>,
) -> Result<Page, Response> {
    let email = email.trim().to_lowercase();
    if !email.contains('@') || email.len() > 254 {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, pages::form(Some(&email))).into_response());
    }
    let token = links::create(sessions.store().pool(), &email).await;
    if let Some(token) = token.map_err(|error| failed(&error))? {
        // A real application sends an email, and takes the host from its configuration. The `Host`
        // header is the client's.
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let link = format!(
            "http://{}/link?token={}",
            host.unwrap_or_default(),
            token.expose()
        );
        tracing::info!(email, link, "the email with the sign-in link");
    }
    Ok(pages::sent(&email))
}

#[derive(Deserialize)]
struct Link {
    token: String,
}

/// Shows a button only. A `GET` must not consume the link.
async fn confirm(Query(Link { token }): Query<Link>) -> Page {
    pages::confirm(&token)
}

async fn redeem(
    State(sessions): State<Sessions>,
    headers: HeaderMap,
    Form(Link { token }): Form<Link>,
) -> Result<(SignedIn, Redirect), Response> {
    let redeemed = links::redeem(&sessions, &token, &headers).await;
    match redeemed.map_err(|error| failed(&error))? {
        Some(signed_in) => Ok((signed_in, Redirect::to("/"))),
        None => Err((StatusCode::GONE, pages::gone()).into_response()),
    }
}

async fn sign_out(State(sessions): State<Sessions>, headers: HeaderMap) -> (SignedOut, Redirect) {
    (sessions.sign_out(&headers).await, Redirect::to("/"))
}

/// The client does not learn the cause.
fn failed(error: &BoxError) -> Response {
    tracing::error!(error, "a request failed");
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

async fn style() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (headers, include_str!("../../axum/src/style.css"))
}
