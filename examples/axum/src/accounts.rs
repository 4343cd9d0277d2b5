//! Sign-up, sign-in and sign-out. A success responds with 303, so that a reload does not send the
//! form again.

use std::net::SocketAddr;

use axum::{
    Form,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode},
    response::{Redirect, Response},
};
use example_application::{Application, Client, Credentials};
use maud::{Markup, html};
use serde::Deserialize;
use tower_user_session::{SignedIn, SignedOut, require_user::ReturnTo};

use crate::pages::{self, Page, SIGN_IN, SIGN_UP};

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

pub(crate) async fn sign_up_page() -> Page {
    pages::sign_in_or_up(&SIGN_UP, "", None, None)
}

pub(crate) async fn sign_up(
    State(application): State<Application>,
    Form(credentials): Form<Credentials>,
) -> Result<Redirect, Response> {
    let email = &credentials.email;
    match application.accounts.sign_up(&credentials).await {
        Ok(_) => Ok(Redirect::to("/sign-in?welcome=yes")),
        Err(error) => Err(pages::refused(&error, |problem| {
            pages::sign_in_or_up(&SIGN_UP, email, None, problem)
        })),
    }
}

/// The reason why the browser shows the form.
#[derive(Deserialize)]
pub(crate) struct Occasion {
    welcome: Option<String>,
    unsent: Option<String>,
}

impl Occasion {
    pub(crate) fn message(&self) -> Option<Markup> {
        if self.unsent.is_some() {
            return Some(pages::unsent());
        }
        self.welcome.as_ref().map(|_| {
            html! { p.notice role="status" { "Your account is ready. Please sign in." } }
        })
    }
}

pub(crate) async fn sign_in_page(
    Query(next): Query<Next>,
    Query(occasion): Query<Occasion>,
) -> Page {
    pages::sign_in_or_up(&SIGN_IN, "", next.place().as_ref(), occasion.message())
}

#[derive(Deserialize)]
pub(crate) struct Remember {
    remember: Option<String>,
}

pub(crate) async fn sign_in(
    State(application): State<Application>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    form: String,
) -> Result<(SignedIn, Redirect), Response> {
    // One form, in three parts. A part that is missing or malformed has its default value.
    let credentials: Credentials = serde_urlencoded::from_str(&form).unwrap_or_default();
    let next: Next = serde_urlencoded::from_str(&form).unwrap_or_default();
    let remember =
        serde_urlencoded::from_str(&form).is_ok_and(|Remember { remember }| remember.is_some());

    let client = Client {
        headers: &headers,
        ip: Some(client.ip()),
    };
    match application.sign_in(&credentials, client, remember).await {
        Ok(signed_in) => Ok((signed_in, next.redirect("/"))),
        Err(error) => Err(pages::refused(&error, |problem| {
            let place = next.place();
            pages::sign_in_or_up(&SIGN_IN, &credentials.email, place.as_ref(), problem)
        })),
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
