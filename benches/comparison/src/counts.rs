//! Statements and allocations per request, each in a separate run, because counting affects the
//! other figures.

use crate::{
    BoxError,
    contestants::{ground::Ground, start::start},
    data,
    results::Count,
};

const TASKS: u32 = 64;
const REQUESTS: u32 = 20_000;

pub(crate) async fn statements(id: &str, ground: &Ground) -> Result<f64, BoxError> {
    let client = data::connect(&ground.config).await?;
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .await?;
    let contestant = start(id, ground).await?;
    contestant
        .exactly(TASKS, contestant.requests().known())
        .await;
    data::counting(&client, true).await?;
    client
        .batch_execute("SELECT pg_stat_statements_reset()")
        .await?;
    contestant.exactly(TASKS, REQUESTS).await;
    let calls: i64 = client
        .query_one(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
             WHERE query ~* '(sessions?|users)\\M' AND query !~ 'pg_stat_statements'",
            &[],
        )
        .await?
        .get(0);
    data::counting(&client, false).await?;
    Ok(calls as f64 / f64::from(REQUESTS))
}

/// Allocations and bytes per request, counted on one thread. The drivers' own tasks are included.
pub(crate) fn allocations(id: &str, ground: &Ground) -> Result<(f64, f64), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let contestant = runtime.block_on(start(id, ground))?;
    runtime.block_on(contestant.exactly(TASKS, contestant.requests().known()));
    let counted = allocation_counter::measure(|| {
        runtime.block_on(contestant.exactly(TASKS, REQUESTS));
    });
    let each = |count: u64| count as f64 / f64::from(REQUESTS);
    Ok((each(counted.count_total), each(counted.bytes_total)))
}

/// Both, for each of these. A contestant that cannot be counted is left out and named.
pub(crate) async fn run(ids: &[&str], ground: &Ground) -> Result<Vec<Count>, BoxError> {
    let mut counts = Vec::new();
    let empty = allocations_elsewhere("empty", ground)?;
    for &id in ids {
        let statements = match id {
            "empty" | "redis" | "usual-memory" => Some(0.0),
            _ => Some(statements(id, ground).await?),
        };
        let (allocations, bytes) = allocations_elsewhere(id, ground)?;
        counts.push(Count {
            contestant: id.to_owned(),
            tasks: TASKS,
            statements,
            allocations: Some((allocations - empty.0).max(0.0)),
            bytes: Some((bytes - empty.1).max(0.0)),
        });
    }
    Ok(counts)
}

/// On a thread without a runtime.
fn allocations_elsewhere(id: &str, ground: &Ground) -> Result<(f64, f64), BoxError> {
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let counting =
                scope.spawn(|| allocations(id, ground).map_err(|error| error.to_string()));
            counting
                .join()
                .unwrap_or_else(|_| Err("it panicked".to_owned()))
        })
    })
    .map_err(Into::into)
}
