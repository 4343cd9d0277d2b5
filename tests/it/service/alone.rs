//! A lookup that is alone: its caller carries it, and no other lookup depends on that caller.

use std::{
    pin::pin,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
    task::yield_now,
    time::Instant,
};
use tower::{Layer, Service, service_fn};
use tower_user_session::{LoadUserLayer, SessionService, session::SessionToken};

use crate::support::{
    database, patiently, poll_once, request,
    scripted_store::{ScriptedStore, all_live, owner, scripted},
    sessions, until, who,
};

fn token() -> Arc<SessionToken> {
    Arc::new(SessionToken::generate().unwrap())
}

/// A store whose first query waits until it is released.
fn blocked() -> (SessionService<ScriptedStore>, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let sessions = scripted(move |call, digests| {
        let released = Arc::clone(&released);
        Box::pin(async move {
            if call == 0 {
                released.notified().await;
            }
            Ok(all_live(&digests))
        })
    });
    (sessions, release)
}

/// E06: a caller that is polled no further, or is dropped, delays neither another lookup nor the
/// closing of the service.
#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_polling_delays_no_other() {
    for polls in 1..3 {
        for dropped in [false, true] {
            for released_first in [false, true] {
                let start = Instant::now();
                let (sessions, release) = blocked();
                let (first, second) = (token(), token());
                let mut stopped = Some(Box::pin(sessions.user(&first)));
                for _ in 0..polls {
                    assert!(poll_once(stopped.as_mut().unwrap().as_mut()).is_pending());
                }
                if dropped {
                    stopped = None;
                }
                if released_first {
                    release.notify_one();
                }
                let other = tokio::spawn({
                    let (sessions, second) = (sessions.clone(), Arc::clone(&second));
                    async move { sessions.user(&second).await }
                });
                yield_now().await;
                release.notify_one();
                let user = patiently(other).await.unwrap().unwrap();
                assert_eq!(user, Some(owner(second.digest())));
                patiently(sessions.close()).await;
                if let Some(stopped) = stopped {
                    let user = patiently(stopped).await.unwrap();
                    assert_eq!(user, Some(owner(first.digest())));
                }
                let took = start.elapsed();
                assert!(
                    took < Duration::from_secs(1),
                    "{took:?} after {polls} polls"
                );
            }
        }
    }
}

/// Closing the service finishes a lookup whose caller is polled no further.
#[tokio::test(start_paused = true)]
async fn closing_finishes_a_lookup_that_is_not_polled() {
    let start = Instant::now();
    let (sessions, release) = blocked();
    let token = token();
    let mut stopped = pin!(sessions.user(&token));
    assert!(poll_once(stopped.as_mut()).is_pending());
    release.notify_one();
    patiently(sessions.close()).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(stopped.await.unwrap(), Some(owner(token.digest())));
}

/// A caller that is polled gets its result also after another lookup began.
#[tokio::test(start_paused = true)]
async fn the_first_caller_is_woken_by_its_result() {
    let (sessions, release) = blocked();
    let ask = || {
        let (sessions, token) = (sessions.clone(), token());
        let asked = async move { (token.digest(), sessions.user(&token).await) };
        tokio::spawn(asked)
    };
    let first = ask();
    until(|| sessions.metrics().statements == 1).await;
    let second = ask();
    yield_now().await;
    release.notify_one();
    for asked in [first, second] {
        let (digest, user) = patiently(asked).await.unwrap();
        assert_eq!(user.unwrap(), Some(owner(digest)));
    }
}

/// The same if the other lookup begins while the first one is polled, as from code of the
/// application that the store calls.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_begins_within_another_one_completes() {
    let start = Instant::now();
    let service: Arc<OnceLock<SessionService<ScriptedStore>>> = Arc::default();
    let inner: Arc<Mutex<Option<tokio::task::JoinHandle<_>>>> = Arc::default();
    let (release, within) = (Arc::new(Notify::new()), token());
    let sessions = scripted({
        let (service, inner) = (Arc::downgrade(&service), Arc::clone(&inner));
        let (release, within) = (Arc::clone(&release), Arc::clone(&within));
        move |call, digests| {
            if call == 0
                && let Some(sessions) = Weak::upgrade(&service)
            {
                let (sessions, within) = (sessions.get().unwrap().clone(), Arc::clone(&within));
                // A lookup begins when its future is polled.
                let mut asked = Box::pin(async move { sessions.user(&within).await });
                assert!(poll_once(asked.as_mut()).is_pending());
                *inner.lock().unwrap() = Some(tokio::spawn(asked));
            }
            let release = Arc::clone(&release);
            Box::pin(async move {
                if call == 0 {
                    release.notified().await;
                }
                Ok(all_live(&digests))
            })
        }
    });
    assert!(service.set(sessions.clone()).is_ok());
    let outer = token();
    let mut stopped = pin!(sessions.user(&outer));
    assert!(poll_once(stopped.as_mut()).is_pending());
    release.notify_one();
    let asked = inner.lock().unwrap().take().unwrap();
    let user = patiently(asked).await.unwrap().unwrap();
    assert_eq!(user, Some(owner(within.digest())));
    assert_eq!(stopped.await.unwrap(), Some(owner(outer.digest())));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// The query of a caller that is dropped completes, so that its connection is not closed.
#[tokio::test(start_paused = true)]
async fn the_query_of_a_dropped_caller_completes() {
    let (release, completed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (released, complete) = (Arc::clone(&release), Arc::clone(&completed));
    let sessions = scripted(move |_, digests| {
        let (released, complete) = (Arc::clone(&released), Arc::clone(&complete));
        Box::pin(async move {
            released.notified().await;
            complete.notify_one();
            Ok(all_live(&digests))
        })
    });
    for _ in 0..3 {
        let token = token();
        let mut dropped = Box::pin(sessions.user(&token));
        assert!(poll_once(dropped.as_mut()).is_pending());
        drop(dropped);
        release.notify_one();
        patiently(completed.notified()).await;
    }
}

/// J09: a thousand requests whose clients leave during the lookup open and close no connection.
#[tokio::test]
async fn dropped_requests_open_and_close_no_connection() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    let before = sessions.metrics();
    for n in 0..1_000 {
        let mut dropped = Box::pin(sessions.user(ada.token()));
        for _ in 0..=n % 4 {
            if poll_once(dropped.as_mut()).is_ready() {
                break;
            }
            yield_now().await;
        }
        drop(dropped);
        // In half of the cases, the query returns before the next lookup.
        if n % 2 == 0 {
            until(|| sessions.metrics().statements_in_flight == 0).await;
        }
    }
    until(|| sessions.metrics().statements_in_flight == 0).await;
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    let after = sessions.metrics();
    assert!(after.statements - before.statements >= 500);
    assert_eq!(after.store, before.store);
}

/// Every query runs on the runtime of the first lookup, so that the connections do not depend on a
/// runtime that shuts down earlier. This includes a request that another runtime polls.
#[test]
fn every_query_runs_on_the_runtime_of_the_first_lookup() {
    let runtime = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let ran_on = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&ran_on);
    let sessions = scripted(move |_, digests| {
        record.lock().unwrap().push(Handle::current().id());
        Box::pin(async move { Ok(all_live(&digests)) })
    });
    let (first, other) = (runtime(), runtime());
    for runtime in [&first, &other, &first, &other] {
        let user = runtime.block_on(sessions.user(&token())).unwrap();
        assert!(user.is_some());
    }
    let inner = service_fn(who::<String>);
    let mut layered = LoadUserLayer::new(sessions).layer(inner);
    let cookie = format!("__Host-session={}", token().expose());
    let request = request(&cookie);
    let context = first.enter();
    let response = layered.call(request);
    drop(context);
    let response = other.block_on(response).unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(*ran_on.lock().unwrap(), [first.handle().id(); 5]);
}
