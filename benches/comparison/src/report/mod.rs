//! The report: a table, JSON, CSV, plots, and `BENCHMARKS.md`.

mod lines;
mod markdown;
mod plots;
mod svg;
mod table;

use std::{fmt::Write as _, fs, path::Path};

pub(crate) use self::table::table;
use crate::{BoxError, results::Results};

pub(crate) fn write(results: &Results, out: &Path) -> Result<(), BoxError> {
    fs::write(
        out.join("results.json"),
        serde_json::to_string_pretty(results)? + "\n",
    )?;
    fs::write(out.join("results.csv"), csv(results)?)?;
    for (name, plot) in plots::all(results) {
        fs::write(out.join(name), plot)?;
    }
    Ok(())
}

/// `BENCHMARKS.md` and the plots that it shows.
pub(crate) fn write_into_repository(results: &Results) -> Result<(), BoxError> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = package.join("plots");
    fs::create_dir_all(&folder)?;
    for (name, plot) in plots::all(results) {
        fs::write(folder.join(name), plot)?;
    }
    let root = package.join("../..");
    fs::write(root.join("BENCHMARKS.md"), markdown::report(results))?;
    Ok(())
}

fn csv(results: &Results) -> Result<String, BoxError> {
    let mut csv = String::from(
        "part,contestant,load,round,requests_per_second,p50_us,p99_us,client_cpu_us,server_cpu_us\n",
    );
    let optional =
        |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
    for cell in &results.cells {
        let part = serde_json::to_string(&cell.part)?;
        for round in &cell.rounds {
            writeln!(
                csv,
                "{},{},{},{},{:.1},{},{},{},{}",
                part.trim_matches('"'),
                cell.contestant,
                cell.load,
                round.round,
                round.rate,
                optional(round.p50_us),
                optional(round.p99_us),
                optional(round.client_us),
                optional(round.server_us),
            )?;
        }
    }
    Ok(csv)
}
