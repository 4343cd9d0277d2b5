//! An administrator acts as a user, in a session of the user that ends with the administrator's
//! session and within half an hour. `User::CONDITION` has the rules that every request must meet.

use std::time::Duration;

use axum::{
    Form,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use cookie::{Cookie, SameSite};
use serde::Deserialize;
use tower_user_session::{
    CurrentSession, CurrentUser, cookie::PresentedToken, session::SessionToken,
};
use uuid::Uuid;

use crate::{App, Sessions, errors::PageError, user::User};

const LONGEST: Duration = Duration::from_secs(30 * 60);

#[derive(Deserialize)]
pub(crate) struct Target {
    email: String,
}

/// Begins a session of the user. The administrator's token moves to another cookie.
pub(crate) async fn start(
    State(app): State<App>,
    CurrentUser(admin): CurrentUser<User>,
    current: CurrentSession<User>,
    headers: HeaderMap,
    Form(target): Form<Target>,
) -> Result<impl IntoResponse, PageError> {
    let PresentedToken::Token(token) = app.sessions.cookie().read(&headers) else {
        return Err(PageError::forbidden("There is no cookie to keep."));
    };
    let client = app.pool().get().await.map_err(PageError::unavailable)?;
    let find = "SELECT id FROM users WHERE email = $1";
    let found = client.query_opt(find, &[&target.email]).await;
    let Some(found) = found.map_err(PageError::unavailable)? else {
        return Err(PageError::forbidden("There is no such user."));
    };
    drop(client);
    // `sign_in` would end the administrator's session.
    let signed_in = app
        .sessions
        .sign_in_without_request(found.get("id"))
        .max_lifetime(LONGEST)
        .set("factors", Vec::<String>::new())
        .set("impersonator_session", Uuid::from(current.id()))
        .await?;
    tracing::warn!(
        administrator = admin.id,
        administrators_session = %current.id(),
        session = %signed_in.session().id(),
        "an administrator acts as a user"
    );
    let kept = AppendHeaders([(header::SET_COOKIE, set(&app.kept, &token)?)]);
    Ok((signed_in, kept, Redirect::to("/")))
}

/// Ends the impersonation and returns to the administrator's session, if that is still live.
pub(crate) async fn stop(
    State(app): State<App>,
    user: Option<CurrentUser<User>>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let impersonator = match user {
        Some(CurrentUser(user)) if user.acts() => {
            return Err(PageError::forbidden("There is no impersonation to stop."));
        }
        Some(CurrentUser(user)) => user.impersonator,
        // The impersonation has expired.
        None => None,
    };
    let own = match app.kept.cookie().read(&headers) {
        PresentedToken::Token(token) => app.kept.resolve(&token).await?.map(|live| (token, live)),
        _ => None,
    };
    let own = own.filter(|(_, live)| {
        impersonator.is_none_or(|impersonator| impersonator.session == live.session.id())
    });
    let signed_out = app.sessions.sign_out(&headers).await;
    signed_out.ended().map_err(Clone::clone)?;
    let Some((token, _)) = own else {
        let kept = app.kept.sign_out(&headers).await;
        return Ok((signed_out, kept, Redirect::to("/")).into_response());
    };
    let removed = Cookie::build((app.kept.cookie().name().to_owned(), ""))
        .path("/")
        .secure(true)
        .removal()
        .build();
    let headers = AppendHeaders([
        (header::SET_COOKIE, set(&app.sessions, &token)?),
        (header::SET_COOKIE, value(&removed)?),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]);
    Ok((headers, Redirect::to("/")).into_response())
}

/// A `Set-Cookie` with this token. The cookie ends with the browser session.
fn set(sessions: &Sessions, token: &SessionToken) -> Result<HeaderValue, PageError> {
    let cookie = Cookie::build((sessions.cookie().name().to_owned(), token.expose()))
        .path("/")
        .secure(true)
        .http_only(true)
        .same_site(SameSite::Lax)
        .build();
    value(&cookie)
}

fn value(cookie: &Cookie<'_>) -> Result<HeaderValue, PageError> {
    let mut value = HeaderValue::try_from(cookie.to_string()).map_err(PageError::unavailable)?;
    value.set_sensitive(true);
    Ok(value)
}
