//! Export through the `metrics` facade.

use std::{collections::HashMap, fmt, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Label, describe_counter, describe_gauge, describe_histogram,
};
use tokio::time::sleep;

use crate::{
    metrics::{LatencyHistogram, Sample, SampleValue, samples::Labels},
    service::SessionService,
    store::SessionLookup,
};

/// Exports the metrics of a service through the [`metrics`](https://docs.rs/metrics) facade.
///
/// The recorder of the application receives them, for example `metrics-exporter-prometheus`, or a
/// bridge to OpenTelemetry. The names are those of [the module](crate::metrics).
///
/// A latency is recorded as the upper bound of its bucket, and one without a bound as twice the
/// last bound. Give the recorder the bounds of [`LatencyHistogram::BOUNDS`].
///
/// ```
/// # use std::time::Duration;
/// # use tower_user_session::{SessionService, store::MemorySessionStore};
/// use tower_user_session::metrics::MetricsExporter;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let sessions = SessionService::new(MemorySessionStore::<i64, String>::new());
/// // The application has installed a recorder.
/// let exporter = MetricsExporter::new(sessions.clone());
/// let exporting = tokio::spawn(exporter.export_every(Duration::from_secs(5)));
/// // When the process shuts down:
/// exporting.abort();
/// # }
/// ```
pub struct MetricsExporter<L: SessionLookup> {
    sessions: SessionService<L>,
    labels: Vec<Label>,
    /// The handles of the recorder. A recorder may count from zero for each new handle.
    handles: HashMap<(&'static str, Labels), Handle>,
}

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
    /// With the latencies of the last export.
    Histogram(Histogram, LatencyHistogram),
}

impl<L: SessionLookup> MetricsExporter<L> {
    /// Creates an exporter, and describes the metrics to the recorder. Install the recorder before.
    pub fn new(sessions: SessionService<L>) -> Self {
        for Sample {
            name, help, value, ..
        } in sessions.metrics().samples()
        {
            match value {
                SampleValue::Counter(_) => describe_counter!(name, help),
                SampleValue::Gauge(_) => describe_gauge!(name, help),
                SampleValue::Histogram(_) => {
                    describe_histogram!(name, metrics::Unit::Seconds, help);
                }
            }
        }
        Self {
            sessions,
            labels: Vec::new(),
            handles: HashMap::new(),
        }
    }

    /// Adds a label to each metric, to tell several services of one process apart.
    pub fn with_label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push(Label::new(name, value.into()));
        self
    }

    /// Exports a snapshot.
    pub fn export(&mut self) {
        for sample in self.sessions.metrics().samples() {
            let handle = self.handles.entry((sample.name, sample.labels));
            let handle = handle.or_insert_with(|| Handle::new(&sample, &self.labels));
            match (handle, sample.value) {
                (Handle::Counter(counter), SampleValue::Counter(total)) => counter.absolute(total),
                (Handle::Gauge(gauge), SampleValue::Gauge(value)) => gauge.set(value),
                (Handle::Histogram(histogram, exported), SampleValue::Histogram(latencies)) => {
                    for (value, count) in new_latencies(exported, &latencies) {
                        histogram.record_many(value, count);
                    }
                    *exported = latencies;
                }
                // The type of a sample does not change.
                _ => {}
            }
        }
    }

    /// Exports a snapshot about once per `interval`. The future never completes.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the export.
    pub async fn export_every(mut self, interval: Duration) {
        loop {
            self.export();
            sleep(interval).await;
        }
    }
}

impl Handle {
    fn new(sample: &Sample, of_application: &[Label]) -> Self {
        let labels = sample.labels.iter();
        let labels = labels.map(|(name, value)| Label::new(*name, *value));
        let labels: Vec<_> = labels.chain(of_application.iter().cloned()).collect();
        match sample.value {
            SampleValue::Counter(_) => Self::Counter(metrics::counter!(sample.name, labels)),
            SampleValue::Gauge(_) => Self::Gauge(metrics::gauge!(sample.name, labels)),
            SampleValue::Histogram(_) => Self::Histogram(
                metrics::histogram!(sample.name, labels),
                LatencyHistogram::default(),
            ),
        }
    }
}

/// Returns the latencies since the last export, in seconds, with their number.
fn new_latencies(
    exported: &LatencyHistogram,
    now: &LatencyHistogram,
) -> impl Iterator<Item = (f64, usize)> {
    let bounds = LatencyHistogram::BOUNDS;
    let last = bounds.last().map(|bound| *bound * 2);
    let values = bounds.into_iter().chain(last);
    let counts = now.buckets().iter().zip(exported.buckets());
    let counts = counts.map(|(now, before)| usize::try_from(now - before).unwrap_or(usize::MAX));
    values
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(value, count)| (value.as_secs_f64(), count))
}

impl<L: SessionLookup> fmt::Debug for MetricsExporter<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsExporter").finish_non_exhaustive()
    }
}
