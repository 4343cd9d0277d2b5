//! Sign-in, re-authentication and sign-out, and the change of the password.

use axum::{
    Form,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Redirect},
};
use example_application::Credentials;
use maud::Markup;
use serde::Deserialize;
use tower_user_session::{CurrentSession, CurrentUser};

use crate::{App, errors::PageError, pages, user::User};

/// Signs in with a password. The session has this factor only.
pub(crate) async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<impl IntoResponse, PageError> {
    let checked = app.accounts.check_password(&form).await?;
    let signed_in = app
        .sessions
        .sign_in(checked.user_id, &headers)
        .if_unchanged("u.password_hash", checked.password_hash)
        .set("factors", vec!["password".to_owned()])
        .await?;
    // A token that an impersonation left behind.
    let kept = app.kept.sign_out(&headers).await;
    Ok((signed_in, kept, Redirect::to("/")))
}

/// Ends the session. During an impersonation it also ends the administrator's.
pub(crate) async fn sign_out(State(app): State<App>, headers: HeaderMap) -> impl IntoResponse {
    let signed_out = app.sessions.sign_out(&headers).await;
    let kept = app.kept.sign_out(&headers).await;
    (signed_out, kept, Redirect::to("/"))
}

pub(crate) async fn confirm_page(CurrentUser(user): CurrentUser<User>) -> Markup {
    pages::confirm(&user)
}

#[derive(Deserialize)]
pub(crate) struct Password {
    password: String,
}

/// Checks the password again. The session keeps no other factor: an old code together with a new
/// password would pass as a new code.
pub(crate) async fn confirm(
    State(app): State<App>,
    CurrentUser(user): CurrentUser<User>,
    headers: HeaderMap,
    Form(form): Form<Password>,
) -> Result<impl IntoResponse, PageError> {
    let credentials = Credentials {
        email: user.email,
        password: form.password,
    };
    let checked = app.accounts.check_password(&credentials).await?;
    let confirmed = app
        .sessions
        .reauthenticate(checked.user_id, &headers)
        .set("factors", vec!["password".to_owned()])
        .await?;
    Ok((confirmed, Redirect::to("/code")))
}

/// Changes the password and ends the user's other sessions.
pub(crate) async fn change_password(
    State(app): State<App>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    Form(form): Form<Password>,
) -> Result<Redirect, PageError> {
    let hash = app.accounts.hash(&form.password).await?;
    let mut client = app.pool().get().await.map_err(PageError::unavailable)?;
    let transaction = client.transaction().await.map_err(PageError::unavailable)?;
    let update = "UPDATE users SET password_hash = $1 WHERE id = $2";
    let updated = transaction.execute(update, &[&hash, &user.id]).await;
    updated.map_err(PageError::unavailable)?;
    app.sessions
        .revoke_others_in_transaction(&transaction, &user.id, &current)
        .await?;
    transaction.commit().await.map_err(PageError::unavailable)?;
    Ok(Redirect::to("/"))
}
