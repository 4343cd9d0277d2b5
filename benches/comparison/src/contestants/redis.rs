//! A lower bound: the user in Redis, under the token's digest, one `GET` per request.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use redis::aio::MultiplexedConnection;
use tower_user_session::session::SessionToken;

use super::{
    Started,
    ground::Ground,
    in_process::InProcess,
    look_up::{self, Find},
    user::User,
};
use crate::{BoxError, request::Cookie};

/// Redis multiplexes. Two connections, as many as this crate uses for lookups.
const CONNECTIONS: usize = 2;

pub(super) async fn start(ground: &Ground) -> Started {
    let server = ground.redis.as_ref().ok_or("there is no redis-server")?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(server.connect().await?);
    }
    let service = look_up::service(InRedis {
        connections: connections.into(),
        next: Arc::default(),
    });
    Ok(InProcess::boxed(service, ground.requests(Cookie::Ours)?))
}

#[derive(Clone)]
struct InRedis {
    connections: Arc<[MultiplexedConnection]>,
    next: Arc<AtomicUsize>,
}

impl Find for InRedis {
    async fn find(self, token: SessionToken) -> Result<Option<User>, BoxError> {
        let place = self.next.fetch_add(1, Relaxed) % self.connections.len();
        let digest = token.digest();
        let value: Option<Vec<u8>> = redis::cmd("GET")
            .arg(&digest.as_bytes()[..])
            .query_async(&mut self.connections[place].clone())
            .await?;
        Ok(value
            .map(|value| rmp_serde::from_slice(&value))
            .transpose()?)
    }
}
