//! The contestants: the table of them, and what each can do.

pub(crate) mod app;
mod axum_session;
pub(crate) mod by_hand;
mod empty;
pub(crate) mod ground;
mod in_process;
mod look_up;
mod ours;
mod redis;
pub(crate) mod redis_server;
pub(crate) mod start;
pub(crate) mod user;
mod usual;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;

use crate::{
    BoxError,
    data::Tables,
    load::{Load, Sample},
    request::Requests,
};

/// A row of the table: the facts about a contestant that is not started.
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

/// `joined` with a hundred connections, for the part about distance: at a distance, a pool of ten
/// is exhausted long before the server is.
pub(crate) const JOINED_100: &str = "joined-100";

pub(crate) const ALL: &[About] = &[
    about("empty", "the inner service alone", true),
    about(
        "ours",
        "LoadUserLayer over PgSessionStore, every default",
        true,
    ),
    about(
        "ours-cached",
        "`ours` with the feed of ended sessions and a warm cache",
        true,
    ),
    about(
        "joined",
        "one joined query by hand: deadpool, prepare_cached, query_opt",
        true,
    ),
    about(
        "two",
        "two queries by hand, with the same functions as `joined`",
        true,
    ),
    about(
        "usual",
        "axum-login, tower-sessions and its sqlx store, every default",
        true,
    ),
    about(
        "usual-no-ping",
        "`usual` with the pool's test_before_acquire off",
        true,
    ),
    about(
        "usual-memory",
        "the layers of `usual` on tower-sessions' MemoryStore, with users in a HashMap",
        false,
    ),
    about(
        "axum_session",
        "axum_session and axum_session_auth on sqlx, every default: caches in the process",
        true,
    ),
    about(
        "redis",
        "a limit: one GET in Redis that returns the user, over two multiplexed connections",
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

/// A contestant that runs in this process: a tower service, and the requests it understands.
#[async_trait]
pub(crate) trait Contestant: Send + Sync {
    fn requests(&self) -> &Arc<Requests>;
    /// A closed loop: `tasks` tasks, each with one request after the other, for this time. `load`
    /// says how many of ten requests carry unknown tokens.
    async fn closed(
        &self,
        load: Load,
        time: Duration,
        server: Option<crate::cpu::Server>,
    ) -> Sample;
    /// An open loop: requests at this rate.
    async fn open(&self, rate: u32, time: Duration, server: Option<crate::cpu::Server>) -> Sample;
    /// Sends this many requests, and returns how many of them did not get the right user.
    async fn exactly(&self, tasks: u32, requests: u32) -> u64;
    fn router(&self) -> Router;
}

/// A started contestant, or why it did not start.
pub(crate) type Started = Result<Box<dyn Contestant>, BoxError>;

pub(crate) fn tables(ids: &[&'static str]) -> Tables {
    let any = |prefix: &str| ids.iter().any(|id| id.starts_with(prefix));
    Tables {
        tower_sessions: any("usual"),
        axum_session: any("axum_session"),
    }
}
