//! Runtimes that are blocked, shut down, have no timers or are missing; and closing the service.

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
    time::Instant,
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_user_session::{
    ErrorKind, LoadUserLayer, SessionService, cookie::SessionCookie, session::SessionToken,
};

use crate::support::{
    PATIENCE, User, cookie, cookie_lines, memory, patiently, poll_once, request,
    scripted_store::{PendingStore, all_live, owner, scripted, status},
    signed_in_cookie, watched, who,
};

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < PATIENCE,
            "the condition did not hold in time"
        );
        std::thread::yield_now();
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// F06: the deadline holds although the runtime that drives the batches is blocked, also for a
/// lookup that finds no batch in flight.
#[test]
fn the_deadline_holds_while_another_runtime_is_blocked() {
    let deadline = Duration::from_millis(300);
    let cookie = SessionCookie::insecure_for_local_development();
    let sessions = SessionService::builder(PendingStore).deadline(deadline);
    let sessions = sessions.cookie(cookie).build().unwrap();
    let token = || SessionToken::generate().unwrap();
    let still = Builder::new_current_thread().enable_all().build().unwrap();
    still.block_on(async {
        for _ in 0..5 {
            let (sessions, token) = (sessions.clone(), token());
            tokio::spawn(async move { sessions.user(&token).await });
        }
        patiently(async {
            while sessions.metrics().statements < 2 {
                yield_now().await;
            }
        })
        .await;
    });

    let start = Instant::now();
    let outcome = runtime().block_on(sessions.user(&token()));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    let took = start.elapsed();
    assert!(took >= deadline && took < 2 * deadline, "{took:?}");

    // With several cookies of one name.
    let cookies = format!("session={}; session={}", token().expose(), token().expose());
    let layered = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::<String>::default()));
    let request = Request::builder()
        .header("cookie", cookies)
        .body(())
        .unwrap();
    let start = Instant::now();
    let response = runtime().block_on(layered.oneshot(request)).unwrap();
    assert_eq!(response.status(), 503);
    let took = start.elapsed();
    assert!(took >= deadline && took < 2 * deadline, "{took:?}");
    drop(still);
}

/// A service may outlive a runtime: lookups that end with it are errors for waiters on other
/// runtimes, and the service works on the next runtime.
#[test]
fn a_service_survives_a_runtime_that_is_shut_down() {
    let hang = Arc::new(AtomicBool::new(true));
    let hangs = Arc::clone(&hang);
    let sessions = scripted(move |_, digests| {
        let hang = hangs.load(SeqCst);
        Box::pin(async move {
            if hang {
                std::future::pending::<()>().await;
            }
            Ok(all_live(&digests))
        })
    });
    for round in 1..=3 {
        hang.store(true, SeqCst);
        let (first, second) = (runtime(), runtime());
        let ask = |runtime: &Runtime| {
            let sessions = sessions.clone();
            let token = SessionToken::generate().unwrap();
            runtime.spawn(async move { sessions.user(&token).await })
        };
        let statements = sessions.metrics().statements;
        // Until two are in flight: batches of the last round may not have ended yet.
        wait_until(|| {
            ask(&first);
            sessions.metrics().statements >= statements + 2
        });
        let lookups = sessions.metrics().lookups;
        let waiting: Vec<_> = (0..5).map(|_| ask(&second)).collect();
        wait_until(|| sessions.metrics().lookups >= lookups + 5);
        if round == 2 {
            first.shutdown_background();
        } else {
            drop(first);
        }
        hang.store(false, SeqCst);
        second.block_on(async {
            for waiting in waiting {
                // Whether the batch was handed back or sent in time, the lookup completes.
                let _ = patiently(waiting).await.unwrap();
            }
            let token = SessionToken::generate().unwrap();
            // While the runtime shuts down, lookups fail at once.
            let start = std::time::Instant::now();
            let user = loop {
                match patiently(sessions.user(&token)).await {
                    Err(_) if start.elapsed() < PATIENCE => yield_now().await,
                    outcome => break outcome.unwrap(),
                }
            };
            assert_eq!(user, Some(owner(token.digest())));
        });
    }
    runtime().block_on(async { patiently(sessions.close()).await });
}

/// A runtime that shut down while nothing was in flight costs no lookup: the next lookup's runtime
/// takes over.
#[test]
fn a_service_that_was_idle_moves_to_another_runtime() {
    let sessions = scripted(|_, digests| Box::pin(ready(Ok(all_live(&digests)))));
    let token = SessionToken::generate().unwrap();
    for _ in 0..3 {
        let user = runtime().block_on(async { patiently(sessions.user(&token)).await });
        assert_eq!(user.unwrap(), Some(owner(token.digest())));
    }
}

/// The same if a runtime is dropped before its task was polled once.
#[test]
fn a_lookup_that_was_never_polled_changes_nothing() {
    let sessions = scripted(|_, digests| Box::pin(ready(Ok(all_live(&digests)))));
    let token = SessionToken::generate().unwrap();
    // On the runtime of the first lookup, a caller polls its lookup itself.
    drop(runtime().block_on(sessions.user(&token)).unwrap());
    for _ in 0..5 {
        let first = Builder::new_current_thread().enable_all().build().unwrap();
        let entered = first.enter();
        let mut calls: Vec<_> = (0..4).map(|_| Box::pin(sessions.user(&token))).collect();
        for call in &mut calls {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        drop(entered);
        drop(first);
        for call in &mut calls {
            let Poll::Ready(Err(error)) = poll_once(call.as_mut()) else {
                panic!("made up")
            };
            assert_eq!(error.kind(), ErrorKind::Store);
        }
    }
    let user = runtime().block_on(async { patiently(sessions.user(&token)).await.unwrap() });
    assert_eq!(user, Some(owner(token.digest())));
}

/// Outside of a runtime, signing in and out is an error and no panic.
#[test]
fn signing_in_and_out_outside_a_runtime_is_an_error() {
    let sessions = memory();
    let headers = cookie(&sessions, &SessionToken::generate().unwrap());
    let Poll::Ready(signed_out) = poll_once(pin!(sessions.sign_out(&headers).into_future())) else {
        panic!("the future was not ready at the first poll")
    };
    let Poll::Ready(Err(signed_in)) =
        poll_once(pin!(sessions.sign_in_without_request(1).into_future()))
    else {
        panic!("the future was not ready at the first poll")
    };
    for error in [signed_out.ended().unwrap_err(), &signed_in] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("no tokio runtime"), "{error}");
    }
}

/// Outside of a runtime, a lookup is an error, through the layer a 503, and no panic.
#[test]
fn a_lookup_outside_a_runtime_is_an_error() {
    let sessions = memory();
    let token = SessionToken::generate().unwrap();
    let Poll::Ready(Err(error)) = poll_once(pin!(sessions.user(&token))) else {
        panic!("the future was not ready at the first poll")
    };
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("runtime"), "{error}");
    let Poll::Ready(outcome) = poll_once(pin!(status(&sessions))) else {
        panic!("the future was not ready at the first poll")
    };
    assert_eq!(
        outcome,
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Some(ErrorKind::Configuration)
        )
    );
    // Anonymous requests need no runtime.
    let service = LoadUserLayer::new(sessions).layer(service_fn(who::<String>));
    let call = service.oneshot(request("a=b"));
    assert!(matches!(poll_once(pin!(call)), Poll::Ready(Ok(_))));
}

/// A runtime without timers is an error too.
#[test]
fn a_lookup_without_timers_is_an_error() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let sessions = memory();
    for _ in 0..3 {
        let (status, _) = runtime.block_on(status(&sessions));
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let token = SessionToken::generate().unwrap();
    let user = self::runtime().block_on(async { patiently(sessions.user(&token)).await });
    assert_eq!(user.unwrap(), None);
}

// ---- Closing ----

/// A closed service waits for operations in flight, rejects lookups, and releases the store's
/// resources. Signing out still works. Closing it twice is no error.
#[tokio::test]
async fn close_waits_and_then_refuses() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let token = cookie.strip_prefix("__Host-session=").unwrap();
    let token = SessionToken::parse(token.as_bytes()).unwrap();
    sessions.store().answer(false);
    let mut asked: Vec<_> = (0..4).map(|_| Box::pin(sessions.user(&token))).collect();
    for call in &mut asked {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    yield_now().await;
    let mut close = Box::pin(sessions.close());
    assert!(poll_once(close.as_mut()).is_pending());
    assert_eq!(status(&sessions).await.1, Some(ErrorKind::Closed));
    sessions.store().answer(true);
    patiently(close).await;
    for call in asked {
        assert_eq!(patiently(call).await.unwrap(), Some(User::ada()));
    }
    assert_eq!(status(&sessions).await.1, Some(ErrorKind::Closed));
    patiently(sessions.clone().close()).await;
    let signed_out = sessions.sign_out(&cookie_lines([&cookie])).await;
    assert!(signed_out.ended().unwrap());
}

/// Closing waits for a lookup in flight no longer than the deadline, also if its runtime is
/// blocked.
#[test]
fn closing_is_bounded() {
    let deadline = Duration::from_millis(300);
    let sessions = SessionService::builder(PendingStore).deadline(deadline);
    let sessions = sessions.build().unwrap();
    let still = Builder::new_current_thread().enable_all().build().unwrap();
    still.block_on(async {
        let (asking, token) = (sessions.clone(), SessionToken::generate().unwrap());
        tokio::spawn(async move { asking.user(&token).await });
        patiently(async {
            while sessions.metrics().statements < 1 {
                yield_now().await;
            }
        })
        .await;
    });
    let start = Instant::now();
    runtime().block_on(async { patiently(sessions.close()).await });
    let took = start.elapsed();
    assert!(took >= deadline && took < 3 * deadline, "{took:?}");
}

/// The store is closed after all lookups have returned, and once only.
#[tokio::test]
async fn the_store_is_closed_once() {
    let sessions = scripted(|_, digests| Box::pin(ready(Ok(all_live(&digests)))));
    let token = SessionToken::generate().unwrap();
    sessions.user(&token).await.unwrap();
    drop(sessions.close());
    let _ = poll_once(pin!(sessions.close()));
    let (first, second) = (sessions.clone(), sessions.clone());
    tokio::join!(first.close(), second.close());
    sessions.close().await;
    assert_eq!(sessions.store().closed.load(SeqCst), 1);
}
