//! Ratios between this crate and the others: medians over rounds with the same number.

use std::collections::BTreeSet;

use crate::{
    contestants::{JOINED_100, PGBENCH},
    distance::SATURATED,
    options::Part,
    results::{AtDistance, Results, Round, interval, median, ratios},
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
    /// The load.
    pub(crate) at: String,
    pub(crate) value: f64,
    pub(crate) interval: Option<(f64, f64)>,
}

impl Ratio {
    /// `None` without a round in which both were measured.
    fn of(
        kind: &'static str,
        (ours, other): (&'static str, &'static str),
        at: String,
        of_rounds: Vec<f64>,
    ) -> Option<Self> {
        let interval = interval(of_rounds.clone());
        Some(Self {
            kind,
            ours,
            other,
            at,
            value: median(of_rounds)?,
            interval,
        })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            ours,
            other,
            at,
            value,
            interval,
        } = self;
        write!(f, "{kind} {ours}/{other} {at} {value:.3}")?;
        match interval {
            Some((least, most)) => write!(f, " ({least:.3} to {most:.3})"),
            None => Ok(()),
        }
    }
}

type Value = fn(&Round) -> Option<f64>;

/// Per kind: the labels, where it is measured, and what is compared.
const KINDS: [(&str, Part, &str, Value); 8] = [
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
    ("ratio-client-cpu", Part::Closed, "tasks", |round| {
        round.client_us
    }),
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
    let mut all = Vec::new();
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
                let Some(theirs) = theirs.filter(|_| comparable) else {
                    continue;
                };
                let at = format!("{by}={}", cell.load);
                let of_rounds = ratios(&cell.rounds, &theirs.rounds, value);
                all.extend(Ratio::of(kind, (ours, other), at, of_rounds));
            }
        }
    }
    all.extend(at_distances(results));
    all
}

/// The fewest requests of all rounds whose 99th percentile is compared at a distance.
const SAMPLES_FOR_P99: u64 = 10_000;

/// Compares this crate with `joined-100` at each distance and rate at which neither is saturated.
fn at_distances(results: &Results) -> Vec<Ratio> {
    let values: [(&str, Value); 3] = [
        ("ratio-p50-distance", |round| round.p50_us),
        ("ratio-p99-distance", |round| round.p99_us),
        ("ratio-server-cpu-distance", |round| round.server_us),
    ];
    let measured = results.distances.iter();
    let places: BTreeSet<_> = measured.map(|at| (at.distance, at.percent)).collect();
    let mut all = Vec::new();
    for (kind, value) in values {
        for &(distance, percent) in &places {
            let rounds_of = |id: &str| -> Option<(Vec<Round>, u64)> {
                let there = |at: &&AtDistance| {
                    (at.distance, at.percent, &*at.contestant) == (distance, percent, id)
                };
                let there: Vec<_> = results.distances.iter().filter(there).collect();
                let achieved = median(there.iter().map(|at| at.achieved).collect())?;
                let samples = there.iter().map(|at| at.samples).sum();
                let rounds = there.iter().map(|at| at.round).collect();
                (achieved >= SATURATED).then_some((rounds, samples))
            };
            let (Some((ours, samples)), Some((theirs, _))) =
                (rounds_of("ours"), rounds_of(JOINED_100))
            else {
                continue;
            };
            if kind == "ratio-p99-distance" && samples < SAMPLES_FOR_P99 {
                continue;
            }
            let at = format!("{distance}, {percent} %:");
            let of_rounds = ratios(&ours, &theirs, value);
            all.extend(Ratio::of(kind, ("ours", JOINED_100), at, of_rounds));
        }
    }
    all
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
