//! The program of the README with a `main`. It needs an empty database:
//!
//! ```sh
//! createdb minimal
//! DATABASE_URL=postgresql://localhost/minimal cargo run -p example-minimal
//! ```
//!
//! Open <http://localhost:3000> in a browser. The password is `correct horse`.

use std::collections::HashMap;

use axum::response::{Html, IntoResponse, Redirect, Result};
use axum::routing::{get, post};
use axum::{Form, Router, extract::State, http::HeaderMap, http::StatusCode};
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, RequireUserLayer,
    SessionService, postgres::PgPoolBuilder,
};

const USERS: &str = "CREATE TABLE IF NOT EXISTS users (id bigint PRIMARY KEY, email text NOT NULL);
    INSERT INTO users VALUES (7, 'ada@example.com') ON CONFLICT DO NOTHING";
const HOME: &str = "<a href=/account>Account</a>
    <form method=post action=/sign-in><input name=password><button>Sign in</button></form>
    <form method=post action=/sign-out><button>Sign out</button></form>";

#[derive(Clone)]
struct User(String);

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.email"; // FROM is "users AS u" and KEY "u.id" by default
    fn from_row(row: &LookupRow<'_>) -> std::result::Result<Self, BoxError> {
        Ok(User(row.user().get("email")?))
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[tokio::main]
async fn main() -> std::result::Result<(), BoxError> {
    let pool = PgPoolBuilder::from_url(&std::env::var("DATABASE_URL")?)?.build()?;
    pool.get().await?.batch_execute(USERS).await?;
    let store = PgSessionStore::new(pool);
    store.migrate().await?;
    let sessions = Sessions::new(store);
    let signed_in_only = RequireUserLayer::<User>::new().sign_in_page("/");
    let app = Router::new()
        .route("/account", get(account).layer(signed_in_only))
        .route("/", get(Html(HOME)))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(tower_http::csrf::CsrfLayer::new())
        .with_state(sessions);
    let address = std::env::var("ADDR").unwrap_or("127.0.0.1:3000".into());
    Ok(axum::serve(tokio::net::TcpListener::bind(address).await?, app).await?)
}

async fn account(CurrentUser(User(email)): CurrentUser<User>) -> String {
    format!("Hello, {email}")
}

async fn sign_in(
    State(sessions): State<Sessions>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    // A real application looks the user up and verifies a hash of the password, as `examples/axum` does.
    let Some("correct horse") = form.get("password").map(String::as_str) else {
        return Err(StatusCode::UNAUTHORIZED.into());
    };
    let signed_in = sessions.sign_in(7, &headers).await?;
    Ok((signed_in, Redirect::to("/account")))
}

async fn sign_out(State(sessions): State<Sessions>, headers: HeaderMap) -> impl IntoResponse {
    (sessions.sign_out(&headers).await, Redirect::to("/"))
}
