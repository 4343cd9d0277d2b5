//! The change of the password, which requires a recent authentication.

use axum::{
    Form,
    extract::{Query, State},
    http::HeaderMap,
    response::{Redirect, Response},
};
use example_application::{Application, PasswordChange, User};
use serde::Deserialize;
use tower_user_session::{CurrentSession, CurrentUser, SignedIn};

use crate::{
    accounts::{Next, Occasion},
    pages::{self, Page},
};

#[derive(Deserialize)]
pub(crate) struct Password {
    #[serde(default)]
    password: String,
    next: Option<String>,
}

pub(crate) async fn reauthentication_page(
    Query(next): Query<Next>,
    Query(occasion): Query<Occasion>,
) -> Page {
    pages::reauthenticate(next.place().as_ref(), occasion.message())
}

/// Re-authenticates: the session gets a new token and a new time of authentication.
pub(crate) async fn reauthenticate(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    headers: HeaderMap,
    Form(Password { password, next }): Form<Password>,
) -> Result<(SignedIn, Redirect), Response> {
    let next = Next::to(next);
    match application.reauthenticate(&user, &password, &headers).await {
        Ok(signed_in) => Ok((signed_in, next.redirect("/account"))),
        Err(error) => Err(pages::refused(&error, |problem| {
            pages::reauthenticate(next.place().as_ref(), problem)
        })),
    }
}

pub(crate) async fn page() -> Page {
    pages::password(None)
}

pub(crate) async fn change(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    headers: HeaderMap,
    Form(passwords): Form<PasswordChange>,
) -> Result<(SignedIn, Redirect), Response> {
    match application
        .change_password(&user, &current, &passwords, &headers)
        .await
    {
        Ok(signed_in) => Ok((signed_in, Redirect::to("/devices"))),
        Err(error) => Err(pages::refused(&error, pages::password)),
    }
}
