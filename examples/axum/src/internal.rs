//! For other services on the same network, not for browsers: who has the session of a digest? The
//! package `example-remote` asks it.
//!
//! ```text
//! POST /resolve   ["<base64url of 32 bytes>", …]
//! 200             {"<the same>": {"user": {…}, "session": {…}}, "<another>": null, …}
//! ```
//!
//! `null` says that there is no such session. Answers go by name, so that none can be taken for
//! another's.
//!
//! Whoever can ask this learns who a digest's user is. It cannot sign in with one: a digest is no
//! token. Still, keep it off the internet, and where the network is shared, ask for a proof of who
//! is asking, such as a client certificate.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use example_application::{Sessions, User};
use futures_util::future::try_join_all;
use serde::Serialize;
use tower_user_session::{LiveSession, TokenDigest};

/// As many as the library asks about at once.
const MOST_DIGESTS: usize = 128;

/// The resolver for services that have no database.
pub fn internal(sessions: Sessions) -> Router {
    Router::new()
        .route("/resolve", post(resolve))
        .with_state(sessions)
}

async fn resolve(
    State(sessions): State<Sessions>,
    Json(names): Json<Vec<String>>,
) -> Result<Json<HashMap<String, Option<Answer>>>, StatusCode> {
    let digests: Option<Vec<_>> = names.iter().map(|name| digest(name)).collect();
    let digests = digests.filter(|digests| digests.len() <= MOST_DIGESTS);
    let digests = digests.ok_or(StatusCode::BAD_REQUEST)?;

    // All at once, so that they share statements.
    let found = try_join_all(digests.into_iter().map(|d| sessions.resolve_digest(d))).await;
    let found = found.map_err(|error| {
        tracing::error!(%error, "sessions could not be looked up for another service");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    let answers = found.into_iter().map(|live| live.map(Answer::from));
    Ok(Json(names.into_iter().zip(answers).collect()))
}

fn digest(name: &str) -> Option<TokenDigest> {
    let bytes = URL_SAFE_NO_PAD.decode(name).ok()?;
    bytes.try_into().ok().map(TokenDigest::from_bytes)
}

#[derive(Serialize)]
struct Answer {
    user: User,
    session: Session,
}

/// Times are microseconds since 1970, by PostgreSQL's clock.
#[derive(Serialize)]
struct Session {
    id: String,
    created_at: u64,
    authenticated_at: u64,
    last_seen_at: u64,
    expires_at: u64,
    now: u64,
}

impl From<LiveSession<User>> for Answer {
    fn from(live: LiveSession<User>) -> Self {
        Self {
            user: live.user,
            session: live.session.into(),
        }
    }
}

impl From<tower_user_session::Session> for Session {
    fn from(session: tower_user_session::Session) -> Self {
        let times = session.times();
        Self {
            id: session.id().to_string(),
            created_at: micros(times.created_at),
            authenticated_at: micros(times.authenticated_at),
            last_seen_at: micros(times.last_seen_at),
            expires_at: micros(times.expires_at),
            now: micros(times.now),
        }
    }
}

fn micros(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}
