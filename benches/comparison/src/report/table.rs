//! The table, for a terminal and for `BENCHMARKS.md`.

use std::fmt::Write as _;

use crate::{
    distance,
    options::Part,
    results::{AtDistance, Cell, Results, Round, median},
};

/// Each part that was measured.
pub(crate) fn table(results: &Results) -> String {
    let mut text = String::new();
    for (part, title) in [
        (Part::Closed, "Closed loop, in process"),
        (Part::Open, "Open loop, in process"),
        (Part::Http, "HTTP over loopback"),
        (Part::Flood, "A flood of unknown tokens: the others"),
        (Part::Memory, "From memory"),
    ] {
        if results.cells.iter().any(|cell| cell.part == part) {
            let _ = write!(text, "\n{title}\n\n{}", of_part(results, part));
        }
    }
    for (title, some) in [
        ("Statements and allocations", counts(results)),
        ("Single steps", steps(results)),
        ("Growth", growth(results)),
        ("At a distance", distances(results)),
    ] {
        if let Some(some) = some {
            let _ = write!(text, "\n{title}\n\n{some}");
        }
    }
    text
}

pub(super) fn of_part(results: &Results, part: Part) -> String {
    let load = match part {
        Part::Open => "rate",
        Part::Http => "connections",
        Part::Memory => "in use",
        _ => "tasks",
    };
    let mut rows = vec![
        [
            load,
            "contestant",
            "requests/s",
            "min..max",
            "p50 µs",
            "p99 µs",
            "client CPU µs",
            "server CPU µs",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut cells: Vec<&Cell> = results
        .cells
        .iter()
        .filter(|cell| cell.part == part)
        .collect();
    cells.sort_by_key(|cell| (cell.load, place(&cell.contestant)));
    rows.extend(cells.into_iter().map(row));
    lay_out(&rows)
}

fn place(contestant: &str) -> usize {
    let mut all = crate::contestants::ALL.iter();
    all.position(|about| about.id == contestant)
        .unwrap_or(usize::MAX)
}

fn row(cell: &Cell) -> Vec<String> {
    let rates: Vec<f64> = cell.rounds.iter().map(|round| round.rate).collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    let median = |value: fn(&Round) -> Option<f64>| match cell.median(value) {
        Some(value) => format!("{value:.1}"),
        None => "-".to_owned(),
    };
    vec![
        cell.load.to_string(),
        cell.contestant.clone(),
        format!(
            "{:.0}",
            cell.median(|round| Some(round.rate)).unwrap_or(0.0)
        ),
        format!("{least:.0}..{most:.0}"),
        median(|round| round.p50_us),
        median(|round| round.p99_us),
        median(|round| round.client_us),
        median(|round| round.server_us),
    ]
}

pub(super) fn counts(results: &Results) -> Option<String> {
    let header = [
        "tasks",
        "contestant",
        "statements/request",
        "allocations/request",
        "bytes/request",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for count in &results.counts {
        let number = |value: Option<f64>, places: usize| match value {
            Some(value) => format!("{value:.places$}"),
            None => "-".to_owned(),
        };
        rows.push(vec![
            count.tasks.to_string(),
            count.contestant.clone(),
            number(count.statements, 3),
            number(count.allocations, 2),
            number(count.bytes, 0),
        ]);
    }
    (rows.len() > 1).then(|| lay_out(&rows))
}

pub(super) fn steps(results: &Results) -> Option<String> {
    let mut rows = vec![["step", "ns", "allocations"].map(str::to_owned).to_vec()];
    rows.extend(results.steps.iter().map(|step| {
        vec![
            step.what.clone(),
            format!("{:.1}", step.nanos),
            format!("{:.2}", step.allocations),
        ]
    }));
    (rows.len() > 1).then(|| lay_out(&rows))
}

pub(super) fn growth(results: &Results) -> Option<String> {
    let header = [
        "sessions",
        "tasks",
        "server CPU µs",
        "requests/s",
        "table MiB",
        "index MiB",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(results.growth.iter().map(|growth| {
        vec![
            growth.sessions.to_string(),
            growth.tasks.to_string(),
            format!("{:.1}", growth.server_us),
            format!("{:.0}", growth.rate),
            format!("{:.1}", growth.table_mib),
            format!("{:.1}", growth.index_mib),
        ]
    }));
    (rows.len() > 1).then(|| lay_out(&rows))
}

pub(super) fn distances(results: &Results) -> Option<String> {
    let header = [
        "round trip",
        "% of saturation",
        "requests/s",
        "contestant",
        "answered %",
        "p50 ms",
        "p99 ms",
        "client CPU µs",
        "server CPU µs",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let all = &results.distances;
    let mut seen = Vec::new();
    for first in all {
        let key = (
            first.distance,
            first.percent,
            place_at_distance(&first.contestant),
        );
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen.sort_unstable();
    for key in seen {
        let same: Vec<_> = all
            .iter()
            .filter(|at| (at.distance, at.percent, place_at_distance(&at.contestant)) == key)
            .collect();
        let middle = |value: fn(&AtDistance) -> Option<f64>, digits: usize| {
            let values = same.iter().filter_map(|at| value(at)).collect();
            median(values).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        rows.push(vec![
            key.0.to_string(),
            key.1.to_string(),
            same[0].rate.to_string(),
            same[0].contestant.clone(),
            middle(|at| Some(at.achieved * 100.0), 1),
            middle(|at| Some(at.round.p50_us? / 1e3), 3),
            middle(|at| Some(at.round.p99_us? / 1e3), 3),
            middle(|at| at.round.client_us, 1),
            middle(|at| at.round.server_us, 1),
        ]);
    }
    (rows.len() > 1).then(|| lay_out(&rows))
}

fn place_at_distance(contestant: &str) -> usize {
    let mut all = distance::CONTESTANTS.iter();
    all.position(|id| *id == contestant).unwrap_or(usize::MAX)
}

/// A table that is Markdown and readable as text.
fn lay_out(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if n == 0 {
            let lines = widths.iter().map(|&width| "-".repeat(width));
            let _ = writeln!(text, "| {} |", lines.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}
