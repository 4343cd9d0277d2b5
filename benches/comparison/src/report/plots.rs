//! The plots.

use std::collections::BTreeSet;

use super::{
    lines::{Line, Lines, Panel},
    svg::{Bar, Chart, Group},
};
use crate::{
    contestants::{ALL, PGBENCH},
    distance::{CONTESTANTS, SATURATED},
    options::{Distance, Part},
    ratios::best_pgbench,
    results::{Cell, Results, Round, median},
};

/// Per plot: the file's name and its text. Contestants that were not measured are left out.
pub(super) fn all(results: &Results) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    let mut add = |name: &str, chart: Chart| {
        if !chart.groups.is_empty() {
            plots.push((name.to_owned(), chart.draw()));
        }
    };
    add(
        "throughput.svg",
        throughput(
            results,
            Part::Closed,
            "Requests a second, in process",
            "at once",
        ),
    );
    add("processor.svg", processor(results));
    add("latency.svg", latency(results));
    add(
        "http.svg",
        throughput(
            results,
            Part::Http,
            "Requests a second over HTTP",
            "connections",
        ),
    );
    add("growth.svg", growth(results));
    for distance in distances(results) {
        let name = distance_plot(distance);
        plots.push((name, at_distance(results, distance).draw()));
    }
    plots
}

/// The distances that were measured.
pub(super) fn distances(results: &Results) -> BTreeSet<Distance> {
    results.distances.iter().map(|at| at.distance).collect()
}

pub(super) fn distance_plot(distance: Distance) -> String {
    let tls = if distance.tls { "-tls" } else { "" };
    format!("distance-{}{tls}.svg", distance.micros)
}

/// The median and the 99th percentile at one distance, by the rate. A contestant that is saturated
/// at a rate is left out there: its latency only depends on how long it was measured.
fn at_distance(results: &Results, distance: Distance) -> Lines {
    type Value = fn(&Round) -> Option<f64>;
    let quantiles: [(&str, Value); 2] =
        [("p50", |round| round.p50_us), ("p99", |round| round.p99_us)];
    // The percentiles differ by a factor of ten or more.
    let panels = quantiles.map(|(quantile, value)| {
        let mut lines = Vec::new();
        for (id, color) in CONTESTANTS.iter().zip(COLORS) {
            let here: Vec<_> = results
                .distances
                .iter()
                .filter(|at| at.distance == distance && at.contestant == *id)
                .collect();
            let rates: BTreeSet<u32> = here.iter().map(|at| at.rate).collect();
            let points = rates.iter().filter_map(|&rate| {
                let there = || here.iter().filter(|at| at.rate == rate);
                let achieved = median(there().map(|at| at.achieved).collect())?;
                let value = median(there().filter_map(|at| value(&at.round)).collect())?;
                (achieved >= SATURATED).then_some((f64::from(rate), value / 1e3))
            });
            let points: Vec<_> = points.collect();
            if !points.is_empty() {
                lines.push(Line {
                    label: (*id).to_owned(),
                    color,
                    points,
                });
            }
        }
        Panel {
            title: quantile.to_owned(),
            lines,
        }
    });
    Lines {
        title: format!("Latency at a distance of {distance}"),
        unit: "milliseconds",
        panels: panels.into(),
    }
}

const COLORS: [&str; 4] = ["#2563a8", "#d8a24a", "#5a9a5a", "#a85a7a"];

fn group(id: &str, bars: Vec<Option<Bar>>) -> Option<Group> {
    bars.iter().any(Option::is_some).then(|| Group {
        label: id.to_owned(),
        bars,
        highlighted: id == "ours",
    })
}

/// The empty service is so much faster that the others would be indistinguishable beside it.
fn contestants() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|about| about.id).filter(|id| *id != "empty")
}

fn throughput(results: &Results, part: Part, title: &str, at: &str) -> Chart {
    let bar = |cell: &Cell| {
        let rates = || cell.rounds.iter().map(|round| round.rate);
        let range = (
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        );
        Some(Bar {
            value: cell.median(|round| Some(round.rate))?,
            range: Some(range),
        })
    };
    let loads = [64, 256];
    let groups = contestants()
        // In memory only the processor is the limit. That has its own row in the table.
        .filter(|id| *id != "usual-memory")
        .filter_map(|id| {
            if id == PGBENCH {
                let best = best_pgbench(results).filter(|_| part == Part::Closed)?;
                return group(&format!("pgbench, {} clients", best.load), vec![bar(best)]);
            }
            let bars = loads.map(|load| results.find(part, id, load).and_then(bar));
            group(id, bars.to_vec())
        })
        .collect();
    Chart {
        title: title.to_owned(),
        unit: "median; the line is least to most",
        series: loads.iter().map(|load| format!("{load} {at}")).collect(),
        groups,
        stacked: false,
    }
}

fn processor(results: &Results) -> Chart {
    let tasks = 64;
    let bar = |cell: &Cell, value: fn(&Round) -> Option<f64>| {
        Some(Bar {
            value: cell.median(value)?,
            range: None,
        })
    };
    let groups = contestants()
        .filter_map(|id| {
            let cell = results.find(Part::Closed, id, tasks)?;
            if id == PGBENCH {
                return None;
            }
            let bars = vec![
                bar(cell, |round| round.client_us),
                bar(cell, |round| round.server_us),
            ];
            group(id, bars)
        })
        .collect();
    Chart {
        title: format!("Processor time a request, {tasks} at once"),
        unit: "microseconds",
        series: vec!["this process".to_owned(), "the server".to_owned()],
        groups,
        stacked: true,
    }
}

fn latency(results: &Results) -> Chart {
    let rate = 5_000;
    let groups = contestants()
        // If a contestant cannot keep up, its latency only depends on how long it was measured.
        .filter(|id| {
            let cell = results.find(Part::Open, id, rate);
            let median = cell.and_then(|cell| cell.median(|round| round.p50_us));
            median.is_some_and(|p50| p50 < 20_000.0)
        })
        .filter_map(|id| {
            let cell = results.find(Part::Open, id, rate)?;
            let bar = |value: fn(&Round) -> Option<f64>| {
                Some(Bar {
                    value: cell.median(value)?,
                    range: None,
                })
            };
            group(
                id,
                vec![bar(|round| round.p50_us), bar(|round| round.p99_us)],
            )
        })
        .collect();
    Chart {
        title: format!("Latency at {rate} requests a second"),
        unit: "microseconds from the intended arrival",
        series: vec!["p50".to_owned(), "p99".to_owned()],
        groups,
        stacked: false,
    }
}

fn growth(results: &Results) -> Chart {
    let tasks = [1, 64];
    let mut sizes: Vec<u32> = results
        .growth
        .iter()
        .map(|growth| growth.sessions)
        .collect();
    sizes.dedup();
    let groups = sizes
        .into_iter()
        .filter_map(|size| {
            let bar = |tasks| {
                let found = results
                    .growth
                    .iter()
                    .find(|g| g.sessions == size && g.tasks == tasks)?;
                Some(Bar {
                    value: found.server_us,
                    range: None,
                })
            };
            group(&format!("{size} sessions"), tasks.map(bar).to_vec())
        })
        .collect();
    Chart {
        title: "The server's processor time a lookup as the table grows".to_owned(),
        unit: "microseconds",
        series: tasks
            .iter()
            .map(|tasks| format!("{tasks} at once"))
            .collect(),
        groups,
        stacked: false,
    }
}
