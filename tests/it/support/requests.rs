//! Requests, cookies and responses.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, header::COOKIE};
use tower_user_session::{
    CurrentSession, Error, SessionService, SignedIn,
    session::SessionToken,
    store::{SessionLookup, SessionStore},
};

use super::users::{MemorySessions, User};

/// The session of a user who has just signed in.
pub fn current<U>(signed_in: &SignedIn) -> CurrentSession<U> {
    CurrentSession::new(signed_in.session())
}

/// A request's headers with this token in the service's cookie.
pub fn cookie<L: SessionLookup>(sessions: &SessionService<L>, token: &SessionToken) -> HeaderMap {
    let cookie = format!("{}={}", sessions.cookie().name(), token.expose());
    HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(cookie).unwrap())])
}

/// Signs out by the cookie, and returns whether a session ended.
pub async fn sign_out<S: SessionStore>(
    sessions: &SessionService<S>,
    token: &SessionToken,
) -> Result<bool, Error> {
    let signed_out = sessions.sign_out(&cookie(sessions, token)).await;
    signed_out.ended().map_err(Clone::clone)
}

/// `Cookie` headers with these lines.
pub fn cookie_lines<I>(lines: I) -> HeaderMap
where
    I: IntoIterator,
    I::Item: AsRef<[u8]>,
{
    lines
        .into_iter()
        .map(|line| {
            let line = HeaderValue::from_bytes(line.as_ref()).unwrap();
            (COOKIE, line)
        })
        .collect()
}

pub fn request(cookie: &str) -> Request<String> {
    Request::builder()
        .header(COOKIE, cookie)
        .body(String::new())
        .unwrap()
}

/// `__Host-session=` and the token of a new session of this user.
pub async fn signed_in_cookie<S: SessionStore<UserId = i64>>(
    sessions: &SessionService<S>,
    user: i64,
) -> String {
    let cookie = sessions.cookie_for(user).await.unwrap();
    cookie.to_str().unwrap().to_owned()
}

/// Responds with the e-mail address of the signed-in user, or with `anonymous`.
pub async fn who<B>(request: Request<B>) -> Result<Response<String>, Infallible> {
    let user = request.extensions().get::<User>();
    let user = user.map_or("anonymous", |user| &user.email);
    Ok(Response::new(user.to_owned()))
}

/// All parts of a response that a client can see.
pub fn visible(response: &Response<String>) -> String {
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    headers.sort();
    format!(
        "{:?} {} {headers:?} {:?}",
        response.version(),
        response.status(),
        response.body()
    )
}

/// Prepares the store, and returns one cookie per way of not being signed in.
pub async fn rejected_cookies(sessions: &MemorySessions) -> Vec<(&'static str, Vec<String>)> {
    let store = sessions.store();
    for (user, email) in [(3, "disabled"), (4, "deleted")] {
        let email = email.to_owned();
        let role = String::new();
        store.add_user(
            user,
            User {
                id: user,
                email,
                role,
            },
        );
    }
    let expired = sessions
        .sign_in_without_request(1)
        .max_lifetime(Duration::from_secs(60))
        .await
        .unwrap();
    let ended = signed_in_cookie(sessions, 1).await;
    let disabled = signed_in_cookie(sessions, 3).await;
    let deleted = signed_in_cookie(sessions, 4).await;
    let live = signed_in_cookie(sessions, 1).await;
    store.advance(Duration::from_secs(60));
    assert!(
        sessions
            .sign_out(&cookie_lines([&ended]))
            .await
            .ended()
            .unwrap()
    );
    store.set_disabled(3, true);
    store.remove_user(&4);
    let text = |token: &SessionToken| format!("__Host-session={}", token.expose());
    vec![
        ("malformed", vec!["__Host-session=x".to_owned()]),
        ("empty", vec!["__Host-session=".to_owned()]),
        ("ambiguous", vec![live.clone(), disabled.clone()]),
        ("unknown", vec![text(&SessionToken::generate().unwrap())]),
        ("expired", vec![text(expired.token())]),
        ("ended", vec![ended]),
        ("disabled", vec![disabled]),
        ("deleted", vec![deleted]),
    ]
}
