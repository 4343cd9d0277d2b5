//! What `SECURITY.md` says is visible of a fault.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, SessionService,
    metrics::{LatencyHistogram, Sample, SampleValue, SessionMetrics},
    session::SessionToken,
    store::SessionLookup,
};

use super::{logs::Logs, requests::cookie, waiting::PATIENCE};

const SECURITY: &str = include_str!("../../../SECURITY.md");

/// The start of each metric's name, which the table omits.
const METRIC: &str = "tower_user_session_";

/// A query or a sign-in that takes longer is visible as slow. Each fault that makes one slow lasts
/// until the deadline, which is longer in each test.
const SLOW: Duration = Duration::from_millis(250);

/// A row of the table of faults.
pub struct Row {
    pub fault: &'static str,
    pub visible_as: &'static str,
    pub shown_by: &'static str,
}

/// An event or a metric by which a fault is visible.
#[derive(Debug)]
pub enum Sign {
    Event {
        name: &'static str,
        /// Fields and their values, such as `kind=Deadline`.
        fields: Vec<&'static str>,
    },
    Metric {
        name: &'static str,
        /// A label and its value, or nothing for all samples of this name.
        label: &'static str,
    },
}

/// Returns the rows of the table of faults.
pub fn rows() -> Vec<Row> {
    let section = SECURITY.split("\n## Behavior under faults\n").nth(1);
    let section = section.unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let ["", fault, _, _, visible_as, shown_by, ""] = cells[..] else {
                panic!("not five cells: {line}")
            };
            Row {
                fault,
                visible_as,
                shown_by,
            }
        })
        .collect()
}

/// Returns whether the table of events lists this name.
fn is_event(name: &str) -> bool {
    let row = |level| format!("\n| {level} | `{name}` | ");
    ["error", "warn", "info", "debug"]
        .map(row)
        .iter()
        .any(|row| SECURITY.contains(row))
}

fn is_metric(name: &str) -> bool {
    let names = include_str!("../../../src/metrics/names.md");
    names.contains(&format!("\n| `{METRIC}{name}` |"))
}

impl Row {
    /// Returns the events and metrics of the row. Panics if one of them does not exist.
    pub fn signs(&self) -> Vec<Sign> {
        let mut signs = Vec::new();
        for code in self.visible_as.split('`').skip(1).step_by(2) {
            let (name, label) = code.split_once('{').unwrap_or((code, ""));
            let label = label.trim_end_matches('}');
            match signs.last_mut() {
                Some(Sign::Event { fields, .. }) if code.contains('=') && label.is_empty() => {
                    fields.push(code);
                }
                _ if is_event(name) => signs.push(Sign::Event {
                    name,
                    fields: Vec::new(),
                }),
                _ if is_metric(name) => signs.push(Sign::Metric { name, label }),
                _ => panic!("{code} is no event and no metric: {}", self.fault),
            }
        }
        signs
    }
}

/// Observes the events and metrics of a row while a test causes its fault. It captures the events
/// of this thread.
pub struct ObservedFault {
    fault: &'static str,
    signs: Vec<Sign>,
    logs: Logs,
    metrics: Box<dyn Fn() -> SessionMetrics>,
    before: SessionMetrics,
}

impl ObservedFault {
    /// Begins before the fault of the row with this first cell.
    pub fn begin<L: SessionLookup>(fault: &str, sessions: &SessionService<L>) -> Self {
        let row = rows().into_iter().find(|row| row.fault == fault);
        let row = row.unwrap_or_else(|| panic!("SECURITY.md has no row: {fault}"));
        let signs = row.signs();
        assert!(!signs.is_empty(), "{fault}: {}", row.visible_as);
        let sessions = sessions.clone();
        Self {
            fault: row.fault,
            signs,
            logs: Logs::capture(),
            before: sessions.metrics(),
            metrics: Box::new(move || sessions.metrics()),
        }
    }

    /// Repeats the operation until each event and each metric of the row has shown the fault.
    pub async fn becomes_visible(&self, operation: impl AsyncFn()) {
        let mut missing: Vec<_> = self.signs.iter().collect();
        self.repeat(async || {
            operation().await;
            let now = (self.metrics)();
            missing.retain(|sign| !self.shows(sign, &now));
            (!missing.is_empty()).then(|| format!("{missing:?} do not show it"))
        })
        .await;
        for event in self.failures() {
            let failed = self.event(event, &[]).unwrap();
            assert!(
                failed.contains(" error=") && failed.contains(" kind="),
                "{failed}"
            );
        }
    }

    /// Repeats the operation until each outage is reported as over, and until no event and no metric
    /// of the row shows a fault during one operation.
    pub async fn ends(self, operation: impl AsyncFn()) {
        self.repeat(async || {
            let (before, events) = ((self.metrics)(), self.events_of_signs());
            operation().await;
            let after = (self.metrics)();
            let mut recoveries = self.recoveries();
            let recovered = recoveries.all(|name| self.event(&name, &[]).is_some());
            let alarming = |sign: &Sign| is_alarming(sign, &before, &after);
            let quiet = self.events_of_signs() == events && !self.signs.iter().any(alarming);
            (!recovered || !quiet).then(|| format!("it does not end: {after:#?}"))
        })
        .await;
        for name in self.recoveries() {
            let events = self.logs.events();
            let events: Vec<_> = { events.iter() }
                .filter(|event| is_named(event, &name))
                .collect();
            let [recovered] = events[..] else {
                panic!("{}: {events:#?}", self.fault)
            };
            for part in [" INFO ", " after=", " failures="] {
                assert!(recovered.contains(part), "{recovered}");
            }
        }
    }

    /// Repeats the round until it returns nothing that is missing.
    async fn repeat(&self, mut round: impl AsyncFnMut() -> Option<String>) {
        let patience = Instant::now() + PATIENCE;
        while let Some(missing) = round().await {
            let events = self.logs.events();
            assert!(
                Instant::now() < patience,
                "{}: {missing}: {events:#?}",
                self.fault
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn shows(&self, sign: &Sign, now: &SessionMetrics) -> bool {
        match sign {
            Sign::Event { name, fields } => self.event(name, fields).is_some(),
            Sign::Metric { .. } => is_alarming(sign, &self.before, now),
        }
    }

    fn event(&self, name: &str, fields: &[&str]) -> Option<String> {
        let mut events = self.logs.events().into_iter();
        events.find(|event| {
            let values = event.replace('"', "");
            is_named(event, name) && fields.iter().all(|field| values.contains(field))
        })
    }

    /// Returns the number of events of the row.
    fn events_of_signs(&self) -> usize {
        let events = self.logs.events();
        let of_row = |event: &&String| {
            { &self.signs }.iter().any(|sign| match sign {
                Sign::Event { name, .. } => is_named(event, name),
                Sign::Metric { .. } => false,
            })
        };
        events.iter().filter(of_row).count()
    }

    /// The events of the row that begin an outage.
    fn failures(&self) -> impl Iterator<Item = &'static str> {
        self.signs.iter().filter_map(|sign| match sign {
            Sign::Event { name, .. } => recovery(name).map(|_| *name),
            Sign::Metric { .. } => None,
        })
    }

    fn recoveries(&self) -> impl Iterator<Item = String> {
        self.failures().filter_map(recovery)
    }
}

fn is_named(event: &str, name: &str) -> bool {
    event.contains(&format!(" event=\"{name}\""))
}

/// Returns the name of the event that ends the outage which this event begins.
fn recovery(name: &str) -> Option<String> {
    let subject = name.strip_suffix("_failed");
    let subject = subject.or_else(|| name.strip_suffix("_disconnected"))?;
    Some(format!("{subject}_recovered"))
}

/// Returns whether the metric shows a fault in the time between the snapshots.
fn is_alarming(sign: &Sign, before: &SessionMetrics, after: &SessionMetrics) -> bool {
    let Sign::Metric { name, label } = sign else {
        return false;
    };
    let samples = after.samples();
    let mut samples = samples.iter().filter(|sample| {
        let labels = sample.labels.iter();
        let mut labels = labels.map(|(name, value)| format!("{name}=\"{value}\""));
        sample.name.strip_prefix(METRIC) == Some(name)
            && (label.is_empty() || labels.any(|text| text == *label))
    });
    samples.any(|sample| match (sample.value, value(before, sample)) {
        (SampleValue::Counter(after), SampleValue::Counter(before)) => after > before,
        (SampleValue::Histogram(after), SampleValue::Histogram(before)) => {
            slow(&after) > slow(&before)
        }
        (SampleValue::Gauge(now), _) => match *name {
            "feed_connected" => now == 0.0,
            "feed_last_proof_seconds" => now > 1.0,
            _ => now > 0.0,
        },
        (after, before) => panic!("{name}: {before:?} became {after:?}"),
    })
}

fn value(metrics: &SessionMetrics, like: &Sample) -> SampleValue {
    let samples = metrics.samples();
    let mut same = samples
        .iter()
        .filter(|sample| (sample.name, sample.labels) == (like.name, like.labels));
    same.next()
        .map_or(SampleValue::Counter(0), |sample| sample.value)
}

fn slow(latencies: &LatencyHistogram) -> u64 {
    let first = LatencyHistogram::BOUNDS.partition_point(|bound| *bound <= SLOW);
    latencies.buckets()[first..].iter().sum()
}

/// Sends a request with this token through the layer, and returns the status. The status of an
/// anonymous request is 401.
pub async fn send<L: SessionLookup>(
    sessions: &SessionService<L>,
    token: &SessionToken,
) -> StatusCode {
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(async |request: Request<String>| {
            let mut response = Response::new(String::new());
            if request.extensions().get::<L::User>().is_none() {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok::<_, Infallible>(response)
        });
    let mut request = Request::new(String::new());
    *request.headers_mut() = cookie(sessions, token);
    app.oneshot(request).await.unwrap().status()
}
