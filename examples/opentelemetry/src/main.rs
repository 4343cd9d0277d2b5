//! Spans, events and metrics over OTLP, for a collector or a backend of OpenTelemetry:
//!
//! ```sh
//! DATABASE_URL=… OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 \
//!     cargo run --manifest-path examples/opentelemetry/Cargo.toml
//! ```
//!
//! Each request has a span with the attributes `session.id` and `enduser.pseudo.id`. A lookup in the
//! database is a child of it. The metrics are exported at the SDK's interval, one minute by default.

mod telemetry;
#[cfg(test)]
mod tests;

use std::{env, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, State},
    http::Request,
    response::{IntoResponse, Result},
    routing::{get, post},
};
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use tokio::{net::TcpListener, signal};
use tower_http::trace::TraceLayer;
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, SessionService,
    metrics::MetricsExporter,
};
use tracing::{Span, field::Empty, info_span};

use crate::telemetry::Telemetry;

const USERS: &str = "CREATE TABLE IF NOT EXISTS users (id bigint PRIMARY KEY, email text NOT NULL);
    INSERT INTO users VALUES (7, 'ada@example.com') ON CONFLICT DO NOTHING";

#[derive(Clone, Debug)]
struct User {
    id: i64,
    email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email";

    fn from_row(row: &LookupRow<'_>) -> std::result::Result<Self, BoxError> {
        Ok(Self {
            id: row.user().get("id")?,
            email: row.user().get("email")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[tokio::main]
async fn main() -> std::result::Result<(), BoxError> {
    let spans = SpanExporter::builder().with_http().build()?;
    let metrics = MetricExporter::builder().with_http().build()?;
    let telemetry = Telemetry::install(spans, metrics)?;

    let url = env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL")?;
    let sessions = connect(&url).await?;
    let exporter = MetricsExporter::new(sessions.clone());
    let exporting = tokio::spawn(exporter.export_every(Duration::from_secs(5)));

    let address = env::var("ADDR").unwrap_or("127.0.0.1:3000".into());
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, app(sessions.clone()))
        .with_graceful_shutdown(async { drop(signal::ctrl_c().await) })
        .await?;
    sessions.close().await;
    exporting.abort();
    tokio::task::spawn_blocking(move || telemetry.shut_down()).await?
}

async fn connect(url: &str) -> std::result::Result<Sessions, BoxError> {
    let store = PgSessionStore::connect(url).await?;
    store.pool().get().await?.batch_execute(USERS).await?;
    store.migrate().await?;
    store.check().await?;
    Ok(Sessions::new(store))
}

fn app(sessions: Sessions) -> Router {
    let load_user = LoadUserLayer::new(sessions.clone())
        .record_session()
        .record_user(|user| user.id);
    Router::new()
        .route("/account", get(account))
        .route("/sign-in", post(sign_in))
        .layer(load_user)
        .layer(TraceLayer::new_for_http().make_span_with(request_span))
        .with_state(sessions)
}

/// The span of a request, with the names of OpenTelemetry's semantic conventions.
fn request_span(request: &Request<Body>) -> Span {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("", MatchedPath::as_str);
    info_span!(
        "request",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        http.request.method = %request.method(),
        http.route = route,
        url.path = request.uri().path(),
        session.id = Empty,
        enduser.pseudo.id = Empty,
    )
}

async fn account(CurrentUser(user): CurrentUser<User>) -> String {
    format!("Hello, {}", user.email)
}

/// A real application verifies a password here.
async fn sign_in(State(sessions): State<Sessions>) -> Result<impl IntoResponse> {
    Ok(sessions.sign_in_without_request(7).await?)
}
