use std::{collections::HashMap, env};

use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Result},
    routing::{get, post},
};
use tokio::net::TcpListener;
use tower_http::csrf::CsrfLayer;
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, RequireUserLayer,
    SessionService,
};

const USERS: &str = "CREATE TABLE IF NOT EXISTS users (id bigint PRIMARY KEY, email text NOT NULL);
    INSERT INTO users VALUES (7, 'ada@example.com') ON CONFLICT DO NOTHING";
const HOME: &str = "<!doctype html><title>Quick start</title><a href=/account>Account</a>
    <form method=post action=/sign-in><input name=password><button>Sign in</button></form>
    <form method=post action=/sign-out><button>Sign out</button></form>";

#[derive(Clone)]
struct User {
    email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.email"; // by default FROM is "users AS u", and KEY is "u.id"

    fn from_row(row: &LookupRow<'_>) -> std::result::Result<Self, BoxError> {
        Ok(User {
            email: row.user().get("email")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[tokio::main]
async fn main() -> std::result::Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // shows the events of the crate
    let url = env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL")?;
    let store = PgSessionStore::connect(&url).await?;
    store.pool().get().await?.batch_execute(USERS).await?;
    store.migrate().await?; // creates the sessions table
    store.check().await?; // verifies tables, columns and privileges
    let sessions = Sessions::new(store);

    let signed_in_only = RequireUserLayer::<User>::new().sign_in_page("/");
    let app = Router::new()
        .route("/account", get(account).layer(signed_in_only))
        .route("/", get(Html(HOME)))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(CsrfLayer::new()) // rejects a POST from another site
        .with_state(sessions);
    let address = env::var("ADDR").unwrap_or("127.0.0.1:3000".into());
    Ok(axum::serve(TcpListener::bind(address).await?, app).await?)
}

async fn account(CurrentUser(user): CurrentUser<User>) -> String {
    format!("Hello, {}", user.email)
}

async fn sign_in(
    State(sessions): State<Sessions>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Result<impl IntoResponse> {
    // An application looks the user up and verifies a hash of the password.
    if form.get("password").map(String::as_str) != Some("correct horse") {
        return Err(StatusCode::UNAUTHORIZED.into());
    }
    // A new token; the session of this request ends.
    let signed_in = sessions.sign_in(7, &headers).await?;
    Ok((signed_in, Redirect::to("/account"))) // sets the cookie
}

async fn sign_out(State(sessions): State<Sessions>, headers: HeaderMap) -> impl IntoResponse {
    (sessions.sign_out(&headers).await, Redirect::to("/"))
}
