//! A Prometheus that scrapes one process.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::http::Request;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::sleep;

use super::RULES;

/// The times of the rules are divided by this, so that the test takes minutes and not an hour.
pub(super) const SCALE: u64 = 6;
/// Between two scrapes, and between two evaluations.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);

/// It is killed on drop.
pub(super) struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

/// The values of one query of a panel, over time.
pub(super) struct Series {
    pub(super) legend: String,
    /// Seconds since the start of the recording, and the value.
    pub(super) points: Vec<(f64, f64)>,
}

pub(super) struct Panel {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) series: Vec<Series>,
}

impl Prometheus {
    pub(super) async fn start(target: SocketAddr) -> Self {
        let folder = std::env::temp_dir().join(format!("alerts-{}", target.port()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rules.yml"), scaled(RULES)).unwrap();
        let config = format!(
            "global: {{scrape_interval: {0}s, evaluation_interval: {0}s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: example, static_configs: [{{targets: ['{target}']}}]}}]\n",
            INTERVAL.as_secs()
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                folder.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Self {
            child,
            address,
            folder,
        };
        let start = Instant::now();
        while prometheus.get("/-/ready").await.is_none() {
            assert!(start.elapsed() < PATIENCE, "Prometheus does not start");
            sleep(INTERVAL / 10).await;
        }
        prometheus
    }

    /// Returns the names of the alerts that fire.
    pub(super) async fn firing(&self) -> Vec<String> {
        let alerts = self.api("alerts").await;
        let alerts = alerts["data"]["alerts"].as_array().unwrap().iter();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until this alert fires, or no longer does.
    pub(super) async fn until(&self, alert: &str, firing: bool) -> Instant {
        let start = Instant::now();
        loop {
            let all = self.firing().await;
            if all.iter().any(|name| name == alert) == firing {
                return Instant::now();
            }
            assert!(start.elapsed() < PATIENCE, "{alert}: {all:?} fire");
            sleep(INTERVAL / 10).await;
        }
    }

    /// Runs the queries of the dashboard over the last time.
    pub(super) async fn record(&self, dashboard: &str, time: Duration) -> Vec<Panel> {
        let dashboard: Value = serde_json::from_str(dashboard).unwrap();
        let mut panels = Vec::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let mut series = Vec::new();
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$job", ".*").replace("$instance", ".*");
                let query = query.replace("$__rate_interval", "5s");
                let legend = target["legendFormat"].as_str().unwrap();
                series.extend(self.range(&query, legend, time).await);
            }
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            panels.push(Panel {
                title: text(&panel["title"]),
                unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
                series,
            });
        }
        panels
    }

    async fn range(&self, query: &str, legend: &str, time: Duration) -> Vec<Series> {
        let now = std::time::SystemTime::now();
        let now = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let start = now - time.as_secs_f64();
        let query = query.bytes().fold(String::new(), |mut encoded, byte| {
            let _ = write!(encoded, "%{byte:02X}");
            encoded
        });
        let path = format!("query_range?query={query}&start={start}&end={now}&step=1");
        let found = self.api(&path).await;
        let results = found["data"]["result"].as_array().unwrap().iter();
        results
            .map(|result| {
                let mut legend = legend.to_owned();
                for (label, value) in result["metric"].as_object().unwrap() {
                    let value = value.as_str().unwrap();
                    legend = legend.replace(&format!("{{{{{label}}}}}"), value);
                }
                let points = result["values"].as_array().unwrap().iter();
                let points = points.filter_map(|point| {
                    let value: f64 = point[1].as_str()?.parse().ok()?;
                    value
                        .is_finite()
                        .then_some((point[0].as_f64()? - start, value))
                });
                Series {
                    legend,
                    points: points.collect(),
                }
            })
            .collect()
    }

    async fn api(&self, path: &str) -> Value {
        let answer = self.get(&format!("/api/v1/{path}")).await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    async fn get(&self, path: &str) -> Option<Bytes> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::get(format!("http://{}{path}", self.address));
        let response = client
            .request(request.body(Full::default()).unwrap())
            .await
            .ok()?;
        let succeeded = response.status().is_success();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(succeeded || path == "/-/ready", "{path}: {body:?}");
        succeeded.then_some(body)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Divides each time of the rules.
fn scaled(rules: &str) -> String {
    let mut scaled = String::new();
    for line in rules.lines() {
        let mut rest = line;
        let is_time = line.trim_start().starts_with("for: ") || line.contains('[');
        while is_time && let Some(digit) = rest.find([' ', '[']) {
            let (before, after) = rest.split_at(digit + 1);
            scaled.push_str(before);
            rest = after;
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let unit = match rest[digits..].chars().next() {
                Some('m') => 60,
                Some('h') => 60 * 60,
                Some('d') => 24 * 60 * 60,
                _ => continue,
            };
            let Ok(number) = rest[..digits].parse::<u64>() else {
                continue;
            };
            let _ = write!(scaled, "{}s", number * unit / SCALE);
            rest = &rest[digits + 1..];
        }
        scaled.push_str(rest);
        scaled.push('\n');
    }
    scaled
}
