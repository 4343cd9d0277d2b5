//! Load, and what it took.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderValue, Request, header::COOKIE};
use tower::ServiceExt as _;

use crate::{
    contestants::{App, Contestant},
    database::{KNOWN, USERS},
};

pub struct Measured {
    pub requests: u64,
    pub seconds: f64,
    pub p50: Duration,
    pub p99: Duration,
}

impl Measured {
    fn of(mut times: Vec<Duration>, seconds: f64) -> Self {
        times.sort_unstable();
        let at = |part: usize| {
            times
                .get(times.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        Self {
            requests: times.len() as u64,
            seconds,
            p50: at(50),
            p99: at(99),
        }
    }

    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// So many tasks, each of which asks again as soon as it is answered.
pub async fn closed(contestant: &Contestant, tasks: u64, time: Duration) -> Measured {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (app, stop, answers) = (
                contestant.app.clone(),
                Arc::clone(&stop),
                contestant.answers,
            );
            let cookies = Arc::clone(&contestant.cookies);
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut random = Random(task + 1);
                while !stop.load(Relaxed) {
                    let session = random.next() % KNOWN;
                    let start = Instant::now();
                    ask(&app, &cookies[session as usize], session, answers).await;
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    let mut times = Vec::new();
    for task in running {
        times.extend(task.await.expect("an answer was wrong"));
    }
    Measured::of(times, start.elapsed().as_secs_f64())
}

/// Requests that come at a rate, whether or not earlier ones are answered. Times count from when a request
/// was to come.
pub async fn open(contestant: &Contestant, rate: f64, time: Duration) -> Measured {
    let (contestant, runtime) = (contestant.clone(), tokio::runtime::Handle::current());
    let start = Instant::now();
    // On a thread of its own: the runtime's timers tick once a millisecond.
    let arrivals = std::thread::spawn(move || {
        let (mut random, mut next, mut running) = (Random(7), start, Vec::new());
        while next < start + time {
            // The gaps between arrivals that know nothing of each other.
            let uniform = (random.next() % 1_000_000 + 1) as f64 / 1_000_001.0;
            next += Duration::from_secs_f64(-uniform.ln() / rate);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let session = random.next() % KNOWN;
            let (app, answers, meant) = (contestant.app.clone(), contestant.answers, next);
            let cookie = contestant.cookies[session as usize].clone();
            running.push(runtime.spawn(async move {
                ask(&app, &cookie, session, answers).await;
                meant.elapsed()
            }));
        }
        running
    });
    let running = tokio::task::spawn_blocking(|| arrivals.join()).await;
    let running = running.expect("a thread").expect("a thread");
    let mut times = Vec::new();
    for task in running {
        times.push(task.await.expect("an answer was wrong"));
    }
    Measured::of(times, start.elapsed().as_secs_f64())
}

async fn ask(app: &App, cookie: &HeaderValue, session: u64, answers: bool) {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(COOKIE, cookie.clone());
    let response = match app.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let id = response
        .headers()
        .get("user-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    assert_eq!(id, answers.then_some(session % USERS), "the wrong user");
}

/// Numbers in no order that a cache could profit from.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
