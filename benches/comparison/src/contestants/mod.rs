//! Who takes part, and what all of them have in common.

mod axum_session;
mod by_hand;
mod empty;
mod look_up;
mod ours;
mod redis;
mod user;
mod usual;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{Router, body::Body};
use ephemeral_postgres::Server;
use http::{Request, Response};
use std::convert::Infallible;
use tower::Service;

pub(crate) use self::{
    by_hand::JOINED,
    redis::RedisServer,
    user::{User, named},
};
use crate::{
    BoxError,
    data::{Numbers, Tables},
    load::{self, Load, Sample},
    request::{Cookie, Requests},
};

/// What is known of a contestant without starting it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    /// Whether it is measured in the open loop and over HTTP too.
    pub(crate) everywhere: bool,
}

const fn about(id: &'static str, what: &'static str, everywhere: bool) -> About {
    About {
        id,
        what,
        everywhere,
    }
}

pub(crate) const PGBENCH: &str = "pgbench";

pub(crate) const ALL: &[About] = &[
    about("empty", "the inner service alone", true),
    about(
        "ours",
        "LoadUserLayer over PgSessionStore, every default",
        true,
    ),
    about(
        "ours-cached",
        "the same with the feed of ended sessions and the cache, once it is warm",
        true,
    ),
    about(
        "joined",
        "one joined query by hand: deadpool, prepare_cached, query_opt",
        true,
    ),
    about("two", "two queries by hand, the same way", true),
    about(
        "usual",
        "axum-login, tower-sessions and its sqlx store, every default",
        true,
    ),
    about(
        "usual-no-ping",
        "the same, with the pool's test_before_acquire off",
        true,
    ),
    about(
        "usual-memory",
        "the same layers on tower-sessions' MemoryStore, users in a HashMap",
        false,
    ),
    about(
        "axum_session",
        "axum_session and axum_session_auth on sqlx, every default: caches in the process",
        true,
    ),
    about(
        "redis",
        "a limit: one GET in Redis that holds the user, two multiplexed connections",
        true,
    ),
    about(
        PGBENCH,
        "a limit: pgbench -M prepared with the joined query, at its best number of clients",
        false,
    ),
];

pub(crate) fn about_of(id: &str) -> &'static About {
    ALL.iter().find(|about| about.id == id).unwrap_or(&ALL[0])
}

/// What contestants are made of.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) server: Server,
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
            server,
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

    /// The server whose processor time counts beside this process's.
    pub(crate) fn server_of(&self, id: &str) -> Option<crate::cpu::Server> {
        let pid = match id {
            "redis" => self.redis.as_ref()?.pid(),
            _ => self.server.pid()?,
        };
        Some(crate::cpu::Server(pid))
    }
}

/// A contestant's service.
pub(crate) trait App:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> App for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// A contestant that runs in this process: a tower service, and the requests it understands.
#[async_trait]
pub(crate) trait Contestant: Send + Sync {
    fn requests(&self) -> &Arc<Requests>;
    /// `tasks` at once, each with one request after the other, for so long. Of ten requests so many
    /// carry tokens of no session.
    async fn closed(
        &self,
        load: Load,
        time: Duration,
        server: Option<crate::cpu::Server>,
    ) -> Sample;
    /// Requests at this rate.
    async fn open(&self, rate: u32, time: Duration, server: Option<crate::cpu::Server>) -> Sample;
    /// So many requests, and how many of them did not get the right user.
    async fn exactly(&self, tasks: u32, requests: u32) -> u64;
    fn router(&self) -> Router;
}

/// What starting a contestant comes to.
pub(crate) type Started = Result<Box<dyn Contestant>, BoxError>;

/// Starts a contestant on the runtime that this is called on.
pub(crate) async fn start(id: &str, ground: &Ground) -> Started {
    match id {
        "empty" => empty::start(ground),
        "ours" => ours::start(ground),
        "ours-cached" => ours::start_cached(ground).await,
        "joined" => by_hand::start(ground, by_hand::Way::Joined),
        "two" => by_hand::start(ground, by_hand::Way::Two),
        "usual" => usual::start(ground, true).await,
        "usual-no-ping" => usual::start(ground, false).await,
        "usual-memory" => usual::start_in_memory(ground).await,
        "axum_session" => axum_session::start(ground).await,
        "redis" => redis::start(ground).await,
        other => Err(format!("{other} is not run in this process").into()),
    }
}

/// This crate over a database of the caller's.
pub(crate) fn ours_over(config: tokio_postgres::Config, numbers: Numbers) -> Started {
    ours::over(config, Requests::new(Cookie::Ours, numbers))
}

pub(crate) fn tables(ids: &[&'static str]) -> Tables {
    let any = |prefix: &str| ids.iter().any(|id| id.starts_with(prefix));
    Tables {
        tower_sessions: any("usual"),
        axum_session: any("axum_session"),
    }
}

/// Connections of each contestant's pool.
const POOL_SIZE: u32 = 10;

struct InProcess<S> {
    service: S,
    requests: Arc<Requests>,
}

impl<S: App> InProcess<S> {
    fn boxed(service: S, requests: Arc<Requests>) -> Box<dyn Contestant> {
        Box::new(Self { service, requests })
    }
}

#[async_trait]
impl<S: App> Contestant for InProcess<S> {
    fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    async fn closed(
        &self,
        load: Load,
        time: Duration,
        server: Option<crate::cpu::Server>,
    ) -> Sample {
        load::closed(&self.service, &self.requests, load, time, server).await
    }

    async fn open(&self, rate: u32, time: Duration, server: Option<crate::cpu::Server>) -> Sample {
        load::open(&self.service, &self.requests, rate, time, server).await
    }

    async fn exactly(&self, tasks: u32, requests: u32) -> u64 {
        load::exactly(&self.service, &self.requests, tasks, requests).await
    }

    fn router(&self) -> Router {
        Router::new().route_service("/me", self.service.clone())
    }
}
