//! The measurements, as `results.json` stores them.

use serde::{Deserialize, Serialize};

use crate::options::{Distance, Part};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) run: Run,
    /// What could not be run, and why.
    pub(crate) skipped: Vec<String>,
    /// Responses without the right user.
    pub(crate) wrong: u64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) counts: Vec<Count>,
    pub(crate) steps: Vec<Step>,
    pub(crate) growth: Vec<Growth>,
    #[serde(default)]
    pub(crate) distances: Vec<AtDistance>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_gib: u64,
    pub(crate) system: String,
    /// Program or crate, and version.
    pub(crate) versions: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) sessions: u32,
    pub(crate) users: u32,
    /// The machine's load average before and after, because other work affects the results.
    pub(crate) load_before: String,
    pub(crate) load_after: String,
}

/// One contestant under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) part: Part,
    pub(crate) contestant: String,
    /// Tasks, requests per second, or connections.
    pub(crate) load: u32,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) round: u32,
    /// Completed requests per second.
    pub(crate) rate: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Processor time per request.
    pub(crate) client_us: Option<f64>,
    pub(crate) server_us: Option<f64>,
}

impl Round {
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        Some(self.client_us? + self.server_us?)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) contestant: String,
    pub(crate) tasks: u32,
    /// As `pg_stat_statements` counts them. Other messages of the driver are not included.
    pub(crate) statements: Option<f64>,
    /// Compared with the empty service.
    pub(crate) allocations: Option<f64>,
    pub(crate) bytes: Option<f64>,
}

/// One contestant at one distance and rate, in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AtDistance {
    #[serde(flatten)]
    pub(crate) distance: Distance,
    pub(crate) contestant: String,
    /// The rate in percent of the one at which `joined-100` saturates.
    pub(crate) percent: u32,
    pub(crate) rate: u32,
    /// The part of the requests that were answered in the measured time.
    pub(crate) achieved: f64,
    pub(crate) samples: u64,
    pub(crate) round: Round,
}

/// A single step by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) what: String,
    pub(crate) nanos: f64,
    pub(crate) allocations: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) sessions: u32,
    pub(crate) tasks: u32,
    pub(crate) server_us: f64,
    pub(crate) rate: f64,
    pub(crate) table_mib: f64,
    pub(crate) index_mib: f64,
}

impl Results {
    pub(crate) fn cell(&mut self, part: Part, contestant: &str, load: u32) -> &mut Cell {
        let same =
            |cell: &Cell| cell.part == part && cell.contestant == contestant && cell.load == load;
        let place = self.cells.iter().position(same).unwrap_or_else(|| {
            self.cells.push(Cell {
                part,
                contestant: contestant.to_owned(),
                load,
                rounds: Vec::new(),
            });
            self.cells.len() - 1
        });
        &mut self.cells[place]
    }

    pub(crate) fn find(&self, part: Part, contestant: &str, load: u32) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.part == part && cell.contestant == contestant && cell.load == load)
    }
}

impl Cell {
    pub(crate) fn median(&self, value: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        median(self.rounds.iter().filter_map(value).collect())
    }
}

/// The ratios of rounds with the same number.
pub(crate) fn ratios(
    ours: &[Round],
    theirs: &[Round],
    value: impl Fn(&Round) -> Option<f64>,
) -> Vec<f64> {
    let ratios = ours.iter().filter_map(|ours| {
        let theirs = theirs.iter().find(|theirs| theirs.round == ours.round)?;
        Some(value(ours)? / value(theirs)?)
    });
    ratios.filter(|ratio| ratio.is_finite()).collect()
}

/// An interval that contains the median with a probability of at least 95 %, from the order of the
/// values. There is none for fewer than ten values.
pub(crate) fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    if values.len() < 10 {
        return None;
    }
    values.sort_by(f64::total_cmp);
    // The number of values below the median has a binomial distribution.
    let count = values.len();
    let (mut outside, mut exactly, mut omitted) = (0.0, 0.5_f64.powf(count as f64), 0);
    while outside + exactly <= 0.025 {
        outside += exactly;
        exactly *= (count - omitted) as f64 / (omitted + 1) as f64;
        omitted += 1;
    }
    Some((values[omitted - 1], values[count - omitted]))
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
