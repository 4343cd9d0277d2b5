//! The command line.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use lexopt::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{BoxError, contestants};

/// The parts of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// This many tasks, each with one request after the other.
    Closed,
    /// Requests at a fixed rate, independent of earlier responses.
    Open,
    /// The same under axum over loopback.
    Http,
    /// The closed loop again, with unknown tokens in nine of ten requests.
    Flood,
    /// Cached results, by how many sessions are in use.
    Memory,
    /// Statements and allocations per request.
    SessionMetrics,
    /// Single steps, in nanoseconds.
    Micro,
    /// Lookups in tables of several sizes.
    Growth,
    /// Latency at a distance from the server, by the rate.
    Distance,
}

/// A distance from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Distance {
    /// The round trip in microseconds.
    #[serde(rename = "distance_us")]
    pub(crate) micros: u32,
    #[serde(default)]
    pub(crate) tls: bool,
}

impl Distance {
    pub(crate) const fn round_trip(self) -> Duration {
        Duration::from_micros(self.micros as u64)
    }

    const fn without_tls(micros: u32) -> Self {
        Self { micros, tls: false }
    }

    /// Reads milliseconds, as in `0.5`, or `0.5tls` with TLS.
    fn from_text(text: &str) -> Result<Self, BoxError> {
        let (millis, tls) = match text.strip_suffix("tls") {
            Some(millis) => (millis, true),
            None => (text, false),
        };
        let micros = (millis.parse::<f64>()? * 1e3) as u32;
        Ok(Self { micros, tls })
    }
}

/// Milliseconds, and whether TLS is used.
impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { " with TLS" } else { "" };
        write!(f, "{} ms{tls}", f64::from(self.micros) / 1e3)
    }
}

const PARTS: [(&str, Part); 9] = [
    ("closed", Part::Closed),
    ("open", Part::Open),
    ("http", Part::Http),
    ("flood", Part::Flood),
    ("memory", Part::Memory),
    ("counts", Part::SessionMetrics),
    ("micro", Part::Micro),
    ("growth", Part::Growth),
    ("distance", Part::Distance),
];

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) sessions: u32,
    pub(crate) users: u32,
    pub(crate) contestants: Vec<&'static str>,
    pub(crate) tasks: Vec<u32>,
    pub(crate) rates: Vec<u32>,
    pub(crate) connections: Vec<u32>,
    pub(crate) parts: BTreeSet<Part>,
    pub(crate) growth: Vec<u32>,
    pub(crate) distances: Vec<Distance>,
    /// The rate that counts as 100 percent at each distance. By default it is measured.
    pub(crate) saturation: Option<u32>,
    pub(crate) out: PathBuf,
    /// Whether the results of parts that are not run are kept.
    pub(crate) keep: bool,
    /// Only write the report.
    pub(crate) report: bool,
}

pub(crate) const HELP: &str = "\
Compares tower-user-session with other ways from a cookie to a user.

cargo run --release --manifest-path benches/comparison/Cargo.toml -- [options]

  --rounds N           rounds, in rotated order (5)
  --seconds S          seconds a cell (0.6)
  --sessions N         sessions in the tables (1000000)
  --contestants A,B    only these (all)
  --tasks N,N          closed loop: at once (1,8,64,256)
  --rates N,N          open loop: requests a second (1000,5000)
  --connections N,N    HTTP: connections (64,256)
  --parts P,P          of closed, open, http, flood, memory, counts, micro, growth, distance (all but
                       the last two)
  --distances MS,MS    round trips in milliseconds for the part distance, with TLS if `tls` follows
                       (0,0.5,0.5tls,5)
  --saturation N       requests a second that count as 100 percent there (measured)
  --growth             also: server time a lookup at 10,000 and 1,000,000 sessions
  --growth-10m         also at 10,000,000
  --out DIR            where the results go (benches/comparison/results)
  --keep               leave the parts of earlier results alone that are not run now
  --quick              2 rounds of 0.2 s over 50,000 sessions: to see that it works
  --report             run nothing; write BENCHMARKS.md and the plots from the results
  --list               name the contestants
";

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 5,
            seconds: 0.6,
            sessions: 1_000_000,
            users: 100_000,
            contestants: contestants::ALL.iter().map(|about| about.id).collect(),
            tasks: vec![1, 8, 64, 256],
            rates: vec![1_000, 5_000],
            connections: vec![64, 256],
            parts: PARTS
                .iter()
                .map(|(_, part)| *part)
                .filter(|part| ![Part::Growth, Part::Distance].contains(part))
                .collect(),
            growth: vec![10_000, 1_000_000],
            distances: vec![
                Distance::without_tls(0),
                Distance::without_tls(500),
                Distance {
                    micros: 500,
                    tls: true,
                },
                Distance::without_tls(5_000),
            ],
            saturation: None,
            out: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results")),
            keep: false,
            report: false,
        }
    }
}

impl Options {
    /// `None` if the help was printed.
    pub(crate) fn from_command_line() -> Result<Option<Self>, BoxError> {
        let mut options = Self::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("rounds") => options.rounds = parser.value()?.parse()?,
                Long("seconds") => options.seconds = parser.value()?.parse()?,
                Long("sessions") => options.sessions = parser.value()?.parse()?,
                Long("contestants") => {
                    options.contestants = list(&parser.value()?.string()?, |id| {
                        contestants::ALL
                            .iter()
                            .find(|about| about.id == id)
                            .map(|about| about.id)
                    })?;
                }
                Long("tasks") => options.tasks = numbers(&parser.value()?.string()?)?,
                Long("rates") => options.rates = numbers(&parser.value()?.string()?)?,
                Long("connections") => options.connections = numbers(&parser.value()?.string()?)?,
                Long("parts") => {
                    let parts = list(&parser.value()?.string()?, |name| {
                        PARTS
                            .iter()
                            .find(|(n, _)| *n == name)
                            .map(|(_, part)| *part)
                    })?;
                    options.parts = parts.into_iter().collect();
                }
                Long("distances") => {
                    let text = parser.value()?.string()?;
                    let distances = text.split(',').map(Distance::from_text);
                    options.distances = distances.collect::<Result<_, _>>()?;
                }
                Long("saturation") => options.saturation = Some(parser.value()?.parse()?),
                Long("growth") => drop(options.parts.insert(Part::Growth)),
                Long("growth-10m") => {
                    options.parts.insert(Part::Growth);
                    options.growth.push(10_000_000);
                }
                Long("out") => options.out = parser.value()?.into(),
                Long("keep") => options.keep = true,
                Long("quick") => {
                    options.rounds = 2;
                    options.seconds = 0.2;
                    options.sessions = 50_000;
                    options.users = 5_000;
                    options.growth = vec![1_000, 20_000];
                }
                Long("report") => options.report = true,
                Long("list") => {
                    for about in contestants::ALL {
                        println!("{:<24}{}", about.id, about.what);
                    }
                    return Ok(None);
                }
                Short('h') | Long("help") => {
                    print!("{HELP}");
                    return Ok(None);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        options.users = options.users.min(options.sessions);
        Ok(Some(options))
    }

    /// Whether the server needs TLS.
    pub(crate) fn with_tls(&self) -> bool {
        self.runs(Part::Distance) && self.distances.iter().any(|distance| distance.tls)
    }

    pub(crate) fn runs(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

fn list<T>(text: &str, find: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, BoxError> {
    text.split(',')
        .map(|name| {
            find(name)
                .ok_or_else(|| format!("there is no \"{name}\"; see --help and --list").into())
        })
        .collect()
}

fn numbers(text: &str) -> Result<Vec<u32>, BoxError> {
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}
