//! One-time codes of an authenticator app (RFC 6238).

use axum::{
    Form,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Redirect},
};
use maud::Markup;
use serde::Deserialize;
use totp_rs::Builder;
use tower_user_session::CurrentUser;

use crate::{App, errors::PageError, pages, user::User};

pub(crate) async fn page(CurrentUser(user): CurrentUser<User>) -> Markup {
    pages::code(&user)
}

#[derive(Deserialize)]
pub(crate) struct Code {
    code: String,
}

/// Checks a code. The session gets a new token and both factors. An application on the internet
/// also limits the attempts, as `example-axum` does for passwords.
pub(crate) async fn check(
    State(app): State<App>,
    CurrentUser(user): CurrentUser<User>,
    headers: HeaderMap,
    Form(form): Form<Code>,
) -> Result<impl IntoResponse, PageError> {
    if !user.factors.iter().any(|factor| factor == "password") {
        return Err(PageError::forbidden("Sign in with your password first."));
    }
    if !accept(&app, user.id, &form.code).await? {
        return Err(PageError::forbidden(
            "The code is wrong or was used already.",
        ));
    }
    let both = ["password", "totp"].map(str::to_owned).to_vec();
    let confirmed = app.sessions.reauthenticate(user.id, &headers);
    let confirmed = confirmed.set("factors", both).await?;
    Ok((confirmed, Redirect::to("/payments")))
}

/// Returns whether the code is right. Each code is accepted once.
async fn accept(app: &App, user_id: i64, code: &str) -> Result<bool, PageError> {
    let client = app.pool().get().await.map_err(PageError::unavailable)?;
    let secret = "SELECT totp_secret FROM users WHERE id = $1";
    let row = client.query_one(secret, &[&user_id]).await;
    let row = row.map_err(PageError::unavailable)?;
    let Some(secret) = row.get::<_, Option<Vec<u8>>>("totp_secret") else {
        return Ok(false);
    };
    let totp = Builder::new().with_secret(secret).build();
    // The clock of the device may be one step off.
    let step = totp.map_err(PageError::unavailable)?.check_current(code);
    let Some(step) = step.and_then(|step| i64::try_from(step).ok()) else {
        return Ok(false);
    };
    let use_once = "UPDATE users SET totp_step = $1 WHERE id = $2 AND totp_step < $1";
    let used = client.execute(use_once, &[&step, &user_id]).await;
    Ok(used.map_err(PageError::unavailable)? == 1)
}
