//! Part b: the time until an ended session is rejected everywhere, while the feeds are
//! disconnected.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use futures_util::future::try_join_all;
use rustix::process::Signal;
use tokio::time::sleep;
use tower_user_session::{BoxError, tokio_postgres::Client};

use crate::{
    clock,
    ending::{Ending, Outcome, Way, keep},
    figures::{Report, percentile},
    ground::{Ground, PROCESSES, Sessions, sessions},
    process::Process,
    proxy::Proxy,
};

/// In each round each process has its own fault, and this many sessions end.
const SESSIONS_IN_A_ROUND: u64 = 8;
const STOPPED: Duration = Duration::from_secs(3);

/// The fault of one process's feed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Nothing is forwarded until the round is over. Then the held data arrives.
    Silent,
    /// Nothing is forwarded until the round is over. Then the connection is closed.
    SilentAndGone,
    /// Nothing is forwarded for about a second or less, and then all of it.
    Hiccup,
    /// The connection is closed, and a new one can be opened.
    Cut,
    /// The connection is closed, and so are new ones until the round is over.
    CutForLong,
}

const FAULTS: [Fault; 5] = [
    Fault::Silent,
    Fault::SilentAndGone,
    Fault::Hiccup,
    Fault::Cut,
    Fault::CutForLong,
];

struct Stage {
    proxies: Vec<Proxy>,
    processes: Vec<Process>,
    client: Client,
    elsewhere: Sessions,
}

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let (rounds, stops) = (ground.scaled(50, 3), ground.scaled(12, 1));
    let stage = Stage::set(ground, (rounds + stops) * SESSIONS_IN_A_ROUND).await?;
    let mut first = 0;
    let (mut cut, mut stopped) = (Vec::new(), Vec::new());
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for _ in 0..rounds {
        let chosen = [(); PROCESSES].map(|()| FAULTS[fastrand::usize(..FAULTS.len())]);
        for fault in chosen {
            *faults.entry(fault).or_default() += 1;
        }
        cut.extend(stage.cut(first, chosen).await?);
        first += SESSIONS_IN_A_ROUND;
    }
    for _ in 0..stops {
        stopped.extend(stage.stop(first).await?);
        first += SESSIONS_IN_A_ROUND;
    }
    let slept: u64 = stage.processes.iter().map(Process::stale).sum();
    let failed: u64 = stage.processes.iter().map(Process::failed).sum();

    println!(
        "\nb. The same where feeds are cut or silent, or processes are stopped for {STOPPED:?}"
    );
    println!("faults: {faults:?}, and {} stops", stops * PROCESSES as u64);
    println!("answers from the cache after a sleep: {slept}; failed lookups: {failed}");
    summary("cut", &cut, "<= 1100", report);
    summary("stopped", &stopped, "-", report);
    report.late += slept;
    let repetitions = (rounds + stops) * PROCESSES as u64;
    report.add("faults", repetitions as f64, "faults", ">= 200");
    report.add("answers_after_a_sleep", slept as f64, "answers", "0");
    Ok(())
}

fn summary(name: &str, outcomes: &[Outcome], aim: &'static str, report: &mut Report) {
    let mut times: Vec<f64> = outcomes.iter().map(|o| o.last_refusal).collect();
    let late: u64 = outcomes.iter().map(|outcome| outcome.late).sum();
    let not_kept: u64 = outcomes.iter().map(|outcome| outcome.not_kept).sum();
    println!(
        "{name}: {} sessions; late answers: {late}; not kept before: {not_kept}",
        times.len()
    );
    let mut add = |what: &str, percent: usize, aim: &'static str| {
        let value = percentile(&mut times, percent);
        report.add(&format!("{name}_to_refused_{what}"), value, "ms", aim);
    };
    add("p50", 50, "-");
    add("p99", 99, "-");
    add("max", 100, aim);
    report.add(&format!("late_answers_{name}"), late as f64, "answers", "0");
    report.late += late;
}

impl Stage {
    async fn set(ground: &Ground, count: u64) -> Result<Self, BoxError> {
        let database = ground.database(count).await?;
        let (mut proxies, mut processes) = (Vec::new(), Vec::new());
        for _ in 0..PROCESSES {
            let proxy = Proxy::before(&database.config()).await?;
            let feed = proxy.url(database.name());
            processes.push(Process::start(&database, Some(feed)).await?);
            proxies.push(proxy);
        }
        Ok(Self {
            client: database.client().await,
            elsewhere: sessions(&database.config(), 4)?,
            proxies,
            processes,
        })
    }

    /// Caches the sessions of a round in each process, and looks them up from then on.
    async fn ready(&self, first: u64) -> Result<Ending<'_>, BoxError> {
        let ending = Ending {
            processes: &self.processes,
            client: &self.client,
            elsewhere: &self.elsewhere,
        };
        keep(&self.processes, first, first + SESSIONS_IN_A_ROUND).await?;
        for session in first..first + SESSIONS_IN_A_ROUND {
            ending.watch(session).await?;
        }
        Ok(ending)
    }

    async fn cut(&self, first: u64, chosen: [Fault; PROCESSES]) -> Result<Vec<Outcome>, BoxError> {
        let ending = self.ready(first).await?;
        let faults: Vec<_> = self
            .proxies
            .iter()
            .zip(chosen)
            .map(|(proxy, fault)| tokio::spawn(begin(proxy.clone(), fault)))
            .collect();
        let ways = (first..).map(Way::of);
        let outcomes = end_all(&ending, first, ways, 800, |_| None).await?;
        for ((fault, chosen), proxy) in faults.into_iter().zip(chosen).zip(&self.proxies) {
            fault.await?;
            if chosen == Fault::SilentAndGone {
                proxy.cut(false);
            }
            proxy.open();
        }
        Ok(outcomes)
    }

    async fn stop(&self, first: u64) -> Result<Vec<Outcome>, BoxError> {
        let ending = self.ready(first).await?;
        let continued = [const { OnceLock::new() }; PROCESSES];
        let stops = self
            .processes
            .iter()
            .zip(&continued)
            .map(|(process, continued)| async move {
                sleep(random(600)).await;
                process.signal(Signal::STOP)?;
                sleep(STOPPED).await;
                let _ = continued.set(clock::now());
                process.signal(Signal::CONT)
            });
        let ways = (first..).map(Way::from_outside);
        // Mostly while the processes are stopped. Earlier ends are received as notifications.
        let ends = end_all(&ending, first, ways, 2_500, |process| {
            continued[process].get().copied()
        });
        let (stopped, outcomes) = tokio::join!(try_join_all(stops), ends);
        stopped?;
        outcomes
    }
}

async fn begin(proxy: Proxy, fault: Fault) {
    sleep(random(500)).await;
    match fault {
        Fault::Silent | Fault::SilentAndGone => proxy.silence(),
        Fault::Hiccup => {
            proxy.silence();
            sleep(random(1_200)).await;
            proxy.open();
        }
        Fault::Cut => proxy.cut(false),
        Fault::CutForLong => proxy.cut(true),
    }
}

/// Ends a round's sessions at random moments within this many milliseconds.
async fn end_all(
    ending: &Ending<'_>,
    first: u64,
    ways: impl Iterator<Item = Way>,
    within: u64,
    continued: impl Fn(usize) -> Option<u64>,
) -> Result<Vec<Outcome>, BoxError> {
    let continued = &continued;
    let ends = (first..first + SESSIONS_IN_A_ROUND)
        .zip(ways)
        .map(|(session, way)| async move {
            sleep(random(within)).await;
            ending.end(session, way, continued).await
        });
    try_join_all(ends).await
}

fn random(milliseconds: u64) -> Duration {
    Duration::from_micros(fastrand::u64(..=milliseconds * 1_000))
}
