//! The servers, tables and requests that the contestants run on.

use std::sync::Arc;

use deadpool_postgres::Manager;
use ephemeral_postgres::Server;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_postgres::{
    NoTls,
    config::{Host as ConfigHost, SslMode},
};

use super::redis_server::RedisServer;
use crate::{
    BoxError,
    data::{Numbers, Tables},
    delaying_proxy::Host,
    request::{Cookie, Requests},
    tls::Tls,
};

/// Connections of each contestant's pool.
pub(super) const POOL_SIZE: u32 = 10;

/// The servers and requests that a contestant is started on.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) server: Arc<Server>,
    /// How the contestants connect: to the server, or to a proxy at a distance from it.
    pub(crate) config: tokio_postgres::Config,
    pub(super) tls: Option<Tls>,
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
            tls: None,
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

    /// The same, for contestants that connect to this host instead of the server.
    pub(crate) fn through(&self, host: &Host, tls: Option<&Tls>) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host(host.to_string());
        config.user("postgres").dbname("postgres");
        if tls.is_some() {
            config.ssl_mode(SslMode::Require);
        }
        Self {
            server: Arc::clone(&self.server),
            config,
            tls: tls.cloned(),
            numbers: self.numbers,
            redis: None,
            ours: Arc::clone(&self.ours),
            tower_sessions: self.tower_sessions.clone(),
            axum_session: self.axum_session.clone(),
        }
    }

    /// Opens the connections of a pool.
    pub(super) fn manager(&self) -> Manager {
        let config = self.config.clone();
        match &self.tls {
            Some(tls) => Manager::new(config, tls.connector.clone()),
            None => Manager::new(config, NoTls),
        }
    }

    /// The same for sqlx.
    pub(super) fn options(&self) -> Result<PgConnectOptions, BoxError> {
        let [host] = self.config.get_hosts() else {
            return Err("there is not one host".into());
        };
        let options = PgConnectOptions::new_without_pgpass()
            .username("postgres")
            .database("postgres");
        let options = match host {
            ConfigHost::Unix(directory) => options.socket(directory),
            ConfigHost::Tcp(host) => options.host(host),
        };
        Ok(match &self.tls {
            Some(tls) => options
                .ssl_mode(PgSslMode::VerifyFull)
                .ssl_root_cert_from_pem(tls.certificate.clone().into()),
            None => options,
        })
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
