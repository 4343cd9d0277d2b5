//! The internal address, for other services on the same network. It is not for browsers.
//!
//! * `GET /metrics`: metrics for Prometheus.
//! * `GET /readyz`: 200 if lookups succeed, 503 if they do not.
//! * `POST /resolve`: returns the sessions of digests. The package `example-remote` sends its lookups
//!   here.
//!
//! ```text
//! POST /resolve   ["<base64url of 32 bytes>", …]
//! 200             {"<the same>": {"user": {…}, "session": {…}}, "<another>": null, …}
//! ```
//!
//! `null` means that there is no such session. Each result is named by its digest, so that the
//! client cannot confuse two of them.
//!
//! A client of this resolver learns the user of a digest. It cannot sign in with a digest, because
//! a digest is not a token. Do not expose the resolver to the internet. On a shared network,
//! authenticate its clients, for example with certificates.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use example_application::{Sessions, User};
use futures_util::future::try_join_all;
use serde::Serialize;
use tower_user_session::{session::TokenDigest, store::LiveSession};

use crate::metrics::metrics;

/// The maximum number of digests in one batch of the library.
const MOST_DIGESTS: usize = 128;

/// Returns the routes of the internal address.
pub fn internal(sessions: Sessions) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .route("/resolve", post(resolve))
        .with_state(sessions)
}

async fn ready(State(sessions): State<Sessions>) -> StatusCode {
    match sessions.ping().await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn resolve(
    State(sessions): State<Sessions>,
    Json(names): Json<Vec<String>>,
) -> Result<Json<HashMap<String, Option<Answer>>>, StatusCode> {
    let digests: Option<Vec<_>> = names.iter().map(|name| digest(name)).collect();
    let digests = digests.filter(|digests| digests.len() <= MOST_DIGESTS);
    let digests = digests.ok_or(StatusCode::BAD_REQUEST)?;

    // Concurrently, so that the lookups share statements.
    let found = try_join_all(digests.into_iter().map(|d| sessions.resolve_digest(d))).await;
    let found = found.map_err(|error| {
        tracing::error!(%error, "session lookup for another service failed");
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

impl From<tower_user_session::session::Session> for Session {
    fn from(session: tower_user_session::session::Session) -> Self {
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
