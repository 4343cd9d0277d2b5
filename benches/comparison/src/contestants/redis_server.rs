//! The Redis server of one contestant, filled with its users.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use tower_user_session::session::SessionToken;

use super::user::User;
use crate::{
    BoxError,
    data::{self, Numbers},
};

/// A private `redis-server` on a Unix socket. It stops when this value is dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    folder: PathBuf,
}

impl RedisServer {
    /// # Errors
    ///
    /// If Redis is not installed, above all.
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

    /// # Errors
    ///
    /// If the server does not accept connections within ten seconds.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, BoxError> {
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
        // Its data is not needed any more, and an error cannot be reported here.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
