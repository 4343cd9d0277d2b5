//! The change of the password, which requires a recent authentication.

use axum::{
    Extension, Form,
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
    throttle::{Throttle, TooMany},
};

#[derive(Deserialize)]
pub(crate) struct Password {
    #[serde(default)]
    password: String,
    next: Option<String>,
}

pub(crate) async fn confirm_page(
    CurrentUser(user): CurrentUser<User>,
    Query(next): Query<Next>,
    Query(occasion): Query<Occasion>,
) -> Page {
    pages::confirm(&user, next.place().as_ref(), occasion.message())
}

/// Re-authenticates: the session gets a new token and a new time of authentication.
pub(crate) async fn confirm(
    State(application): State<Application>,
    Extension(throttle): Extension<Throttle>,
    CurrentUser(user): CurrentUser<User>,
    headers: HeaderMap,
    Form(Password { password, next }): Form<Password>,
) -> Result<(SignedIn, Redirect), Response> {
    let next = Next::to(next);
    let place = next.place();
    let page = |problem| pages::confirm(&user, place.as_ref(), problem);

    if let Err(TooMany(wait)) = throttle.check_email(&user.email) {
        return Err(pages::too_many(wait, page));
    }
    match application.reauthenticate(&user, &password, &headers).await {
        Ok(signed_in) => Ok((signed_in, next.redirect("/account"))),
        Err(error) => Err(pages::refused_password(&error, page)),
    }
}

pub(crate) async fn page(CurrentUser(user): CurrentUser<User>) -> Page {
    pages::password(&user, None)
}

pub(crate) async fn change(
    State(application): State<Application>,
    Extension(throttle): Extension<Throttle>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    headers: HeaderMap,
    Form(passwords): Form<PasswordChange>,
) -> Result<(SignedIn, Redirect), Response> {
    let page = |problem| pages::password(&user, problem);

    if let Err(TooMany(wait)) = throttle.check_email(&user.email) {
        return Err(pages::too_many(wait, page));
    }
    match application
        .change_password(&user, &current, &passwords, &headers)
        .await
    {
        Ok(signed_in) => Ok((signed_in, Redirect::to("/sessions?done=password"))),
        Err(error) => Err(pages::refused_password(&error, page)),
    }
}
