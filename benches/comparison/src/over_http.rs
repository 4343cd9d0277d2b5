//! The contestants under axum over loopback, and `wrk` on the other side.

use std::{
    convert::Infallible,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use futures_util::future::BoxFuture;
use http::{HeaderName, Request, Response};
use tokio::net::TcpListener;
use tower::Service;

use crate::{
    BoxError,
    contestants::{Contestant, user::named},
    cpu,
    load::{Measure, Sample},
    request::Requests,
    results::Round,
};

/// Too many for a cache of the processor, and few enough for Lua.
const COOKIES: u32 = 20_000;

/// The user who must be returned.
const EXPECTED: HeaderName = HeaderName::from_static("x-expected-user");

/// Sends the prepared requests in turn.
const SCRIPT: &str = r#"
local requests = {}
for line in io.lines(os.getenv("COMPARISON_REQUESTS")) do
  local user, cookie = line:match("^(%S+)\t(.*)$")
  requests[#requests + 1] = wrk.format("GET", "/me", { Cookie = cookie, ["x-expected-user"] = user })
end
local n = math.random(#requests)
function request()
  n = n % #requests + 1
  return requests[n]
end
"#;

#[derive(Debug)]
pub(crate) struct Wrk {
    script: PathBuf,
    requests: PathBuf,
    seconds: u32,
}

impl Wrk {
    /// # Errors
    ///
    /// If `wrk` is missing.
    pub(crate) fn new(out: &Path, seconds: f64) -> Result<Self, BoxError> {
        Command::new("wrk").arg("-v").output()?;
        let script = out.join("wrk.lua");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self {
            script,
            requests: out.join("requests.txt"),
            seconds: (seconds.ceil() as u32).max(2),
        })
    }

    fn write_requests(&self, requests: &Requests) -> Result<(), BoxError> {
        let mut text = String::new();
        for n in 0..COOKIES.min(requests.known()) {
            // Spread over all of them.
            let n = n * (requests.known() / COOKIES.min(requests.known()));
            writeln!(
                text,
                "{}\t{}",
                requests.user(n),
                requests.header(n).to_str()?
            )?;
        }
        std::fs::write(&self.requests, text)?;
        Ok(())
    }

    pub(crate) async fn run(
        &self,
        contestant: &dyn Contestant,
        connections: u32,
        server: Option<cpu::Server>,
    ) -> Result<Sample, BoxError> {
        self.write_requests(contestant.requests())?;
        let wrong = Arc::new(AtomicU64::new(0));
        let checked = Checked {
            inner: contestant.router(),
            wrong: Arc::clone(&wrong),
            checks: contestant.requests().is_checked(),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let router = axum::Router::new().fallback_service(checked);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "--latency"])
            .arg(format!("-c{connections}"))
            .arg(format!("-d{}s", self.seconds))
            .arg("-s")
            .arg(&self.script)
            .arg(format!("http://{address}/me"))
            .env("COMPARISON_REQUESTS", &self.requests);
        let measure = Measure::now(server);
        let output = tokio::task::spawn_blocking(move || wrk.output()).await??;
        let measured = measure.end();
        serving.abort();
        let text = String::from_utf8_lossy(&output.stdout);
        let count = number_before(&text, " requests in ")
            .ok_or_else(|| format!("wrk failed: {}", String::from_utf8_lossy(&output.stderr)))?;
        let refused = after(&text, "Non-2xx or 3xx responses:").and_then(|n| n.parse().ok());
        Ok(Sample {
            round: Round {
                rate: after(&text, "Requests/sec:")
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0.0),
                p50_us: after(&text, "50%").and_then(micros),
                p99_us: after(&text, "99%").and_then(micros),
                ..measured.round(count)
            },
            wrong: wrong.load(Relaxed) + refused.unwrap_or(0),
            ..Sample::default()
        })
    }
}

fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(name).nth(1)?.split_whitespace().next()
}

fn number_before(text: &str, name: &str) -> Option<f64> {
    text.split(name)
        .next()?
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

/// `wrk` prints `812.00us`, `1.03ms` or `1.20s`.
fn micros(text: &str) -> Option<f64> {
    [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

/// Counts the responses whose user is not the expected one.
#[derive(Clone)]
struct Checked {
    inner: axum::Router,
    wrong: Arc<AtomicU64>,
    checks: bool,
}

impl Service<Request<Body>> for Checked {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let expected = request.headers().get(EXPECTED);
        let expected: Option<i64> = expected.and_then(|user| user.to_str().ok()?.parse().ok());
        let wrong = self.checks.then(|| Arc::clone(&self.wrong));
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            if let Some(wrong) = wrong
                && named(&response) != expected
            {
                wrong.fetch_add(1, Relaxed);
            }
            Ok(response)
        })
    }
}
