//! Signing up, in and out. A success answers 303, so that reloading the page sends no form again.

use std::net::SocketAddr;

use axum::{
    Form,
    extract::{ConnectInfo, State},
    http::HeaderMap,
    response::{Redirect, Response},
};
use example_application::{AccountError, Application, Credentials};
use tower_user_session::{SignedIn, SignedOut};

use crate::pages::{self, SIGN_IN, SIGN_UP};

pub(crate) async fn sign_up(
    State(application): State<Application>,
    Form(credentials): Form<Credentials>,
) -> Result<Redirect, Response> {
    match application.accounts.sign_up(&credentials).await {
        Ok(_) => Ok(Redirect::to("/sign-in?welcome")),
        Err(error) => Err(pages::form_again(&SIGN_UP, &credentials.email, &error)),
    }
}

pub(crate) async fn sign_in(
    State(application): State<Application>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(credentials): Form<Credentials>,
) -> Result<(SignedIn, Redirect), Response> {
    match begin_session(&application, client, &headers, &credentials).await {
        Ok(signed_in) => Ok((signed_in, Redirect::to("/"))),
        Err(error) => Err(pages::form_again(&SIGN_IN, &credentials.email, &error)),
    }
}

async fn begin_session(
    application: &Application,
    client: SocketAddr,
    headers: &HeaderMap,
    credentials: &Credentials,
) -> Result<SignedIn, AccountError> {
    let user_id = application.accounts.check_password(credentials).await?;
    let sign_in = application.sessions.sign_in(user_id);
    Ok(sign_in.request(headers).ip(client.ip()).await?)
}

/// Works without a session, and while the database does not: the cookie goes in any case.
pub(crate) async fn sign_out(
    State(application): State<Application>,
    headers: HeaderMap,
) -> (SignedOut, Redirect) {
    let signed_out = application.sessions.sign_out(&headers).await;
    (signed_out, Redirect::to("/"))
}
