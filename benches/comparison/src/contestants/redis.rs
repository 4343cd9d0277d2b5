//! A limit: the user in Redis, under the token's digest, one `GET` a request.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use tower_user_session::SessionToken;

use super::{
    Ground, InProcess, Started, User,
    look_up::{self, Find},
};
use crate::{
    BoxError,
    data::{self, Numbers},
    request::Cookie,
};

/// Redis multiplexes; two connections, as many as this crate asks on.
const CONNECTIONS: usize = 2;

/// A private `redis-server` on a Unix socket. It ends with this value.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    folder: PathBuf,
}

impl RedisServer {
    /// # Errors
    ///
    /// When there is none installed, above all.
    pub(crate) async fn start(numbers: Numbers) -> Result<Self, BoxError> {
        let folder = std::env::temp_dir().join(format!("comparison-redis-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let child = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--unixsocket",
            ])
            .arg(folder.join("redis.sock"))
            .arg("--dir")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self { child, folder };
        server.fill(numbers).await?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn connect(&self) -> Result<MultiplexedConnection, BoxError> {
        let url = format!("redis+unix://{}", self.folder.join("redis.sock").display());
        let client = redis::Client::open(url)?;
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() > patience => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn fill(&self, numbers: Numbers) -> Result<(), BoxError> {
        let mut connection = self.connect().await?;
        let sessions: Vec<u32> = (0..numbers.sessions).collect();
        for some in sessions.chunks(10_000) {
            let mut pipe = redis::pipe();
            for &session in some {
                let token = SessionToken::parse(data::token(session).as_bytes());
                let digest = token.ok_or("not a token")?.digest();
                let id = numbers.user_of(session);
                let user = User {
                    id,
                    email: data::email(id),
                    name: format!("Person number {id}"),
                    created_at: OffsetDateTime::now_utc(),
                };
                pipe.set(&digest.as_bytes()[..], rmp_serde::to_vec(&user)?)
                    .ignore();
            }
            pipe.query_async::<()>(&mut connection).await?;
        }
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Nothing in it is worth keeping, and there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

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
