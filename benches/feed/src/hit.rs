//! Part e: a lookup that is answered from the cache, on one thread.

use std::{
    convert::Infallible,
    future::{Future as _, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use http::{HeaderMap, Request, Response};
use tower::{Layer as _, Service, service_fn};
use tower_user_session::{
    BoxError, CurrentSession, LoadUserLayer, rejection::EmptyResponseForRejection,
    tokio_postgres::NoTls,
};

use crate::{
    figures::{Report, percentile},
    ground::{Ground, Sessions, User, headers, sessions, token},
};

const TIMES: u32 = 100_000;
const SAMPLES: u32 = 21;

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let database = ground.database(100).await?;
    let sessions = sessions(&database.config(), 4)?;
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await?;
    // The feed keeps running on another thread.
    let [over, bare, allocations, bare_allocations] =
        tokio::task::spawn_blocking(move || measure(&sessions)).await??;
    println!("\ne. A lookup that is answered from the cache, through LoadUserLayer");
    println!("the empty service: {bare:.0} ns, {bare_allocations:.2} allocations");
    println!(
        "over it: {over:.0} ns, {:.2} allocations",
        allocations - bare_allocations
    );
    report.add("hit_over_the_empty_service", over, "ns", "<= 400");
    let allocations = allocations - bare_allocations;
    report.add("hit_allocations", allocations, "allocations", "-");
    Ok(())
}

fn measure(sessions: &Sessions) -> Result<[f64; 4], BoxError> {
    let runtime = tokio::runtime::Handle::current();
    let inner = service_fn(|request: Request<()>| {
        let mut response = Response::new(());
        if request.extensions().get::<CurrentSession<User>>().is_none() {
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        }
        ready(Ok::<_, Infallible>(response))
    });
    let mut layered = LoadUserLayer::new(sessions.clone())
        .rejection_response(EmptyResponseForRejection)
        .layer(inner);
    let mut alone = inner;
    let (headers, token) = (headers(7)?, token(7)?);
    runtime.block_on(sessions.user(&token))?;

    let (mut over, mut bare) = (Vec::new(), Vec::new());
    let before = sessions.metrics();
    // Alternating, because the processor's clock frequency drifts.
    for _ in 0..SAMPLES {
        let bare_time = time(&mut alone, &headers);
        bare.push(bare_time);
        over.push(time(&mut layered, &headers) - bare_time);
    }
    let allocations = count(&mut layered, &headers);
    let hits = sessions.metrics().from_cache - before.from_cache;
    if hits != u64::from((SAMPLES + 1) * TIMES) {
        return Err(format!("{hits} answers from the cache only").into());
    }
    Ok([
        percentile(&mut over, 50),
        percentile(&mut bare, 50),
        allocations,
        count(&mut alone, &headers),
    ])
}

fn time<S>(service: &mut S, headers: &HeaderMap) -> f64
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let start = Instant::now();
    for _ in 0..TIMES {
        pass(service, headers);
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
}

fn count<S>(service: &mut S, headers: &HeaderMap) -> f64
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let counted = allocation_counter::measure(|| {
        for _ in 0..TIMES {
            pass(service, headers);
        }
    });
    counted.count_total as f64 / f64::from(TIMES)
}

/// A new request each time, because a hit fills its extensions.
fn pass<S>(service: &mut S, headers: &HeaderMap)
where
    S: Service<Request<()>, Response = Response<()>, Error = Infallible>,
{
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut context) else {
        return;
    };
    let mut request = Request::new(());
    request.headers_mut().clone_from(headers);
    let answering = pin!(service.call(black_box(request)));
    if let Poll::Ready(Ok(response)) = answering.poll(&mut context) {
        black_box(response);
    }
}
