//! The run: what is measured, in which order.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    BoxError,
    contestants::{
        self, Contestant, PGBENCH, ground::Ground, redis_server::RedisServer, start::start,
    },
    counts, data,
    data::Numbers,
    delaying_proxy::{Host, SERVERS},
    distance, growth,
    load::{Load, Sample},
    machine, micro,
    options::{Options, Part},
    over_http::Wrk,
    pgbench::{CLIENTS, Pgbench},
    results::{Results, Run},
};

pub(crate) async fn run(options: &Options, mut results: Results) -> Result<Results, BoxError> {
    forget(&mut results, options);
    let load_before = machine::load_average();
    if options.runs(Part::Micro) {
        eprintln!("single steps");
        results.steps = micro::run()?;
    }
    let on_a_server = [
        Part::Closed,
        Part::Open,
        Part::Http,
        Part::Flood,
        Part::Memory,
        Part::SessionMetrics,
        Part::Growth,
        Part::Distance,
    ];
    if on_a_server.iter().any(|part| options.runs(*part)) {
        with_a_server(options, &mut results).await?;
    }
    results.run = Run {
        rounds: options.rounds,
        seconds: options.seconds,
        sessions: options.sessions,
        users: options.users,
        load_before,
        load_after: machine::load_average(),
    };
    Ok(results)
}

/// Drops the results that are about to be measured again.
fn forget(results: &mut Results, options: &Options) {
    results.skipped.clear();
    results.cells.retain(|cell| !options.runs(cell.part));
    if options.runs(Part::SessionMetrics) {
        results.counts.clear();
    }
    if options.runs(Part::Growth) {
        results.growth.clear();
    }
    if options.runs(Part::Distance) {
        results.distances.clear();
    }
}

async fn with_a_server(options: &Options, results: &mut Results) -> Result<(), BoxError> {
    let numbers = Numbers {
        sessions: options.sessions,
        users: options.users,
    };
    let mut ids: Vec<&'static str> = options.contestants.clone();
    let tables = contestants::tables(&ids);
    let address = Host::on_loopback(SERVERS);
    let server =
        tokio::task::block_in_place(|| data::start_server(options.with_tls().then_some(&address)))?;
    eprintln!(
        "filling {} sessions of {} users",
        numbers.sessions, numbers.users
    );
    data::fill(&server.config(), numbers, tables).await?;
    let mut redis = None;
    if ids.contains(&"redis") {
        match RedisServer::start(numbers).await {
            Ok(started) => redis = Some(started),
            Err(error) => {
                skip(
                    results,
                    &format!("redis: there is no redis-server that starts: {error}"),
                );
                ids.retain(|id| *id != "redis");
            }
        }
    }
    let ground = Ground::new(server, numbers, tables, redis);
    results.machine = machine::describe(&ground).await;
    let in_process: Vec<_> = ids.iter().copied().filter(|id| *id != PGBENCH).collect();
    if options.runs(Part::Distance) {
        distance::run(options, &ground, &address, results).await?;
    }
    if options.parts.iter().all(|part| *part == Part::Distance) {
        return Ok(());
    }
    let mut started = BTreeMap::new();
    for &id in &in_process {
        let contestant = start(id, &ground).await?;
        eprintln!("checking every answer of {id}");
        results.wrong += contestant.exactly(64, numbers.known()).await;
        started.insert(id, contestant);
    }
    let mut session = Session {
        options,
        ground: &ground,
        started,
        in_process,
        pgbench: ids.contains(&PGBENCH),
        results,
    };
    if options.runs(Part::Closed) {
        session.closed().await?;
    }
    if options.runs(Part::Open) {
        session.open().await;
    }
    if options.runs(Part::Http) {
        session.http().await?;
    }
    if options.runs(Part::Flood) {
        session.flood().await;
    }
    if options.runs(Part::Memory) {
        session.memory().await;
    }
    let in_process = session.in_process.clone();
    drop(session);
    if options.runs(Part::SessionMetrics) {
        eprintln!("counting");
        results.counts = counts::run(&in_process, &ground).await?;
    }
    if options.runs(Part::Growth) {
        results.growth = growth::run(&options.growth, options.users, &ground).await?;
    }
    Ok(())
}

pub(crate) fn skip(results: &mut Results, why: &str) {
    println!("SKIPPED {why}");
    results.skipped.push(why.to_owned());
}

struct Session<'a> {
    options: &'a Options,
    ground: &'a Ground,
    started: BTreeMap<&'static str, Box<dyn Contestant>>,
    in_process: Vec<&'static str>,
    pgbench: bool,
    results: &'a mut Results,
}

impl Session<'_> {
    /// The order of a round: each begins with a different contestant.
    fn order(&self, round: u32, everywhere: bool) -> Vec<&'static str> {
        let mut ids: Vec<_> = self
            .in_process
            .iter()
            .copied()
            .filter(|id| !everywhere || contestants::about_of(id).everywhere)
            .collect();
        if !ids.is_empty() {
            let first = round as usize * 3 % ids.len();
            ids.rotate_left(first);
        }
        ids
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    fn take(&mut self, part: Part, id: &str, load: u32, round: u32, sample: Sample) {
        let mut measured = sample.round;
        measured.round = round;
        if sample.wrong > 0 {
            eprintln!("{id} at {load}: {} wrong answers", sample.wrong);
        }
        self.results.wrong += sample.wrong;
        self.results.cell(part, id, load).rounds.push(measured);
    }

    async fn closed(&mut self) -> Result<(), BoxError> {
        let pgbench = if self.pgbench {
            match Pgbench::new(self.ground, &self.options.out, self.options.seconds) {
                Ok(pgbench) => Some(pgbench),
                Err(error) => {
                    skip(self.results, &format!("pgbench: {error}"));
                    None
                }
            }
        } else {
            None
        };
        for round in 0..self.options.rounds {
            eprintln!(
                "closed loop, round {} of {}",
                round + 1,
                self.options.rounds
            );
            for &tasks in &self.options.tasks {
                for id in self.order(round, false) {
                    let server = self.ground.server_of(id);
                    self.warm(id).await;
                    let sample = self.started[id]
                        .closed(Load::of(tasks), self.time(), server)
                        .await;
                    self.take(Part::Closed, id, tasks, round, sample);
                }
            }
            if let Some(pgbench) = &pgbench {
                for clients in CLIENTS {
                    let measured =
                        tokio::task::block_in_place(|| pgbench.run(self.ground, clients))?;
                    let sample = Sample {
                        round: measured,
                        ..Sample::default()
                    };
                    self.take(Part::Closed, PGBENCH, clients, round, sample);
                }
            }
        }
        Ok(())
    }

    /// Requests each session once, if the contestant has a cache.
    async fn warm(&mut self, id: &str) {
        if id == "ours-cached" {
            let contestant = &self.started[id];
            let known = contestant.requests().known();
            self.results.wrong += contestant.exactly(64, known).await;
        }
    }

    /// The effect of a flood of unknown tokens on other lookups.
    async fn flood(&mut self) {
        const TASKS: u32 = 256;
        if !self.started.contains_key("ours") {
            return;
        }
        for round in 0..self.options.rounds {
            eprintln!("flood, round {} of {}", round + 1, self.options.rounds);
            for (id, unknown) in [("ours", 0), ("ours-flooded", 9)] {
                let server = self.ground.server_of(id);
                let ours = &self.started["ours"];
                let load = Load {
                    unknown_of_ten: unknown,
                    ..Load::of(TASKS)
                };
                let sample = ours.closed(load, self.time(), server).await;
                self.take(Part::Flood, id, TASKS, round, sample);
            }
        }
    }

    /// Contestants with a cache, which need less memory for fewer sessions.
    async fn memory(&mut self) {
        for round in 0..self.options.rounds {
            eprintln!("memory, round {} of {}", round + 1, self.options.rounds);
            for in_use in [1_000, 10_000, 100_000] {
                for id in self.order(round, false) {
                    if !["empty", "ours-cached", "usual-memory"].contains(&id) {
                        continue;
                    }
                    let server = self.ground.server_of(id);
                    self.warm(id).await;
                    let load = Load {
                        in_use,
                        ..Load::of(64)
                    };
                    let sample = self.started[id].closed(load, self.time(), server).await;
                    self.take(Part::Memory, id, in_use, round, sample);
                }
            }
        }
    }

    async fn open(&mut self) {
        for round in 0..self.options.rounds {
            eprintln!("open loop, round {} of {}", round + 1, self.options.rounds);
            for &rate in &self.options.rates {
                for id in self.order(round, true) {
                    let server = self.ground.server_of(id);
                    self.warm(id).await;
                    // Enough arrivals for a meaningful p99.
                    let time = self
                        .time()
                        .max(Duration::from_secs_f64(1_000.0 / f64::from(rate)));
                    let sample = self.started[id].open(rate, time, server).await;
                    self.take(Part::Open, id, rate, round, sample);
                }
            }
        }
    }

    async fn http(&mut self) -> Result<(), BoxError> {
        let wrk = match Wrk::new(&self.options.out, self.options.seconds) {
            Ok(wrk) => wrk,
            Err(error) => {
                skip(self.results, &format!("http: wrk cannot be run: {error}"));
                return Ok(());
            }
        };
        for round in 0..self.options.rounds {
            eprintln!("HTTP, round {} of {}", round + 1, self.options.rounds);
            for &connections in &self.options.connections {
                for id in self.order(round, true) {
                    let server = self.ground.server_of(id);
                    self.warm(id).await;
                    let sample = wrk.run(&*self.started[id], connections, server).await?;
                    self.take(Part::Http, id, connections, round, sample);
                }
            }
        }
        Ok(())
    }
}
