//! This crate with all defaults, and with its cache enabled.

use std::{convert::Infallible, future::ready, sync::Arc};

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;
use tower::{Layer as _, service_fn};
use tower_user_session::{LoadUserLayer, PgSessionStore, SessionService};

use super::{
    Contestant, Started,
    ground::{Ground, POOL_SIZE},
    in_process::InProcess,
    user::{User, who_is_it},
};
use crate::{
    BoxError, data,
    request::{Cookie, Requests},
};

pub(super) fn start(ground: &Ground) -> Started {
    over(ground.manager(), ground.requests(Cookie::Ours)?)
}

/// With the feed of ended sessions and the cache, which are off by default.
pub(super) async fn start_cached(ground: &Ground) -> Started {
    let sessions = sessions(ground.manager())?;
    let store = sessions.store();
    store.migrate().notify_on_user_change().await?;
    let feed = store.feed(ground.config.clone(), NoTls);
    sessions
        .enable_cache(feed, 2 * data::KNOWN as usize)
        .await?;
    Ok(service(sessions, ground.requests(Cookie::Ours)?))
}

pub(super) fn over(manager: Manager, requests: Arc<Requests>) -> Started {
    Ok(service(sessions(manager)?, requests))
}

fn sessions(manager: Manager) -> Result<SessionService<PgSessionStore<User>>, BoxError> {
    let pool = Pool::builder(manager)
        .max_size(POOL_SIZE as usize)
        .build()?;
    Ok(SessionService::new(PgSessionStore::new(pool)))
}

fn service(
    sessions: SessionService<PgSessionStore<User>>,
    requests: Arc<Requests>,
) -> Box<dyn Contestant> {
    let inner = service_fn(|request| ready(Ok::<_, Infallible>(who_is_it(&request))));
    let service = LoadUserLayer::new(sessions).layer(inner);
    InProcess::boxed(service, requests)
}
