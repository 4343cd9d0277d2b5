//! `axum_session` and `axum_session_auth`, as their documentation sets them up.

use std::{convert::Infallible, future::ready};

use async_trait::async_trait;
use axum::body::Body;
use axum_session::{SessionConfig, SessionLayer, SessionStore};
use axum_session_auth::{AuthConfig, AuthSession, AuthSessionLayer, Authentication};
use axum_session_sqlx::SessionPgPool;
use http::Request;
use sqlx_for_axum_session::{
    PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tower::{Layer as _, service_fn};

use super::{
    Started,
    ground::{Ground, POOL_SIZE},
    in_process::InProcess,
    user::{User, answer},
};
use crate::request::Cookie;

pub(super) async fn start(ground: &Ground) -> Started {
    let options = PgConnectOptions::new()
        .socket(
            ground
                .server
                .directory()
                .ok_or("the server is not private")?,
        )
        .username("postgres")
        .database("postgres");
    let pool = PgPoolOptions::new()
        .max_connections(POOL_SIZE)
        .connect_with(options)
        .await?;
    let config = SessionConfig::default().with_table_name("axum_sessions");
    let auth = AuthConfig::<i64>::default();
    let store = SessionStore::<SessionPgPool>::new(Some(pool.clone().into()), config).await?;
    let inner = service_fn(|request: Request<Body>| {
        let session = request
            .extensions()
            .get::<AuthSession<User, i64, SessionPgPool, PgPool>>();
        let user = session.and_then(|session| session.current_user.as_ref());
        ready(Ok::<_, Infallible>(answer(user.map(|user| user.id))))
    });
    let users =
        AuthSessionLayer::<User, i64, SessionPgPool, PgPool>::new(Some(pool)).with_config(auth);
    let service = SessionLayer::new(store).layer(users.layer(inner));
    Ok(InProcess::boxed(
        service,
        ground.requests(Cookie::AxumSession)?,
    ))
}

#[async_trait]
impl Authentication<User, i64, PgPool> for User {
    async fn load_user(id: i64, pool: Option<&PgPool>) -> Result<User, anyhow::Error> {
        let pool = pool.ok_or_else(|| anyhow::anyhow!("there is no pool"))?;
        let row = sqlx_for_axum_session::query(
            "SELECT id, email, name, created_at FROM users WHERE id = $1",
        )
        .bind(id)
        .fetch_one(pool)
        .await?;
        Ok(User {
            id: row.try_get(0)?,
            email: row.try_get(1)?,
            name: row.try_get(2)?,
            created_at: row.try_get(3)?,
        })
    }

    fn is_authenticated(&self) -> bool {
        true
    }

    fn is_active(&self) -> bool {
        true
    }

    fn is_anonymous(&self) -> bool {
        false
    }
}
