//! Sign-up, sign-in and sign-out. A success responds with 303, so that a reload does not send the
//! form again.

use axum::{
    Extension,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{Redirect, Response},
};
use axum_client_ip::ClientIp;
use example_application::{Application, Client, Credentials, User};
use maud::Markup;
use serde::Deserialize;
use tower_user_session::{CurrentUser, SignedIn, SignedOut, require_user::ReturnTo};

use crate::{
    pages::{self, Page, SIGN_IN, SIGN_UP},
    throttle::{Throttle, TooMany},
};

/// The page to return to. A value that does not lead to a page of this site is ignored.
#[derive(Default, Deserialize)]
pub(crate) struct Next {
    next: Option<String>,
}

impl Next {
    pub(crate) const fn to(next: Option<String>) -> Self {
        Self { next }
    }

    pub(crate) fn place(&self) -> Option<ReturnTo> {
        self.next.as_deref().and_then(ReturnTo::parse)
    }

    pub(crate) fn redirect(&self, otherwise: &str) -> Redirect {
        Redirect::to(self.place().as_ref().map_or(otherwise, ReturnTo::as_str))
    }
}

/// The reason why the browser shows the form.
#[derive(Deserialize)]
pub(crate) struct Occasion {
    unsent: Option<String>,
}

impl Occasion {
    pub(crate) fn message(&self) -> Option<Markup> {
        self.unsent.as_ref().map(|_| pages::unsent())
    }
}

#[derive(Deserialize)]
struct Remember {
    remember: Option<String>,
}

/// The input of the forms for sign-up and sign-in. A part that is missing or malformed has its
/// default value.
struct Input {
    credentials: Credentials,
    next: Next,
    remember: bool,
}

impl Input {
    fn parse(form: &str) -> Self {
        let remember = serde_urlencoded::from_str(form);
        Self {
            credentials: serde_urlencoded::from_str(form).unwrap_or_default(),
            next: serde_urlencoded::from_str(form).unwrap_or_default(),
            remember: remember.is_ok_and(|Remember { remember }| remember.is_some()),
        }
    }
}

pub(crate) async fn sign_up_page() -> Page {
    pages::sign_in_or_up(&SIGN_UP, "", None, None)
}

/// Creates the account and signs its user in.
pub(crate) async fn sign_up(
    State(application): State<Application>,
    Extension(throttle): Extension<Throttle>,
    ClientIp(ip): ClientIp,
    headers: HeaderMap,
    form: String,
) -> Result<(SignedIn, Redirect), Response> {
    let Input {
        credentials,
        remember,
        ..
    } = Input::parse(&form);
    let page = |problem| pages::sign_in_or_up(&SIGN_UP, &credentials.email, None, problem);

    if let Err(TooMany(wait)) = throttle.check_address(ip) {
        return Err(pages::too_many(wait, page));
    }
    let client = Client {
        headers: &headers,
        ip: Some(ip),
    };
    match application.sign_up(&credentials, client, remember).await {
        Ok(signed_in) => Ok((signed_in, Redirect::to("/"))),
        Err(error) => Err(pages::refused(&error, page)),
    }
}

pub(crate) async fn sign_in_page(
    user: Option<CurrentUser<User>>,
    Query(next): Query<Next>,
    Query(occasion): Query<Occasion>,
) -> Page {
    let place = next.place();
    let message = match (&user, &place) {
        (Some(user), _) => Some(pages::already_signed_in(user)),
        (None, Some(_)) => occasion.message().or_else(|| Some(pages::continue_to())),
        (None, None) => occasion.message(),
    };
    pages::sign_in_or_up(&SIGN_IN, "", place.as_ref(), message)
}

pub(crate) async fn sign_in(
    State(application): State<Application>,
    Extension(throttle): Extension<Throttle>,
    ClientIp(ip): ClientIp,
    headers: HeaderMap,
    form: String,
) -> Result<(SignedIn, Redirect), Response> {
    let Input {
        credentials,
        next,
        remember,
    } = Input::parse(&form);
    let place = next.place();
    let page =
        |problem| pages::sign_in_or_up(&SIGN_IN, &credentials.email, place.as_ref(), problem);

    let allowed = throttle.check_address(ip);
    if let Err(TooMany(wait)) = allowed.and_then(|()| throttle.check_email(&credentials.email)) {
        return Err(pages::too_many(wait, page));
    }
    let client = Client {
        headers: &headers,
        ip: Some(ip),
    };
    match application.sign_in(&credentials, client, remember).await {
        Ok(signed_in) => Ok((signed_in, next.redirect("/"))),
        Err(error) => Err(pages::refused(&error, page)),
    }
}

/// Clears the cookie in any case: without a session, and while the database is not available.
pub(crate) async fn sign_out(
    State(application): State<Application>,
    headers: HeaderMap,
) -> Result<(SignedOut, Redirect), (StatusCode, SignedOut, Page)> {
    let signed_out = application.sign_out(&headers).await;
    if signed_out.ended().is_err() {
        let page = pages::signed_out_here();
        return Err((StatusCode::SERVICE_UNAVAILABLE, signed_out, page));
    }
    Ok((signed_out, Redirect::to("/")))
}
