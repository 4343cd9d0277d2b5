//! Starts a contestant by its id.

use deadpool_postgres::Manager;
use tokio_postgres::NoTls;

use super::{
    JOINED_100, Started, axum_session, by_hand, empty,
    ground::{Ground, POOL_SIZE},
    ours, redis, usual,
};
use crate::{
    data::Numbers,
    request::{Cookie, Requests},
};

/// Starts a contestant on the runtime that this is called on.
pub(crate) async fn start(id: &str, ground: &Ground) -> Started {
    match id {
        "empty" => empty::start(ground),
        "ours" => ours::start(ground),
        "ours-cached" => ours::start_cached(ground).await,
        "joined" => by_hand::start(ground, by_hand::Way::Joined, POOL_SIZE),
        JOINED_100 => by_hand::start(ground, by_hand::Way::Joined, 100),
        "two" => by_hand::start(ground, by_hand::Way::Two, POOL_SIZE),
        "usual" => usual::start(ground, true).await,
        "usual-no-ping" => usual::start(ground, false).await,
        "usual-memory" => usual::start_in_memory(ground).await,
        "axum_session" => axum_session::start(ground).await,
        "redis" => redis::start(ground).await,
        other => Err(format!("{other} is not run in this process").into()),
    }
}

/// Starts this crate over the caller's database.
pub(crate) fn ours_over(config: tokio_postgres::Config, numbers: Numbers) -> Started {
    let manager = Manager::new(config, NoTls);
    ours::over(manager, Requests::new(Cookie::Ours, numbers))
}
