//! The routes and their handlers.

use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tower_http::csrf::CsrfLayer;
use tower_user_session::{
    BoxError, CurrentSession, CurrentUser, ErrorKind, LoadUserLayer, RequireUserLayer, SignedIn,
    SignedOut,
};
use uuid::Uuid;

use crate::{
    Application, passwords,
    user::{self, User},
};

const HOME: &str = "<!doctype html><title>sqlx</title><a href=/account>Account</a>
    <form method=post action=/sign-up><input name=email type=email placeholder=Email>
    <input name=password type=password placeholder=Password><button>Sign up</button></form>
    <form method=post action=/sign-in><input name=email type=email placeholder=Email>
    <input name=password type=password placeholder=Password><button>Sign in</button></form>
    <form method=post action=/password><input name=current type=password placeholder=Current>
    <input name=new type=password placeholder=New><button>Change password</button></form>
    <form method=post action=/sign-out><button>Sign out</button></form>";

/// Returns the application's router.
pub fn router(application: Application) -> Router {
    let signed_in_only = RequireUserLayer::<User>::new().sign_in_page("/");
    Router::new()
        .route("/account", get(account))
        .route("/password", post(change_password))
        .layer(signed_in_only)
        .route("/", get(Html(HOME)))
        .route("/sign-up", post(sign_up))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(LoadUserLayer::new(application.sessions.clone()))
        .layer(CsrfLayer::new())
        .with_state(application)
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

async fn account(CurrentUser(user): CurrentUser<User>) -> String {
    format!("Hello, {}", user.email)
}

async fn sign_up(
    State(application): State<Application>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<(SignedIn, Redirect), Failure> {
    let hash = passwords::hash(form.password).await?;
    let email = form.email.to_lowercase();
    let id = user::insert(&application.database, &email, &hash).await?;
    let id = id.ok_or(Failure::Rejected(StatusCode::CONFLICT))?;
    let signed_in = application.sessions.sign_in(id, &headers).await?;
    Ok((signed_in, Redirect::to("/account")))
}

async fn sign_in(
    State(application): State<Application>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<(SignedIn, Redirect), Failure> {
    let email = form.email.to_lowercase();
    let (id, hash) = checked(&application, &email, form.password).await?;
    let sign_in = application.sessions.sign_in(id, &headers);
    // Another request can change the password during the check.
    let signed_in = sign_in.if_unchanged("u.password_hash", hash).await?;
    Ok((signed_in, Redirect::to("/account")))
}

async fn sign_out(
    State(application): State<Application>,
    headers: HeaderMap,
) -> (SignedOut, Redirect) {
    (
        application.sessions.sign_out(&headers).await,
        Redirect::to("/"),
    )
}

#[derive(Deserialize)]
struct PasswordChange {
    current: String,
    new: String,
}

/// Changes the password and ends the user's other sessions in one transaction of sqlx.
async fn change_password(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    session: CurrentSession<User>,
    headers: HeaderMap,
    Form(form): Form<PasswordChange>,
) -> Result<(SignedIn, Redirect), Failure> {
    let (id, old_hash) = checked(&application, &user.email, form.current).await?;
    let new_hash = passwords::hash(form.new).await?;
    let mut transaction = application.database.begin().await?;
    let update = "UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3";
    let update = sqlx::query(update).bind(&new_hash).bind(id).bind(&old_hash);
    if update.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Err(Failure::Rejected(StatusCode::CONFLICT));
    }
    // Waits for sign-ins of the user that are in progress. A DELETE would miss them.
    sqlx::query("SELECT sessions_revoke_others($1, $2)")
        .bind(id)
        .bind(Uuid::from(session.id()))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    // This session gets a new token, so that a stolen copy of the old one is useless.
    let signed_in = application.sessions.reauthenticate(id, &headers).await?;
    Ok((signed_in, Redirect::to("/account")))
}

/// Returns the key and the password hash of the user whose password this is.
async fn checked(
    application: &Application,
    email: &str,
    password: String,
) -> Result<(i64, String), Failure> {
    let known = user::credentials(&application.database, email).await?;
    let hash = known.as_ref().map(|(_, hash)| hash.clone());
    if !passwords::verify(password, hash).await? {
        return Err(Failure::Rejected(StatusCode::UNAUTHORIZED));
    }
    known.ok_or(Failure::Rejected(StatusCode::UNAUTHORIZED))
}

/// The reason why a handler did not do what it was asked.
pub enum Failure {
    Rejected(StatusCode),
    Session(tower_user_session::Error),
    Other(BoxError),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Rejected(status) => status.into_response(),
            Self::Session(error) => error.into_response(),
            Self::Other(error) => {
                tracing::error!(%error, "request failed");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

impl From<tower_user_session::Error> for Failure {
    fn from(error: tower_user_session::Error) -> Self {
        match error.kind() {
            // The password has changed during the check. The response is that for a wrong one.
            ErrorKind::UserNotAllowed => Self::Rejected(StatusCode::UNAUTHORIZED),
            _ => Self::Session(error),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<BoxError> for Failure {
    fn from(error: BoxError) -> Self {
        Self::Other(error)
    }
}
