//! The list of the user's sessions, and revocation.

use axum::{
    Form,
    extract::{Query, State},
    response::{Redirect, Response},
};
use example_application::{Application, User};
use serde::Deserialize;
use tower_user_session::{CurrentSession, CurrentUser, session::SessionId};

use crate::pages::{self, Done, Page};

#[derive(Deserialize)]
pub(crate) struct After {
    done: Option<String>,
}

pub(crate) async fn list(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    Query(After { done }): Query<After>,
) -> Result<Page, Response> {
    let sessions = application.sessions.sessions_of(&user.id).await;
    let sessions = sessions.map_err(pages::failed)?;
    let activity = application.accounts.recent_activity(user.id).await;
    let activity = activity.map_err(|error| pages::unavailable(&error))?;
    let done = done.as_deref().and_then(Done::named);
    Ok(pages::sessions(&user, current, &sessions, &activity, done))
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
) -> Result<Redirect, Response> {
    let ended = match session.parse::<SessionId>() {
        Ok(id) => application.sessions.revoke(&user.id, id).await,
        Err(_) => Ok(false),
    };
    if ended.map_err(pages::failed)? {
        Ok(Redirect::to("/sessions?done=ended"))
    } else {
        Err(pages::not_found(Some(CurrentUser(user))).await)
    }
}

pub(crate) async fn end_others(
    State(application): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
) -> Result<Redirect, Response> {
    let ended = application.sessions.revoke_others(&user.id, &current).await;
    ended.map_err(pages::failed)?;
    Ok(Redirect::to("/sessions?done=ended-others"))
}
