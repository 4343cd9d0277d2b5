//! What came of it.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde::Serialize;
use tower_user_session::BoxError;

/// One contestant, under one load, in one round. Times are in microseconds.
#[derive(Clone, Copy, Serialize)]
pub struct Cell {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    pub client: f64,
    pub server: f64,
}

/// By load, and then by contestant, the rounds.
#[derive(Default, Serialize)]
pub struct Results {
    cells: BTreeMap<String, BTreeMap<String, Vec<Cell>>>,
    pgbench: Vec<f64>,
}

impl Results {
    pub fn add(&mut self, name: &str, load: &str, cell: Cell) {
        let by_name = self.cells.entry(load.to_owned()).or_default();
        by_name.entry(name.to_owned()).or_default().push(cell);
    }

    pub fn add_best(&mut self, _: &str, rate: f64) {
        self.pgbench.push(rate);
    }

    pub fn print(&self) {
        println!(
            "load        contestant      lookups/s (min..max)          p50 us    p99 us   client us  server us"
        );
        for (load, by_name) in &self.cells {
            for (name, cells) in by_name {
                let rates: Vec<_> = cells.iter().map(|cell| cell.rate).collect();
                let of = |part: fn(&Cell) -> f64| median(cells.iter().map(part).collect());
                println!(
                    "{load:<11} {name:<14} {:>9.0} ({:>7.0}..{:>8.0}) {:>9.0} {:>9.0} {:>10.1} {:>10.1}",
                    median(rates.clone()),
                    rates.iter().copied().fold(f64::MAX, f64::min),
                    rates.iter().copied().fold(0.0, f64::max),
                    of(|cell| cell.p50),
                    of(|cell| cell.p99),
                    of(|cell| cell.client),
                    of(|cell| cell.server),
                );
            }
        }
        println!(
            "pgbench, prepared, best of its numbers of clients: {:.0}/s",
            self.best_of_pgbench()
        );
        for line in self.ratios() {
            println!("{line}");
        }
    }

    /// The best number of clients is that with the best median.
    fn best_of_pgbench(&self) -> f64 {
        let kinds = crate::pgbench::CLIENTS.len();
        (0..kinds)
            .map(|kind| {
                median(
                    self.pgbench
                        .iter()
                        .skip(kind)
                        .step_by(kinds)
                        .copied()
                        .collect(),
                )
            })
            .fold(0.0, f64::max)
    }

    fn ratios(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (load, by_name) in &self.cells {
            let Some(ours) = by_name.get("ours") else {
                continue;
            };
            for (name, theirs) in by_name.iter().filter(|(name, _)| *name != "ours") {
                let paired = |part: fn(&Cell) -> f64| {
                    median(
                        ours.iter()
                            .zip(theirs)
                            .map(|(a, b)| part(a) / part(b))
                            .collect(),
                    )
                };
                if load.starts_with("rate") {
                    lines.push(format!(
                        "ratio-p50 ours/{name} {load} {:.2}",
                        paired(|c| c.p50)
                    ));
                    lines.push(format!(
                        "ratio-p99 ours/{name} {load} {:.2}",
                        paired(|c| c.p99)
                    ));
                    continue;
                }
                lines.push(format!(
                    "ratio-cpu ours/{name} {load} {:.3}",
                    paired(|c| c.client + c.server)
                ));
                lines.push(format!(
                    "ratio ours/{name} {load} {:.2}",
                    paired(|c| c.rate)
                ));
            }
            if !load.starts_with("rate") {
                let rate = median(ours.iter().map(|cell| cell.rate).collect());
                lines.push(format!(
                    "ratio ours/pgbench {load} {:.2}",
                    rate / self.best_of_pgbench()
                ));
            }
        }
        lines
    }

    pub fn write(&self, folder: &str) -> Result<(), BoxError> {
        fs::create_dir_all(folder)?;
        fs::write(
            format!("{folder}/results.json"),
            serde_json::to_vec_pretty(self)?,
        )?;
        let mut csv =
            "load,contestant,round,lookups_per_second,p50_us,p99_us,client_us,server_us\n"
                .to_owned();
        for (load, by_name) in &self.cells {
            for (name, cells) in by_name {
                for (round, c) in cells.iter().enumerate() {
                    let Cell {
                        rate,
                        p50,
                        p99,
                        client,
                        server,
                    } = c;
                    writeln!(
                        csv,
                        "{load},{name},{round},{rate:.0},{p50:.1},{p99:.1},{client:.2},{server:.2}"
                    )?;
                }
            }
        }
        fs::write(format!("{folder}/results.csv"), csv)?;
        Ok(())
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}
