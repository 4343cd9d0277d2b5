use axum::{
    body::Body,
    http::{Request, StatusCode, header::COOKIE},
};
use ephemeral_postgres::TestDatabase;
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter,
        data::{AggregatedMetrics, MetricData, ResourceMetrics, ScopeMetrics, SumDataPoint},
    },
    trace::{InMemorySpanExporter, SpanData},
};
use tower::ServiceExt as _;
use tower_user_session::{
    SignedIn,
    metrics::{LatencyHistogram, MetricsExporter},
};

use crate::{Telemetry, app, connect};

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let attribute = attributes.find(|attribute| attribute.key.as_str() == name);
    attribute.map(|attribute| attribute.value.to_string())
}

fn metric<'a>(exported: &'a ResourceMetrics, name: &str) -> &'a AggregatedMetrics {
    let mut metrics = exported.scope_metrics().flat_map(ScopeMetrics::metrics);
    metrics.find(|metric| metric.name() == name).unwrap().data()
}

async fn get_account(router: &axum::Router, signed_in: &SignedIn) -> StatusCode {
    let cookie = format!("__Host-session={}", signed_in.token().expose());
    let request = Request::get("/account").header(COOKIE, cookie);
    let request = request.body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap().status()
}

/// A request and its lookup are spans of one trace, without the token. The metrics count each request
/// once, however often they are exported.
#[tokio::test]
async fn spans_and_metrics_are_exported() {
    let (spans, metrics) = (
        InMemorySpanExporter::default(),
        InMemoryMetricExporter::default(),
    );
    let telemetry = Telemetry::install(spans.clone(), metrics.clone()).unwrap();
    let database = TestDatabase::create("").await;
    let sessions = connect(&database.url()).await.unwrap();
    let mut session_metrics = MetricsExporter::new(sessions.clone());
    let router = app(sessions.clone());
    let ada = sessions.sign_in_without_request(7).await.unwrap();
    for _ in 0..3 {
        assert_eq!(get_account(&router, &ada).await, StatusCode::OK);
        session_metrics.export();
    }

    let flushed = tokio::task::spawn_blocking(move || {
        telemetry.spans.force_flush().unwrap();
        telemetry.metrics.force_flush().unwrap();
    });
    flushed.await.unwrap();
    let spans = spans.get_finished_spans().unwrap();
    let id = ada.session().id().to_string();
    let named = |name| spans.iter().filter(move |span| span.name == name);
    assert_eq!(named("GET /account").count(), 3);
    for request in named("GET /account") {
        assert_eq!(attribute(request, "session.id").as_ref(), Some(&id));
        assert_eq!(
            attribute(request, "enduser.pseudo.id").as_deref(),
            Some("7")
        );
        let context = &request.span_context;
        let lookup = named("session.lookup").find(|lookup| {
            lookup.parent_span_id == context.span_id()
                && lookup.span_context.trace_id() == context.trace_id()
        });
        let lookup = lookup.unwrap();
        assert_eq!(attribute(lookup, "outcome").as_deref(), Some("live"));
        assert_eq!(attribute(lookup, "session.id").as_ref(), Some(&id));
    }
    let token = ada.token().expose();
    assert!(!format!("{spans:?}").contains(&token));

    let exported = metrics.get_finished_metrics().unwrap();
    let exported = exported.last().unwrap();
    let requests = metric(exported, "tower_user_session_requests_total");
    let AggregatedMetrics::U64(MetricData::Sum(requests)) = requests else {
        panic!("{requests:?}")
    };
    let total: u64 = requests.data_points().map(SumDataPoint::value).sum();
    assert_eq!(total, 3);
    let queries = metric(exported, "tower_user_session_query_seconds");
    let AggregatedMetrics::F64(MetricData::Histogram(queries)) = queries else {
        panic!("{queries:?}")
    };
    let point = queries.data_points().next().unwrap();
    assert_eq!(point.count(), 3);
    let bounds: Vec<_> = point.bounds().collect();
    let expected = LatencyHistogram::BOUNDS.map(|bound| bound.as_secs_f64());
    assert_eq!(bounds, expected);
}
