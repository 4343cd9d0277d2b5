//! A lookup that is alone: its caller polls the query, and no other lookup depends on that caller.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
    task::{JoinSet, yield_now},
    time::Instant,
};
use tower::{Layer, Service, service_fn};
use tower_user_session::{LoadUserLayer, SessionService, session::SessionToken};

use crate::support::{
    PATIENCE, patiently, poll_once, request,
    scripted_store::{ScriptedStore, all_live, owner, scripted},
    until, who,
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

/// When another lookup begins, relative to a caller that blocks its thread after its own lookup.
#[derive(Clone, Copy, Debug)]
enum Begins {
    /// While the caller waits.
    WhileWaiting,
    /// While the caller polls its query, which is not the last time.
    InAPoll,
    /// While the caller polls its query for the last time.
    InTheLastPoll,
    /// The same, and its query is sent. The last poll wakes it.
    SentInTheLastPoll,
    /// While the caller polls its query, which then panics.
    InAPollThatPanics,
    /// After the caller dropped its lookup.
    AfterTheDrop,
}

/// E06: a caller that computes after its lookup, and does not yield, delays no other lookup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_blocks_its_thread_delays_no_other() {
    use Begins::*;
    for begins in [
        WhileWaiting,
        InAPoll,
        InTheLastPoll,
        SentInTheLastPoll,
        InAPollThatPanics,
        AfterTheDrop,
    ] {
        let steps: Arc<Steps> = Arc::default();
        let sessions = scripted({
            let steps = Arc::clone(&steps);
            move |call, digests| {
                let steps = Arc::clone(&steps);
                Box::pin(async move {
                    match call {
                        0 => steps.first_query(begins).await,
                        1 if matches!(begins, SentInTheLastPoll) => steps.second_query().await,
                        _ => {}
                    }
                    Ok(all_live(&digests))
                })
            }
        });
        let (done, wait) = mpsc::channel();
        let first = tokio::spawn({
            let (sessions, steps) = (sessions.clone(), Arc::clone(&steps));
            async move {
                let token = token();
                let mut lookup = Box::pin(sessions.user(&token));
                match begins {
                    // The query may already have ended on the other thread.
                    InAPoll => drop(poll_once(lookup.as_mut())),
                    AfterTheDrop => {
                        assert!(poll_once(lookup.as_mut()).is_pending());
                        drop(lookup);
                        steps.dropped.store(true, SeqCst);
                    }
                    InAPollThatPanics => assert!(lookup.as_mut().await.is_err()),
                    _ => assert!(lookup.as_mut().await.unwrap().is_some()),
                }
                wait.recv_timeout(PATIENCE).is_ok()
            }
        });
        until(|| sessions.metrics().statements == 1).await;
        match begins {
            WhileWaiting => {}
            AfterTheDrop => until(|| steps.dropped.load(SeqCst)).await,
            InAPoll => until(|| steps.polled.load(SeqCst)).await,
            InTheLastPoll | SentInTheLastPoll | InAPollThatPanics => {
                steps.release.notify_one();
                until(|| steps.polled.load(SeqCst)).await;
            }
        }
        // A batch of four is sent beside another one. One lookup waits for the first.
        let count = if matches!(begins, SentInTheLastPoll) {
            4
        } else {
            1
        };
        let others: JoinSet<_> = (0..count)
            .map(|_| {
                let (sessions, token) = (sessions.clone(), token());
                async move { sessions.user(&token).await }
            })
            .collect();
        until(|| sessions.metrics().lookups == 1 + count).await;
        steps.joined.store(true, SeqCst);
        steps.release.notify_one();
        for user in others.join_all().await {
            assert!(matches!(user, Ok(Some(_))), "{begins:?}");
        }
        done.send(()).unwrap();
        assert!(first.await.unwrap(), "{begins:?}");
    }
}

#[derive(Default)]
struct Steps {
    release: Notify,
    second: Notify,
    polled: AtomicBool,
    joined: AtomicBool,
    second_sent: AtomicBool,
    dropped: AtomicBool,
}

impl Steps {
    async fn first_query(&self, begins: Begins) {
        if !matches!(begins, Begins::InAPoll) {
            self.release.notified().await;
        }
        self.polled.store(true, SeqCst);
        let ready = match begins {
            Begins::WhileWaiting | Begins::AfterTheDrop => return,
            Begins::SentInTheLastPoll => &self.second_sent,
            _ => &self.joined,
        };
        while !ready.load(SeqCst) {
            std::thread::yield_now();
        }
        match begins {
            // The caller has polled once.
            Begins::InAPoll => yield_now().await,
            Begins::InAPollThatPanics => panic!("the store panics"),
            _ => self.second.notify_one(),
        }
    }

    async fn second_query(&self) {
        let mut second = pin!(self.second.notified());
        second.as_mut().enable();
        self.second_sent.store(true, SeqCst);
        second.await;
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
