//! The endpoint that receives logout tokens.

use axum::{
    Form, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use tower_user_session::BoxError;

use crate::{App, logout_token::LogoutToken};

#[derive(Deserialize)]
pub(crate) struct Request {
    logout_token: String,
}

/// Ends the sessions that the token names. The provider repeats a request that failed with 503.
///
/// | response | reason |
/// |---|---|
/// | 200 | the sessions have ended, also if there were none |
/// | 400 | the token is invalid or was used before |
/// | 503 | the database failed; nothing is known about the sessions |
pub(crate) async fn end_sessions(State(app): State<App>, Form(form): Form<Request>) -> Response {
    let mut response = match app.provider.verify(&form.logout_token) {
        Err(reason) => rejected(&reason),
        Ok(token) => match accept(&app, &token).await {
            Ok(Accepted::Sessions(ended)) => {
                tracing::info!(ended, "back-channel logout");
                StatusCode::OK.into_response()
            }
            Ok(Accepted::Never) => rejected(&"the token was used before".into()),
            Err(error) => {
                tracing::error!(error, "back-channel logout failed");
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        },
    };
    // Section 2.8.
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

fn rejected(reason: &BoxError) -> Response {
    tracing::warn!(reason, "logout token rejected");
    let body = json!({ "error": "invalid_request" });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

enum Accepted {
    /// The token is new, and this many sessions have ended.
    Sessions(u64),
    Never,
}

/// Records the token and ends the sessions. The record is committed after the sessions have ended:
/// if that fails, the provider can send the token again. A second request with the token waits for
/// the first one.
async fn accept(app: &App, token: &LogoutToken) -> Result<Accepted, BoxError> {
    let mut client = app.sessions.store().pool().get().await?;
    let transaction = client.transaction().await?;
    let record = "INSERT INTO logout_tokens (jti, expires_at) VALUES ($1, to_timestamp($2))
        ON CONFLICT (jti) DO NOTHING";
    #[expect(clippy::cast_precision_loss, reason = "a time, to the second")]
    let expires_at = token.expires_at as f64;
    if transaction
        .execute(record, &[&token.jti, &expires_at])
        .await?
        == 0
    {
        return Ok(Accepted::Never);
    }
    let user = match &token.sub {
        None => None,
        Some(subject) => {
            let find = "SELECT id FROM users WHERE subject = $1";
            match transaction.query_opt(find, &[subject]).await? {
                Some(row) => Some(row.get::<_, i64>("id")),
                // The user never signed in here.
                None => return Ok(Accepted::Sessions(0)),
            }
        }
    };
    let ended = match (user, &token.sid) {
        (Some(user), Some(sid)) => {
            let revoke = app.sessions.revoke_where(&user, "idp_sid", sid.clone());
            revoke.await?
        }
        (Some(user), None) => app.sessions.revoke_all(&user).await?,
        (None, Some(sid)) => {
            let revoke = app.sessions.revoke_everyone_where("idp_sid", sid.clone());
            revoke.await?
        }
        (None, None) => 0,
    };
    transaction.commit().await?;
    Ok(Accepted::Sessions(ended))
}
