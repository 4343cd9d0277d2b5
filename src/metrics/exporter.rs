//! Export through the `metrics` facade.

use std::{fmt, time::Duration};

use metrics::{Label, describe_counter, describe_gauge, describe_histogram};
use tokio::time::sleep;

use crate::{
    metrics::{LatencyHistogram, Sample, SampleValue},
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
    /// The counts of each histogram at the last export.
    exported: Vec<(&'static str, LatencyHistogram)>,
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
            exported: Vec::new(),
        }
    }

    /// Adds a label to each metric, to tell several services of one process apart.
    pub fn with_label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push(Label::new(name, value.into()));
        self
    }

    /// Exports a snapshot.
    pub fn export(&mut self) {
        for Sample {
            name,
            labels,
            value,
            ..
        } in self.sessions.metrics().samples()
        {
            let labels = labels.iter().map(|(name, value)| Label::new(*name, *value));
            let labels: Vec<_> = labels.chain(self.labels.iter().cloned()).collect();
            match value {
                SampleValue::Counter(total) => metrics::counter!(name, labels).absolute(total),
                SampleValue::Gauge(value) => metrics::gauge!(name, labels).set(value),
                SampleValue::Histogram(histogram) => {
                    let recorder = metrics::histogram!(name, labels);
                    for (value, count) in self.new_latencies(name, histogram) {
                        recorder.record_many(value, count);
                    }
                }
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

    /// Returns the latencies since the last export, in seconds, with their number.
    fn new_latencies(
        &mut self,
        name: &'static str,
        histogram: LatencyHistogram,
    ) -> impl Iterator<Item = (f64, usize)> {
        let known = self.exported.iter_mut().find(|(known, _)| *known == name);
        let before = if let Some((_, exported)) = known {
            std::mem::replace(exported, histogram)
        } else {
            self.exported.push((name, histogram));
            LatencyHistogram::default()
        };
        let bounds = LatencyHistogram::BOUNDS;
        let last = bounds.last().map(|bound| *bound * 2);
        let values = bounds.into_iter().chain(last);
        let counts: Vec<_> = histogram
            .buckets()
            .iter()
            .zip(before.buckets())
            .map(|(now, before)| usize::try_from(now - before).unwrap_or(usize::MAX))
            .collect();
        values
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(value, count)| (value.as_secs_f64(), count))
    }
}

impl<L: SessionLookup> fmt::Debug for MetricsExporter<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsExporter").finish_non_exhaustive()
    }
}
