//! How fast a request finds its user: this crate, hand-written queries, the usual stack, and two limits.
//!
//! ```sh
//! cargo run --release --manifest-path benches/comparison/Cargo.toml
//! ```
//!
//! | option | default | |
//! |---|---|---|
//! | `--rounds N` | 5 | every contestant once in each, in rotated order |
//! | `--millis N` | 600 | for each contestant and number of tasks in a round |
//! | `--sessions N` | 1000000 | rows in the sessions' table |
//! | `--only a,b` | all | contestants |
//! | `--out FOLDER` | none | writes `results.json` and `results.csv` there |
//!
//! Every answer is checked. Ratios are medians of the ratios within each round.

mod contestants;
mod database;
mod load;
mod pgbench;
mod report;
mod user;

use std::{collections::BTreeMap, time::Duration};

use tower_user_session::BoxError;

use crate::{
    contestants::Contestant,
    database::{Database, own_processor_time},
    load::Measured,
    report::{Cell, Results},
};

const TASKS: [u64; 4] = [1, 8, 64, 256];
const RATES: [f64; 2] = [1_000.0, 5_000.0];

struct Options {
    rounds: usize,
    time: Duration,
    sessions: u64,
    only: Option<Vec<String>>,
    out: Option<String>,
}

impl Options {
    fn read() -> Result<Self, BoxError> {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for pair in arguments.chunks(2) {
            match pair {
                [name, value] => drop(given.insert(name, value)),
                _ => return Err(format!("{} wants a value", pair[0]).into()),
            }
        }
        let mut number = |name, default| given.remove(name).map_or(Ok(default), str::parse::<u64>);
        let rounds = number("--rounds", 5)?;
        let millis = number("--millis", 600)?;
        let sessions = number("--sessions", 1_000_000)?;
        let only = given
            .remove("--only")
            .map(|list| list.split(',').map(str::to_owned).collect());
        let out = given.remove("--out").map(str::to_owned);
        if let Some(unknown) = given.keys().next() {
            return Err(format!("there is no option {unknown}").into());
        }
        let (rounds, time) = (usize::try_from(rounds)?, Duration::from_millis(millis));
        Ok(Self {
            rounds,
            time,
            sessions,
            only,
            out,
        })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), BoxError> {
    let options = Options::read()?;
    let database = Database::fill(options.sessions).await?;
    let contestants = contestants::all(&database, options.only.as_deref()).await?;
    let mut results = Results::default();
    for contestant in &contestants {
        // Connections, statements and caches.
        load::closed(contestant, 64, Duration::from_millis(500)).await;
    }
    for round in 0..options.rounds {
        for tasks in TASKS {
            for contestant in rotated(&contestants, round) {
                let cell =
                    measure(&database, load::closed(contestant, tasks, options.time)).await?;
                results.add(contestant.name, &format!("tasks={tasks}"), cell);
            }
        }
        for rate in RATES {
            for contestant in
                rotated(&contestants, round).filter(|c| ["ours", "joined"].contains(&c.name))
            {
                let time = options.time.max(Duration::from_secs(2));
                let cell = measure(&database, load::open(contestant, rate, time)).await?;
                results.add(contestant.name, &format!("rate={rate}"), cell);
            }
        }
        for clients in pgbench::CLIENTS {
            let rate = pgbench::run(&database, clients, 1)?;
            results.add_best("pgbench", rate);
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    results.print();
    if let Some(folder) = options.out {
        results.write(&folder)?;
    }
    Ok(())
}

fn rotated(contestants: &[Contestant], round: usize) -> impl Iterator<Item = &Contestant> {
    contestants
        .iter()
        .cycle()
        .skip(round % contestants.len().max(1))
        .take(contestants.len())
}

async fn measure(
    database: &Database,
    load: impl Future<Output = Measured>,
) -> Result<Cell, BoxError> {
    let (client, server) = (own_processor_time(), database.processor_time().await?);
    let measured = load.await;
    let (client, server) = (
        own_processor_time() - client,
        database.processor_time().await? - server,
    );
    let each = |seconds: f64| seconds * 1e6 / measured.requests.max(1) as f64;
    Ok(Cell {
        rate: measured.rate(),
        p50: measured.p50.as_secs_f64() * 1e6,
        p99: measured.p99.as_secs_f64() * 1e6,
        client: each(client),
        server: each(server),
    })
}
