//! Registration and sign-in. Each is a ceremony of two requests: `start` sends a challenge, and
//! `finish` checks the signature and signs in.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Result},
};
use serde::Deserialize;
use serde_json::{Value, from_value, to_value};
use tower_user_session::SignedIn;
use uuid::Uuid;
use webauthn_rs::prelude::{
    CreationChallengeResponse, Passkey, PublicKeyCredential, RegisterPublicKeyCredential,
    RequestChallengeResponse,
};

use crate::{App, ceremonies::Ceremony, failed};

/// The cookie of the ceremony, and the challenge.
type Started<T> = (
    AppendHeaders<[(header::HeaderName, header::HeaderValue); 1]>,
    Json<T>,
);

#[derive(Deserialize)]
pub(crate) struct Name {
    name: String,
}

pub(crate) async fn start_registration(
    State(app): State<App>,
    Json(Name { name }): Json<Name>,
) -> Result<Started<CreationChallengeResponse>> {
    let name = name.trim().to_owned();
    if name.is_empty() || name.len() > 100 {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, "Please enter a name.").into());
    }
    let user_id = Uuid::new_v4();
    let started = app
        .webauthn
        .start_passkey_registration(user_id, &name, &name, None);
    let (challenge, state) = started.map_err(failed)?;
    let ceremony = Ceremony::Registration {
        user_id,
        name,
        state,
    };
    let cookie = app.ceremonies.begin(ceremony).map_err(failed)?;
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Json(challenge),
    ))
}

/// Creates the account, its passkey and its first session in one transaction.
pub(crate) async fn finish_registration(
    State(app): State<App>,
    headers: HeaderMap,
    Json(credential): Json<RegisterPublicKeyCredential>,
) -> Result<(SignedIn, StatusCode)> {
    let Some(Ceremony::Registration {
        user_id,
        name,
        state,
    }) = app.ceremonies.take(&headers)
    else {
        return Err(expired());
    };
    let passkey = app
        .webauthn
        .finish_passkey_registration(&credential, &state);
    let passkey = passkey.map_err(|error| refused(&error))?;

    let mut client = app.sessions.store().pool().get().await.map_err(failed)?;
    let transaction = client.transaction().await.map_err(failed)?;
    let insert =
        "INSERT INTO passkey_users (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    let inserted = transaction
        .execute(insert, &[&user_id, &name])
        .await
        .map_err(failed)?;
    if inserted == 0 {
        return Err((StatusCode::CONFLICT, "This name is taken.").into());
    }
    let insert = "INSERT INTO passkeys (credential_id, user_id, passkey) VALUES ($1, $2, $3)";
    let json = to_value(&passkey).map_err(failed)?;
    let id = passkey.cred_id().as_slice();
    transaction
        .execute(insert, &[&id, &user_id, &json])
        .await
        .map_err(failed)?;
    let signed_in = app
        .sessions
        .sign_in(user_id, &headers)
        .in_transaction(&transaction)
        .await?;
    transaction.commit().await.map_err(failed)?;
    Ok((signed_in, StatusCode::NO_CONTENT))
}

/// The response tells whether the name has an account, so names are public here.
pub(crate) async fn start_sign_in(
    State(app): State<App>,
    Json(Name { name }): Json<Name>,
) -> Result<Started<RequestChallengeResponse>> {
    let client = app.sessions.store().pool().get().await.map_err(failed)?;
    let select = "SELECT u.id, p.passkey FROM passkey_users AS u
        JOIN passkeys AS p ON p.user_id = u.id WHERE u.name = $1";
    let rows = client
        .query(select, &[&name.trim()])
        .await
        .map_err(failed)?;
    let Some(user_id) = rows.first().map(|row| row.get("id")) else {
        return Err((
            StatusCode::UNAUTHORIZED,
            "There is no passkey for this name.",
        )
            .into());
    };
    let passkeys = rows.iter().map(|row| from_value(row.get("passkey")));
    let passkeys = passkeys
        .collect::<Result<Vec<Passkey>, _>>()
        .map_err(failed)?;
    let started = app.webauthn.start_passkey_authentication(&passkeys);
    let (challenge, state) = started.map_err(failed)?;
    let cookie = app
        .ceremonies
        .begin(Ceremony::SignIn { user_id, state })
        .map_err(failed)?;
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        Json(challenge),
    ))
}

pub(crate) async fn finish_sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    Json(credential): Json<PublicKeyCredential>,
) -> Result<impl IntoResponse> {
    let Some(Ceremony::SignIn { user_id, state }) = app.ceremonies.take(&headers) else {
        return Err(expired());
    };
    let result = app
        .webauthn
        .finish_passkey_authentication(&credential, &state);
    let result = result.map_err(|error| refused(&error))?;

    let mut client = app.sessions.store().pool().get().await.map_err(failed)?;
    let transaction = client.transaction().await.map_err(failed)?;
    let select =
        "SELECT passkey FROM passkeys WHERE credential_id = $1 AND user_id = $2 FOR UPDATE";
    let id = result.cred_id().as_slice();
    let row = transaction
        .query_opt(select, &[&id, &user_id])
        .await
        .map_err(failed)?;
    // The user has removed the passkey meanwhile.
    let row = row.ok_or_else(expired)?;
    let mut passkey: Passkey = from_value(row.get::<_, Value>("passkey")).map_err(failed)?;
    if passkey.update_credential(&result) == Some(true) {
        let update = "UPDATE passkeys SET passkey = $1 WHERE credential_id = $2";
        let json = to_value(&passkey).map_err(failed)?;
        transaction
            .execute(update, &[&json, &id])
            .await
            .map_err(failed)?;
    }
    let signed_in = app
        .sessions
        .sign_in(user_id, &headers)
        .in_transaction(&transaction)
        .await?;
    transaction.commit().await.map_err(failed)?;
    Ok((signed_in, StatusCode::NO_CONTENT))
}

fn expired() -> axum::response::ErrorResponse {
    (
        StatusCode::BAD_REQUEST,
        "This took too long. Please try again.",
    )
        .into()
}

fn refused(error: &webauthn_rs::prelude::WebauthnError) -> axum::response::ErrorResponse {
    tracing::info!(%error, "a passkey was rejected");
    (StatusCode::UNAUTHORIZED, "The passkey was rejected.").into()
}
