//! Ratios between this crate and the others: medians over rounds with the same number.

use crate::{
    contestants::PGBENCH,
    options::Part,
    results::{Results, Round},
};

const OTHERS: [&str; 8] = [
    "usual",
    "usual-no-ping",
    "usual-memory",
    "axum_session",
    "two",
    "joined",
    "redis",
    PGBENCH,
];

#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    pub(crate) kind: &'static str,
    pub(crate) ours: &'static str,
    pub(crate) other: &'static str,
    pub(crate) by: &'static str,
    pub(crate) load: u32,
    pub(crate) value: f64,
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            ours,
            other,
            by,
            load,
            value,
        } = self;
        write!(f, "{kind} {ours}/{other} {by}={load} {value:.3}")
    }
}

type Value = fn(&Round) -> Option<f64>;

/// Per kind: the labels, where it is measured, and what is compared.
const KINDS: [(&str, Part, &str, Value); 7] = [
    ("ratio-p99-flood", Part::Flood, "tasks", |round| {
        round.p99_us
    }),
    ("ratio-p50", Part::Open, "rate", |round| round.p50_us),
    ("ratio-p99", Part::Open, "rate", |round| round.p99_us),
    ("ratio-http", Part::Http, "connections", |round| {
        Some(round.rate)
    }),
    ("ratio-memory", Part::Memory, "in_use", |round| {
        Some(round.rate)
    }),
    ("ratio-cpu", Part::Closed, "tasks", Round::cpu_us),
    ("ratio", Part::Closed, "tasks", |round| Some(round.rate)),
];

/// Which of this crate's contestants is compared with which other one.
fn pairs(part: Part) -> Vec<(&'static str, &'static str)> {
    match part {
        Part::Flood => vec![("ours-flooded", "ours")],
        Part::Open => OTHERS.map(|other| ("ours", other)).to_vec(),
        _ => ["empty", "usual-memory"]
            .map(|other| ("ours-cached", other))
            .into_iter()
            .chain(OTHERS.map(|other| ("ours", other)))
            .collect(),
    }
}

pub(crate) fn all(results: &Results) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for (kind, part, by, value) in KINDS {
        for (ours, other) in pairs(part) {
            for cell in results
                .cells
                .iter()
                .filter(|cell| cell.part == part && cell.contestant == ours)
            {
                let theirs = match other {
                    PGBENCH => best_pgbench(results),
                    _ => results.find(part, other, cell.load),
                };
                let comparable = other != PGBENCH || kind == "ratio";
                if let Some(value) = theirs
                    .filter(|_| comparable)
                    .and_then(|theirs| cell.ratio(theirs, value))
                {
                    ratios.push(Ratio {
                        kind,
                        ours,
                        other,
                        by,
                        load: cell.load,
                        value,
                    });
                }
            }
        }
    }
    ratios
}

/// `pgbench` at the number of clients with the highest throughput.
pub(crate) fn best_pgbench(results: &Results) -> Option<&crate::results::Cell> {
    let rate = |cell: &&crate::results::Cell| cell.median(|round| Some(round.rate)).unwrap_or(0.0);
    results
        .cells
        .iter()
        .filter(|cell| cell.part == Part::Closed && cell.contestant == PGBENCH)
        .max_by(|a, b| rate(a).total_cmp(&rate(b)))
}
