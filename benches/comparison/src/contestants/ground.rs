//! The servers, tables and requests that the contestants run on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ephemeral_postgres::Server;

use super::redis_server::RedisServer;
use crate::{
    BoxError,
    data::{Numbers, Tables},
    request::{Cookie, Requests},
};

/// Connections of each contestant's pool.
pub(super) const POOL_SIZE: u32 = 10;

/// The servers and requests that a contestant is started on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) server: Arc<Server>,
    /// Where the contestants connect to: the server's socket, or one at a distance from it.
    pub(super) directory: Option<PathBuf>,
    pub(crate) config: tokio_postgres::Config,
    pub(crate) numbers: Numbers,
    pub(crate) redis: Option<RedisServer>,
    ours: Arc<Requests>,
    tower_sessions: Option<Arc<Requests>>,
    axum_session: Option<Arc<Requests>>,
}

impl Ground {
    pub(crate) fn new(
        server: Server,
        numbers: Numbers,
        tables: Tables,
        redis: Option<RedisServer>,
    ) -> Self {
        Self {
            config: server.config(),
            directory: server.directory().map(Path::to_owned),
            server: Arc::new(server),
            numbers,
            redis,
            ours: Requests::new(Cookie::Ours, numbers),
            tower_sessions: tables
                .tower_sessions
                .then(|| Requests::new(Cookie::TowerSessions, numbers)),
            axum_session: tables
                .axum_session
                .then(|| Requests::new(Cookie::AxumSession, numbers)),
        }
    }

    /// The same, for contestants that connect to the server through this directory.
    pub(crate) fn through(&self, directory: &Path) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host_path(directory);
        config.user("postgres").dbname("postgres");
        Self {
            server: Arc::clone(&self.server),
            directory: Some(directory.to_owned()),
            config,
            numbers: self.numbers,
            redis: None,
            ours: Arc::clone(&self.ours),
            tower_sessions: self.tower_sessions.clone(),
            axum_session: self.axum_session.clone(),
        }
    }

    pub(crate) fn requests(&self, cookie: Cookie) -> Result<Arc<Requests>, BoxError> {
        let requests = match cookie {
            Cookie::Ours => Some(&self.ours),
            Cookie::TowerSessions => self.tower_sessions.as_ref(),
            Cookie::AxumSession => self.axum_session.as_ref(),
        };
        requests
            .cloned()
            .ok_or_else(|| format!("no table was filled for {cookie:?}").into())
    }

    /// The server whose processor time is counted in addition to this process's.
    pub(crate) fn server_of(&self, id: &str) -> Option<crate::cpu::Server> {
        let pid = match id {
            "redis" => self.redis.as_ref()?.pid(),
            _ => self.server.pid()?,
        };
        Some(crate::cpu::Server(pid))
    }
}
