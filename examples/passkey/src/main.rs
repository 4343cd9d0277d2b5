//! Sign-in with passkeys.
//!
//! ```sh
//! cargo run --manifest-path examples/passkey/Cargo.toml
//! ```
//!
//! Open <http://localhost:3000>: a passkey belongs to a host name, and browsers allow `localhost`
//! without TLS. On the internet, use the default cookie, which needs TLS, and your own host name.

mod ceremonies;
mod passkeys;

use std::{env, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{ErrorResponse, IntoResponse, Redirect},
    routing::{get, post},
};
use example_application::{listen, postgres, shutdown, trace};
use maud::{DOCTYPE, Markup, html};
use tower_http::csrf::CsrfLayer;
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, SessionService,
    SignedOut,
    cookie::SessionCookie,
    deadpool_postgres::{Manager, Pool, Runtime},
    tokio_postgres::NoTls,
};
use uuid::Uuid;
use webauthn_rs::{Webauthn, WebauthnBuilder, prelude::Url};

use crate::ceremonies::Ceremonies;

#[derive(Clone, Debug)]
struct User {
    name: String,
}

impl PgUser for User {
    type Id = Uuid;
    const COLUMNS: &'static str = "u.name";
    const FROM: &'static str = "passkey_users AS u";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(User {
            name: row.user().get("name")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[derive(Clone)]
struct App {
    sessions: Sessions,
    webauthn: Arc<Webauthn>,
    ceremonies: Ceremonies,
}

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
    let store = PgSessionStore::new(pool).with_table("passkey_sessions");
    store.migrate().users_table("passkey_users").await?;
    store.check().await?;
    let cookie = SessionCookie::insecure_for_local_development();
    let sessions = Sessions::builder(store).cookie(cookie).build()?;

    let listener = listen("ADDR", "127.0.0.1:3000").await?;
    let port = listener.local_addr()?.port();
    let origin = env::var("ORIGIN").unwrap_or_else(|_| format!("http://localhost:{port}"));
    let origin = Url::parse(&origin)?;
    let host = origin.host_str().ok_or("ORIGIN has no host")?;
    let webauthn = WebauthnBuilder::new(host, &origin)?
        .rp_name("Gatehouse")
        .build()?;
    tracing::info!("open {origin} in a browser");

    let app = App {
        sessions: sessions.clone(),
        webauthn: Arc::new(webauthn),
        ceremonies: Ceremonies::default(),
    };
    axum::serve(listener, router(app))
        .with_graceful_shutdown(shutdown())
        .await?;
    sessions.close().await;
    Ok(())
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/registration/start", post(passkeys::start_registration))
        .route("/registration/finish", post(passkeys::finish_registration))
        .route("/sign-in/start", post(passkeys::start_sign_in))
        .route("/sign-in/finish", post(passkeys::finish_sign_in))
        .route("/sign-out", post(sign_out))
        .route("/style.css", get(style))
        .route("/passkey.js", get(script))
        .layer(LoadUserLayer::new(app.sessions.clone()))
        .layer(CsrfLayer::new())
        .with_state(app)
}

/// The page uses the style of `examples/axum`.
async fn home(user: Option<CurrentUser<User>>) -> ([(HeaderName, &'static str); 1], Markup) {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Passkeys" }
                link rel="stylesheet" href="/style.css";
                script src="/passkey.js" defer {}
            }
            body.card {
                main {
                    @if let Some(user) = user {
                        h1 { "Welcome" }
                        p.lead { "You are signed in as " strong.email { (user.name) } "." }
                        form method="post" action="/sign-out" {
                            button.button.quiet.wide { "Sign out" }
                        }
                    } @else {
                        h1 { "Sign in" }
                        p.lead { "With a passkey of this device. You need no password." }
                        p.notice.bad #problem role="alert" hidden {}
                        form #passkey {
                            label for="name" { "Name" }
                            input #name name="name" autocomplete="username webauthn" required
                                autofocus;
                            button.button.wide value="sign-in" { "Sign in" }
                            button.button.quiet.wide value="registration" { "Create an account" }
                        }
                    }
                }
            }
        }
    };
    ([(header::CACHE_CONTROL, "no-store")], page)
}

async fn sign_out(State(app): State<App>, headers: HeaderMap) -> (SignedOut, Redirect) {
    (app.sessions.sign_out(&headers).await, Redirect::to("/"))
}

/// The client does not learn the cause.
fn failed(error: impl Into<BoxError>) -> ErrorResponse {
    tracing::error!(error = error.into(), "a request failed");
    (StatusCode::SERVICE_UNAVAILABLE, "Please try again later.").into()
}

async fn style() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];
    (headers, include_str!("../../axum/src/style.css"))
}

async fn script() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("passkey.js"))
}
