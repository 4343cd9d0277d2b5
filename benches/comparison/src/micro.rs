//! Single steps of a request, on one thread, without a server.

use std::{
    convert::Infallible,
    future::{Future as _, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Request, Response, header::COOKIE};
use tokio_postgres::NoTls;
use tower::{Layer as _, Service, service_fn};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, SessionService,
    cookie::{PresentedToken, SessionCookie},
    rejection::EmptyResponseForRejection,
    session::SessionToken,
};

use crate::{
    BoxError,
    contestants::user::User,
    data, request,
    results::{Step, median},
};

const TIMES: u32 = 100_000;
const SAMPLES: u32 = 21;

pub(crate) fn run() -> Result<Vec<Step>, BoxError> {
    let mut steps = Vec::new();
    without_a_cookie(&mut steps)?;
    let token = data::token(7_654_321);
    let ours = headers(&format!("__Host-session={token}"))?;
    let others = headers("something_else=0123456789")?;
    let cookie = SessionCookie::default();
    steps.push(step("cookie: scan 612 bytes in which it is not", || {
        black_box(matches!(
            cookie.read(black_box(&others)),
            PresentedToken::Nothing
        ));
    }));
    steps.push(step(
        "cookie: scan 612 bytes, find it and decode the token",
        || {
            black_box(matches!(
                cookie.read(black_box(&ours)),
                PresentedToken::Token(_)
            ));
        },
    ));
    steps.push(step("token: decode 43 characters", || {
        black_box(SessionToken::parse(black_box(token.as_bytes())));
    }));
    let parsed = SessionToken::parse(token.as_bytes()).ok_or("not a token")?;
    steps.push(step("token: digest of 32 bytes", || {
        black_box(black_box(&parsed).digest());
    }));
    Ok(steps)
}

fn headers(pair: &str) -> Result<HeaderMap, BoxError> {
    let header = HeaderValue::try_from(request::header(pair))?;
    Ok(HeaderMap::from_iter([(COOKIE, header)]))
}

fn step(what: &str, mut run: impl FnMut()) -> Step {
    let samples = (0..SAMPLES).map(|_| time(&mut run)).collect();
    Step {
        what: what.to_owned(),
        nanos: median(samples).unwrap_or(f64::NAN),
        allocations: count(&mut run),
    }
}

fn time(run: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..TIMES {
        run();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
}

fn count(run: &mut impl FnMut()) -> f64 {
    let counted = allocation_counter::measure(|| {
        for _ in 0..TIMES {
            run();
        }
    });
    counted.count_total as f64 / f64::from(TIMES)
}

/// The layer on requests that have no session cookie, over the inner service alone. The inner
/// service returns the request, so that its construction is not measured.
fn without_a_cookie(steps: &mut Vec<Step>) -> Result<(), BoxError> {
    // Connects to no server, because nothing is looked up.
    let manager = deadpool_postgres::Manager::new(tokio_postgres::Config::new(), NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build()?;
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    let inner =
        service_fn(|request: Request<()>| ready(Ok::<_, Infallible>(Response::new(request))));
    let mut layered = LoadUserLayer::new(sessions)
        .rejection_response(EmptyResponseForRejection)
        .layer(inner);
    let mut alone = inner;
    for (what, headers) in [
        ("no Cookie header", HeaderMap::new()),
        (
            "612 bytes of other cookies",
            headers("something_else=0123456789")?,
        ),
    ] {
        let mut request = Some(Request::new(()));
        if let Some(request) = &mut request {
            *request.headers_mut() = headers;
        }
        let (mut over, mut bare) = (Vec::new(), Vec::new());
        // Alternating, because the processor's clock frequency drifts.
        for _ in 0..SAMPLES {
            let bare_time = time(&mut || pass(&mut alone, &mut request));
            bare.push(bare_time);
            over.push(time(&mut || pass(&mut layered, &mut request)) - bare_time);
        }
        let allocations = count(&mut || pass(&mut layered, &mut request));
        steps.push(Step {
            what: format!("layer, {what}: over the empty service"),
            nanos: median(over).unwrap_or(f64::NAN),
            allocations,
        });
        steps.push(Step {
            what: format!("the empty service itself, {what}"),
            nanos: median(bare).unwrap_or(f64::NAN),
            allocations: count(&mut || pass(&mut alone, &mut request)),
        });
    }
    Ok(())
}

/// Calls the service with the request, and takes the request out of the response.
fn pass<S>(service: &mut S, request: &mut Option<Request<()>>)
where
    S: Service<Request<()>, Response = Response<Request<()>>, Error = Infallible>,
{
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut context) else {
        return;
    };
    let Some(taken) = request.take() else { return };
    let answering = pin!(service.call(black_box(taken)));
    if let Poll::Ready(Ok(response)) = answering.poll(&mut context) {
        *request = Some(response.into_body());
    }
}
