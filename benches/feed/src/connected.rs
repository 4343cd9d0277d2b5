//! Part a: the time until an ended session is rejected everywhere, with connected feeds.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::Mutex, task::JoinSet};
use tower_user_session::BoxError;

use crate::{
    ending::{Ending, Way, four, keep},
    figures::{Report, percentile},
    ground::{Ground, sessions},
    process::Process,
};

const SESSIONS: u64 = 10_500;
const AT_ONCE: u64 = 4;

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let count = ground.scaled(SESSIONS, 420);
    let database = ground.database(count).await?;
    let processes = Arc::new(four(&database).await?);
    keep(&processes, 0, count).await?;

    let elsewhere = sessions(&database.config(), 4)?;
    let client = Arc::new(database.client().await);
    let next = Arc::new(Mutex::new(0..count));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (processes, client) = (Arc::clone(&processes), Arc::clone(&client));
        let (elsewhere, next) = (elsewhere.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            let ending = Ending {
                processes: &processes,
                client: &client,
                elsewhere: &elsewhere,
            };
            let mut outcomes = Vec::new();
            loop {
                let Some(session) = next.lock().await.next() else {
                    return Ok::<_, BoxError>(outcomes);
                };
                ending.watch(session).await?;
                let outcome = ending.end(session, Way::of(session), |_| None).await?;
                outcomes.push((session % 7, outcome));
            }
        });
    }
    let mut by_way: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    let mut after_return = Vec::new();
    let (mut late, mut not_kept) = (0, 0);
    while let Some(outcomes) = tasks.join_next().await {
        for (way, outcome) in outcomes?? {
            by_way.entry(way).or_default().push(outcome.last_refusal);
            after_return.push(outcome.after_return);
            late += outcome.late;
            not_kept += outcome.not_kept;
        }
    }
    let failed: u64 = processes.iter().map(Process::failed).sum();

    println!("\na. From the end of a session to the last of four processes that refuses it, in ms");
    println!("{:<16}{:>8}{:>8}{:>8}{:>8}", "", "p50", "p99", "max", "n");
    let mut all: Vec<f64> = by_way.values().flatten().copied().collect();
    for (way, times) in &mut by_way {
        // In each process at some time.
        let name = format!("{:?}", Way::of(*way));
        line(name.trim_end_matches("(0)"), times);
    }
    line("all", &mut all);
    line("from the return", &mut after_return);
    println!("late answers: {late}; not kept before: {not_kept}; failed lookups: {failed}");
    report.late += late;
    report.add("ended_to_refused_p50", percentile(&mut all, 50), "ms", "-");
    report.add(
        "ended_to_refused_p99",
        percentile(&mut all, 99),
        "ms",
        "<= 50",
    );
    report.add("ended_to_refused_max", percentile(&mut all, 100), "ms", "-");
    report.add("ended_sessions", all.len() as f64, "sessions", ">= 10000");
    report.add("late_answers_hearing", late as f64, "answers", "0");
    Ok(())
}

fn line(name: &str, times: &mut [f64]) {
    println!(
        "{name:<16}{:>8.2}{:>8.2}{:>8.2}{:>8}",
        percentile(times, 50),
        percentile(times, 99),
        percentile(times, 100),
        times.len()
    );
}
