//! Prometheus with the rules of `prometheus` watches the example: the alerts fire during an
//! outage and resolve after it.
//!
//! ```sh
//! cargo test -p example-axum --test it alerts -- --ignored --nocapture
//! ```

mod plots;
mod prometheus;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use ephemeral_postgres::{Server, StopMode};
use tokio::time::sleep;

use self::prometheus::{Prometheus, SCALE};
use crate::{
    process::Process,
    support::{ADA, Browser},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus");
const RULES: &str = include_str!("../../../prometheus/rules.yml");
const DASHBOARD: &str = include_str!("../../../prometheus/dashboard.json");

/// One time of the rules, in the test.
const MINUTE: Duration = Duration::from_secs(60 / SCALE);

/// Q06: `promtool` accepts the rules.
#[test]
fn the_rules_are_valid() {
    let Ok(check) = Command::new("promtool")
        .args(["check", "rules"])
        .arg(Path::new(FOLDER).join("rules.yml"))
        .output()
    else {
        return ephemeral_postgres::skip("the_rules_are_valid", "promtool is missing");
    };
    assert!(check.status.success(), "{check:?}");
}

/// Q06: the dashboard and the rules query metrics that the example exports.
#[tokio::test]
async fn the_dashboard_and_the_rules_query_exported_metrics() {
    let site = crate::support::Site::open().await;
    let text = crate::support::metrics(&site.sessions).await;
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut names = 0;
    for source in [RULES, DASHBOARD] {
        for (start, _) in source.match_indices("tower_user_session_") {
            let name: String = source[start..]
                .chars()
                .take_while(|c| is_name(*c))
                .collect();
            assert!(text.contains(&format!("\n{name}")), "{name} in\n{text}");
            names += 1;
        }
    }
    assert!(names > 20);
    // Prometheus needs the type before the first sample.
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("# HELP tower_user_session_"), "{first}");
}

/// Q06: the alerts fire when the database is down and when the feed alone is, within their `for`,
/// one scrape and two evaluations, and resolve after the recovery. The panels of the dashboard are
/// drawn from this run.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes some minutes, and needs Prometheus"]
async fn alerts_fire_and_resolve() {
    let server = Server::start_private(&[]).unwrap();
    let process = Process::start(server.url()).await;
    let prometheus = Prometheus::start(process.internal.unwrap()).await;
    let mut browser = Browser::at(process.address);
    browser.post("/sign-up", ADA).await;
    browser.post("/sign-in", ADA).await;
    let load = tokio::spawn(load(browser));
    // The example repeats a failed sign-out, which must not end the session of the load.
    let mut other = Browser::at(process.address);
    other.post("/sign-in", ADA).await;
    let start = Instant::now();
    // The windows of the rules must contain a time without an outage.
    sleep(MINUTE + MINUTE / 2).await;
    assert_eq!(prometheus.firing().await, [""; 0]);

    server.stop(StopMode::Immediate).unwrap();
    let broken = Instant::now();
    assert_eq!(
        other.post("/sign-out", "").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    for alert in ["SessionLookupsFail", "SessionFeedDisconnected"] {
        let fired = prometheus.until(alert, true).await - broken;
        println!("{alert} fired after {fired:?}");
        // A minute is their `for`. The lease of the feed ends first.
        let scrape_and_evaluations = 3 * prometheus::INTERVAL;
        let limit = MINUTE + scrape_and_evaluations + Duration::from_secs(1);
        assert!(fired <= limit, "{alert}: {fired:?}, at most {limit:?}");
    }
    server.restart().unwrap();
    let repaired = Instant::now();
    for alert in ["SessionLookupsFail", "SessionFeedDisconnected"] {
        let resolved = prometheus.until(alert, false).await - repaired;
        println!("{alert} resolved after {resolved:?}");
        // The rate looks a minute back.
        assert!(
            resolved <= MINUTE + 5 * prometheus::INTERVAL,
            "{alert}: {resolved:?}"
        );
    }

    let client = crate::support::connect(&server).await;
    let triggers = "SELECT pg_get_triggerdef(oid) FROM pg_trigger
        WHERE tgname LIKE 'tower_user_session%' AND NOT tgisinternal";
    assert!(!client.query(triggers, &[]).await.unwrap().is_empty());
    let disable = "ALTER TABLE sessions DISABLE TRIGGER USER";
    client.batch_execute(disable).await.unwrap();
    let broken = Instant::now();
    let fired = prometheus.until("SessionFeedDisconnected", true).await - broken;
    println!("SessionFeedDisconnected alone fired after {fired:?}");
    assert!(
        !prometheus
            .firing()
            .await
            .contains(&"SessionLookupsFail".to_owned())
    );
    // The example migrates when it starts, which enables them again.
    let second = Process::start(server.url()).await;
    prometheus.until("SessionFeedDisconnected", false).await;
    drop(second);

    sleep(MINUTE / 2).await;
    load.abort();
    let dashboard = prometheus.record(DASHBOARD, start.elapsed()).await;
    let picture = Path::new(FOLDER).join("dashboard.svg");
    std::fs::write(&picture, plots::draw(&dashboard)).unwrap();
    println!("the panels are in {}", picture.display());
}

/// Sends requests of one signed-in user, of an anonymous one and of one with an unknown token.
async fn load(browser: Browser) {
    let mut clients = [browser.clone(), browser.clone(), browser];
    clients[1].cookie = None;
    let unknown = "A".repeat(42);
    clients[2].cookie = Some(format!("__Host-session={unknown}E"));
    let mut round = 0_u32;
    loop {
        for client in &mut clients {
            client.get("/").await;
        }
        round += 1;
        if round.is_multiple_of(20) {
            let mut visitor = clients[1].clone();
            visitor.post("/sign-in", ADA).await;
            visitor.post("/sign-out", "").await;
        }
        sleep(Duration::from_millis(40)).await;
    }
}
