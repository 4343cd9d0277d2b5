//! The metrics in the text format of Prometheus, for the internal address.

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::{HeaderName, header},
};
use example_application::Sessions;
use tower_user_session::metrics::{LatencyHistogram, Sample, SampleValue};

const TEXT: (HeaderName, &str) = (header::CONTENT_TYPE, "text/plain; version=0.0.4");

pub(crate) async fn metrics(
    State(sessions): State<Sessions>,
) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = String::new();
    let mut described = "";
    for sample in sessions.metrics().samples() {
        if described != sample.name {
            described = sample.name;
            describe(&mut text, &sample);
        }
        write(&mut text, &sample);
    }
    ([TEXT], text)
}

fn describe(
    text: &mut String,
    Sample {
        name, help, value, ..
    }: &Sample,
) {
    let kind = match value {
        SampleValue::Counter(_) => "counter",
        SampleValue::Gauge(_) => "gauge",
        SampleValue::Histogram(_) => "histogram",
        _ => "untyped",
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn write(
    text: &mut String,
    Sample {
        name,
        labels,
        value,
        ..
    }: &Sample,
) {
    let labels: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let labels = match labels.join(",") {
        labels if labels.is_empty() => labels,
        labels => format!("{{{labels}}}"),
    };
    let _ = match value {
        SampleValue::Counter(value) => writeln!(text, "{name}{labels} {value}"),
        SampleValue::Gauge(value) => writeln!(text, "{name}{labels} {value}"),
        SampleValue::Histogram(latencies) => write_latencies(text, name, latencies),
        _ => Ok(()),
    };
}

/// Writes the counts of the buckets, each with those below it.
fn write_latencies(
    text: &mut String,
    name: &str,
    latencies: &LatencyHistogram,
) -> std::fmt::Result {
    let bounds = LatencyHistogram::BOUNDS
        .iter()
        .map(|bound| bound.as_secs_f64().to_string());
    let bounds = bounds.chain(["+Inf".to_owned()]);
    let mut total = 0;
    for (bound, count) in bounds.zip(latencies.buckets()) {
        total += count;
        writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {total}")?;
    }
    writeln!(text, "{name}_sum {}", latencies.sum().as_secs_f64())?;
    writeln!(text, "{name}_count {total}")
}
