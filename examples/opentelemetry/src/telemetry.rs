//! The pipelines for spans, events and metrics.

use metrics_exporter_opentelemetry::Recorder;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    Resource,
    metrics::{Aggregation, Instrument, SdkMeterProvider, Stream, exporter::PushMetricExporter},
    trace::{SdkTracerProvider, SpanExporter},
};
use tower_user_session::{BoxError, metrics::LatencyHistogram};
use tracing_subscriber::{Layer as _, Registry, filter::Targets, layer::SubscriberExt as _};

const SERVICE: &str = "example-opentelemetry";

pub(crate) struct Telemetry {
    pub(crate) spans: SdkTracerProvider,
    pub(crate) metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Installs both pipelines for the whole process.
    pub(crate) fn install(
        spans: impl SpanExporter + 'static,
        metrics: impl PushMetricExporter,
    ) -> Result<Self, BoxError> {
        let resource = Resource::builder().with_service_name(SERVICE).build();
        let spans = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_batch_exporter(spans)
            .build();
        let recorder = Recorder::builder(SERVICE).with_meter_provider(|meters| {
            meters
                .with_resource(resource)
                .with_periodic_exporter(metrics)
                .with_view(session_latencies)
        });
        let (metrics, _) = recorder.install()?;

        // The spans of the lookups have the level `debug`. An event becomes an event of its span.
        let levels = Targets::new()
            .with_target("example_opentelemetry", tracing::Level::INFO)
            .with_target("tower_user_session", tracing::Level::DEBUG);
        let to_spans = tracing_opentelemetry::layer()
            .with_tracer(spans.tracer(SERVICE))
            .with_filter(levels);
        let to_terminal = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_filter(tracing_subscriber::filter::LevelFilter::INFO);
        let subscriber = Registry::default().with(to_spans).with(to_terminal);
        tracing::subscriber::set_global_default(subscriber)?;
        Ok(Self { spans, metrics })
    }

    /// Exports what is left.
    pub(crate) fn shut_down(&self) -> Result<(), BoxError> {
        self.spans.shutdown()?;
        Ok(self.metrics.shutdown()?)
    }
}

/// Gives the histograms of the sessions the bounds that their latencies are counted in.
fn session_latencies(instrument: &Instrument) -> Option<Stream> {
    let name = instrument.name();
    let is_latency = name.starts_with("tower_user_session_") && name.ends_with("_seconds");
    let boundaries = LatencyHistogram::BOUNDS.map(|bound| bound.as_secs_f64());
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries: boundaries.to_vec(),
        record_min_max: false,
    };
    let stream = Stream::builder().with_aggregation(aggregation).build();
    is_latency.then(|| stream.ok()).flatten()
}
