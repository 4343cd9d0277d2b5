//! The load: closed and open loops, in this process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use axum::body::Body;
use http::Request;
use tokio::{runtime::Handle, task::JoinSet};
use tower::ServiceExt as _;

use crate::{
    contestants::{app::App, user::named},
    cpu,
    request::{Random, Requests},
    results::Round,
};

/// The results of a contestant under one load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) round: Round,
    pub(crate) wrong: u64,
    /// Open loop: how many of the arriving requests were answered in the measured time.
    pub(crate) achieved: f64,
}

/// A closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) tasks: u32,
    /// How many of ten requests carry an unknown token.
    pub(crate) unknown_of_ten: u32,
    /// How many of the sessions are used.
    pub(crate) in_use: u32,
}

impl Load {
    /// All sessions are used.
    pub(crate) const fn of(tasks: u32) -> Self {
        Self {
            tasks,
            unknown_of_ten: 0,
            in_use: u32::MAX,
        }
    }
}

/// A load warms up for this part of its time before it is measured.
const WARM_UP: f64 = 0.25;

/// Each run has a different order.
static SEED: AtomicU64 = AtomicU64::new(1);

/// Nanoseconds, in few bytes.
type Latencies = Vec<u32>;

fn nanos(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

async fn ask(service: &mut impl App, request: Request<Body>) -> Option<i64> {
    let Ok(ready) = service.ready().await;
    let Ok(response) = ready.call(request).await;
    named(&response)
}

pub(crate) async fn closed(
    service: &impl App,
    requests: &Arc<Requests>,
    load: Load,
    time: Duration,
    server: Option<cpu::Server>,
) -> Sample {
    let start = Instant::now() + time.mul_f64(WARM_UP);
    let end = start + time;
    let mut running = JoinSet::new();
    let Load {
        tasks,
        unknown_of_ten,
        in_use,
    } = load;
    let known = requests.known().min(in_use);
    for _ in 0..tasks {
        let (mut service, requests) = (service.clone(), Arc::clone(requests));
        let mut random = Random::new(SEED.fetch_add(1, Relaxed));
        running.spawn(async move {
            let (mut latencies, mut wrong) = (Latencies::new(), 0);
            loop {
                let is_known = unknown_of_ten == 0 || random.below(10) >= unknown_of_ten;
                let n = random.below(known);
                let request = if is_known {
                    requests.request(n)
                } else {
                    requests.unknown(n)
                };
                let asked = Instant::now();
                let user = ask(&mut service, request).await;
                let answered = Instant::now();
                let right = if is_known {
                    requests.is_right(n, user)
                } else {
                    user.is_none()
                };
                wrong += u64::from(!right);
                if answered >= end {
                    return (latencies, wrong);
                }
                if answered >= start && is_known {
                    latencies.push(nanos(answered - asked));
                }
                // A service that never waits must let the other tasks run too.
                tokio::task::coop::consume_budget().await;
            }
        });
    }
    let measure = Measure::from(start, server).await;
    tokio::time::sleep_until(end.into()).await;
    let measured = measure.end();
    let (mut latencies, mut wrong) = (Latencies::new(), 0);
    for (some, of_these) in running.join_all().await {
        latencies.extend(some);
        wrong += of_these;
    }
    measured.sample(latencies, wrong)
}

/// Arrivals follow a Poisson process. A latency is measured from the scheduled arrival of its
/// request.
pub(crate) async fn open(
    service: &impl App,
    requests: &Arc<Requests>,
    rate: u32,
    time: Duration,
    server: Option<cpu::Server>,
) -> Sample {
    let begin = Instant::now() + Duration::from_millis(5);
    let start = begin + time.mul_f64(WARM_UP);
    let end = start + time;
    let answers = Arc::new(Mutex::new((Latencies::new(), 0, 0_u64)));
    let (arrivals, done) = (Handle::current(), mpsc::channel::<()>());
    let arriving = {
        let (service, requests, answers) =
            (service.clone(), Arc::clone(requests), Arc::clone(&answers));
        let pending = done.0;
        let mut random = Random::new(SEED.fetch_add(1, Relaxed));
        // A separate thread, because the runtime's timers have a resolution of milliseconds.
        std::thread::spawn(move || {
            let mut arrival = begin;
            while arrival < end {
                if let Some(early) = arrival.checked_duration_since(Instant::now()) {
                    std::thread::sleep(early);
                }
                let n = random.below(requests.known());
                let request = requests.request(n);
                let (mut service, requests) = (service.clone(), Arc::clone(&requests));
                let (answers, pending) = (Arc::clone(&answers), pending.clone());
                arrivals.spawn(async move {
                    let user = ask(&mut service, request).await;
                    let latency = arrival.elapsed();
                    let mut answers = answers
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    answers.1 += u64::from(!requests.is_right(n, user));
                    let answered = arrival + latency;
                    answers.2 += u64::from(answered >= start && answered < end);
                    if arrival >= start {
                        answers.0.push(nanos(latency));
                    }
                    drop(pending);
                });
                arrival += Duration::from_secs_f64(-random.unit().ln() / f64::from(rate));
            }
        })
    };
    let measure = Measure::from(start, server).await;
    tokio::time::sleep_until(end.into()).await;
    let measured = measure.end();
    let all_answered = tokio::task::spawn_blocking(move || {
        let _ = arriving.join();
        // Closes when the last request has completed.
        let _ = done.1.recv();
    });
    let _ = all_answered.await;
    let (latencies, wrong, answered) = std::mem::take(
        &mut *answers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    let arrived = latencies.len().max(1);
    Sample {
        achieved: answered as f64 / arrived as f64,
        ..measured.sample(latencies, wrong)
    }
}

/// Sends this many requests, and returns how many of the responses were wrong.
pub(crate) async fn exactly(
    service: &impl App,
    requests: &Arc<Requests>,
    tasks: u32,
    count: u32,
) -> u64 {
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let (mut service, requests) = (service.clone(), Arc::clone(requests));
        running.spawn(async move {
            let mut wrong = 0;
            let mut n = task;
            while n < count {
                // In an order without locality, and each session once if there are enough.
                let asked =
                    u32::try_from(u64::from(n) * 7_919 % u64::from(requests.known())).unwrap_or(0);
                let user = ask(&mut service, requests.request(asked)).await;
                wrong += u64::from(!requests.is_right(asked, user));
                n += tasks;
                tokio::task::coop::consume_budget().await;
            }
            wrong
        });
    }
    running.join_all().await.into_iter().sum()
}

/// Processor time meanwhile.
#[derive(Debug)]
pub(crate) struct Measure {
    server: Option<cpu::Server>,
    start: Instant,
    client_then: Duration,
    server_then: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    time: Duration,
    client: Duration,
    server: Option<Duration>,
}

impl Measure {
    pub(crate) async fn from(start: Instant, server: Option<cpu::Server>) -> Self {
        tokio::time::sleep_until(start.into()).await;
        Self::now(server)
    }

    pub(crate) fn now(server: Option<cpu::Server>) -> Self {
        Self {
            server,
            start: Instant::now(),
            client_then: cpu::client(),
            server_then: server.and_then(cpu::Server::time),
        }
    }

    pub(crate) fn end(self) -> Measured {
        let server_now = self.server.and_then(cpu::Server::time);
        Measured {
            time: self.start.elapsed(),
            client: cpu::client().saturating_sub(self.client_then),
            server: server_now
                .zip(self.server_then)
                .map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

impl Measured {
    fn sample(self, mut latencies: Latencies, wrong: u64) -> Sample {
        latencies.sort_unstable();
        let count = latencies.len();
        let at = |part: f64| {
            let place = (count as f64 * part) as usize;
            latencies.get(place).map(|nanos| f64::from(*nanos) / 1e3)
        };
        let round = Round {
            p50_us: at(0.5),
            p99_us: at(0.99),
            ..self.round(count as f64)
        };
        Sample {
            round,
            wrong,
            achieved: 1.0,
        }
    }

    /// The results without the latencies.
    pub(crate) fn round(self, requests: f64) -> Round {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / requests;
        Round {
            round: 0,
            rate: requests / self.time.as_secs_f64(),
            p50_us: None,
            p99_us: None,
            client_us: Some(each(self.client)),
            server_us: self.server.map(each),
        }
    }
}
