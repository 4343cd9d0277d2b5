//! What one writes by hand: a pool of ten connections and prepared statements.

use std::convert::Infallible;

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use deadpool_postgres::Pool;
use http::{Request, Response};
use sha2::{Digest as _, Sha256};
use tower_user_session::BoxError;

use super::{App, handler, value};
use crate::{database::Database, user::User};

const JOINED: &str =
    "SELECT u.id, u.email, u.name FROM sessions AS s JOIN users AS u ON u.id = s.user_id
    WHERE s.token_digest = $1 AND s.expires_at > now()";
const SESSION: &str = "SELECT user_id FROM sessions WHERE token_digest = $1 AND expires_at > now()";
const USER: &str = "SELECT u.id, u.email, u.name FROM users AS u WHERE u.id = $1";

pub(super) fn joined(database: &Database) -> Result<App, BoxError> {
    let pool = database.pool(10)?;
    Ok(App::new(tower::service_fn(move |request| {
        let pool = pool.clone();
        async move { load(request, async |digest| find_joined(&pool, digest).await).await }
    })))
}

pub(super) fn two_queries(database: &Database) -> Result<App, BoxError> {
    let pool = database.pool(10)?;
    Ok(App::new(tower::service_fn(move |request| {
        let pool = pool.clone();
        async move { load(request, async |digest| find_in_two(&pool, digest).await).await }
    })))
}

async fn load(
    mut request: Request<Body>,
    find: impl AsyncFnOnce(&[u8]) -> Result<Option<User>, BoxError>,
) -> Result<Response<Body>, Infallible> {
    let token =
        value(&request, "__Host-session").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    if let Some(token) = token {
        match find(&Sha256::digest(token)).await {
            Ok(Some(user)) => drop(request.extensions_mut().insert(user)),
            Ok(None) => {}
            Err(_) => {
                return Ok(Response::builder()
                    .status(503)
                    .body(Body::empty())
                    .unwrap_or_default());
            }
        }
    }
    handler(request).await
}

async fn find_joined(pool: &Pool, digest: &[u8]) -> Result<Option<User>, BoxError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(JOINED).await?;
    let row = client.query_opt(&statement, &[&digest]).await?;
    Ok(row.map(|row| User {
        id: row.get(0),
        email: row.get(1),
        name: row.get(2),
    }))
}

async fn find_in_two(pool: &Pool, digest: &[u8]) -> Result<Option<User>, BoxError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(SESSION).await?;
    let Some(row) = client.query_opt(&statement, &[&digest]).await? else {
        return Ok(None);
    };
    let id: i64 = row.get(0);
    let statement = client.prepare_cached(USER).await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    Ok(row.map(|row| User {
        id: row.get(0),
        email: row.get(1),
        name: row.get(2),
    }))
}
