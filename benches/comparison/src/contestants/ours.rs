//! This crate, with every default.

use std::{convert::Infallible, future::ready, sync::Arc};

use axum::body::Body;
use deadpool_postgres::{Manager, Pool};
use http::Request;
use tokio_postgres::{Config, NoTls};
use tower::{Layer as _, service_fn};
use tower_user_session::{LoadUserLayer, PgSessionStore, SessionService};

use super::{Ground, InProcess, POOL_SIZE, Started, User, user::answer};
use crate::request::{Cookie, Requests};

pub(super) fn start(ground: &Ground) -> Started {
    over(ground.config.clone(), ground.requests(Cookie::Ours)?)
}

pub(super) fn over(config: Config, requests: Arc<Requests>) -> Started {
    let pool = Pool::builder(Manager::new(config, NoTls))
        .max_size(POOL_SIZE as usize)
        .build()?;
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    let inner = service_fn(|request: Request<Body>| {
        let user = request.extensions().get::<User>();
        ready(Ok::<_, Infallible>(answer(user.map(|user| user.id))))
    });
    let service = LoadUserLayer::new(sessions).layer(inner);
    Ok(InProcess::boxed(service, requests))
}
