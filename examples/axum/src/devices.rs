//! The list of the user's sessions, and revocation.

use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use example_application::{Application, User};
use serde::Deserialize;
use tower_user_session::{CurrentSession, CurrentUser, Error, session::SessionId};

use crate::pages::{self, Page};

pub(crate) async fn list(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
) -> Result<Page, Error> {
    let devices = application.sessions.sessions_of(&user.id).await?;
    Ok(pages::devices(&devices, current))
}

#[derive(Deserialize)]
pub(crate) struct Which {
    session: String,
}

/// Responds with 404 to a malformed id, an unknown session and a session of another user alike.
pub(crate) async fn end(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    Form(Which { session }): Form<Which>,
) -> Result<Response, Error> {
    let ended = match session.parse::<SessionId>() {
        Ok(id) => application.sessions.revoke(&user.id, id).await?,
        Err(_) => false,
    };
    if ended {
        Ok(Redirect::to("/devices").into_response())
    } else {
        Ok((StatusCode::NOT_FOUND, pages::not_found().await).into_response())
    }
}

pub(crate) async fn end_others(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
) -> Result<Redirect, Error> {
    application
        .sessions
        .revoke_others(&user.id, &current)
        .await?;
    Ok(Redirect::to("/devices"))
}
