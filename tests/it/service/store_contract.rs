//! Stores that violate their contract: wrong results, panics, late results or none.

use std::{
    future::{IntoFuture as _, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{task::yield_now, time::Instant};
use tower_user_session::{
    Error, ErrorKind, SessionService,
    service::DEFAULT_DEADLINE,
    session::{SessionToken, TokenDigest},
    store::LookupResult,
};
use tracing::{Dispatch, instrument::WithSubscriber as _, subscriber::NoSubscriber};

use crate::support::{
    User,
    fault::ObservedFault,
    patiently, poll_once,
    scripted_store::{Answers, PendingStore, all_live, live, owner, scripted, status},
    watched,
};

fn store_error(kind: ErrorKind) -> Error {
    Error::new(kind, "made up")
}

fn tokens(count: usize) -> Vec<SessionToken> {
    (0..count)
        .map(|_| SessionToken::generate().unwrap())
        .collect()
}

// ---- Wrong results ----

/// Looks up two tokens, which are sent alone, and then these, which form one batch. Then all of
/// them get results. `script` returns the results of that batch.
async fn batch_of(
    tokens: &[SessionToken],
    script: impl Fn(&[TokenDigest]) -> Answers + Send + Sync + 'static,
) -> Vec<Result<Option<User>, ErrorKind>> {
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&open);
    let script = Arc::new(script);
    let sessions = scripted(move |_, digests| {
        let (gate, script) = (Arc::clone(&gate), Arc::clone(&script));
        Box::pin(async move {
            let _ = gate.acquire().await.unwrap();
            script(&digests)
        })
    });
    let ask = |token: &SessionToken| {
        let (sessions, digest) = (sessions.clone(), token.digest());
        tokio::spawn(async move { sessions.resolve_digest(digest).await })
    };
    let firsts: Vec<_> = self::tokens(2).iter().map(ask).collect();
    yield_now().await;
    let asked: Vec<_> = tokens.iter().map(ask).collect();
    patiently(async {
        while usize::try_from(sessions.metrics().lookups).unwrap() < 2 + tokens.len() {
            yield_now().await;
        }
    })
    .await;
    open.add_permits(1_000);
    let mut outcomes = Vec::new();
    for first in firsts {
        let _ = patiently(first).await.unwrap();
    }
    for asked in asked {
        let outcome = patiently(asked).await.unwrap();
        outcomes.push(match outcome {
            Ok(live) => Ok(live.map(|live| live.user)),
            Err(error) => Err(error.kind()),
        });
    }
    outcomes
}

fn right(tokens: &[SessionToken]) -> Vec<Result<Option<User>, ErrorKind>> {
    let owners = tokens.iter().map(|token| owner(token.digest()));
    owners.map(|owner| Ok(Some(owner))).collect()
}

/// G08, E08: results reach their callers by digest, in any order. A token that is looked up several
/// times is queried once.
#[tokio::test]
async fn results_in_any_order_reach_their_callers() {
    let mut tokens = tokens(20);
    tokens.extend(
        [3, 3, 7].map(|n: usize| SessionToken::parse(tokens[n].expose().as_bytes()).unwrap()),
    );
    for turn in 0..3 {
        let outcomes = batch_of(&tokens, move |digests| {
            let mut seen: Vec<_> = digests.to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), digests.len(), "one digest was queried twice");
            let mut answers = all_live(digests);
            match turn {
                0 => answers.reverse(),
                1 => answers.sort_by_key(LookupResult::digest),
                _ => answers.sort_by_key(|answer| std::cmp::Reverse(answer.digest())),
            }
            Ok(answers)
        })
        .await;
        assert_eq!(outcomes, right(&tokens));
    }
}

/// G08, E08: a digest with no result, or with two, fails its callers alone.
#[tokio::test]
async fn a_missing_or_duplicate_result_fails_only_its_callers() {
    let tokens = tokens(10);
    let bad = tokens[4].digest();
    let mut right = right(&tokens);
    right[4] = Err(ErrorKind::Protocol);
    let missing = batch_of(&tokens, move |digests| {
        let mut answers = all_live(digests);
        answers.retain(|answer| answer.digest() != bad);
        Ok(answers)
    });
    assert_eq!(missing.await, right);
    for second in [live, LookupResult::absent] {
        for first in [true, false] {
            let twice = batch_of(&tokens, move |digests| {
                let mut answers = all_live(digests);
                if digests.contains(&bad) {
                    let place = if first { 0 } else { answers.len() };
                    answers.insert(place, second(bad));
                }
                Ok(answers)
            });
            assert_eq!(twice.await, right);
        }
    }
    let failed = batch_of(&tokens, move |digests| {
        let answers = digests.iter().map(|digest| {
            if *digest == bad {
                LookupResult::failed(*digest, store_error(ErrorKind::Protocol))
            } else {
                live(*digest)
            }
        });
        Ok(answers.collect())
    });
    assert_eq!(failed.await, right);
}

/// G08: a result for a digest that was not in the batch may belong to another query, so the whole
/// batch fails.
#[tokio::test]
async fn an_unrequested_result_fails_the_whole_batch() {
    let tokens = tokens(10);
    let stranger = SessionToken::generate().unwrap().digest();
    for instead in [true, false] {
        let outcomes = batch_of(&tokens, move |digests| {
            let mut answers = all_live(digests);
            if instead {
                answers.pop();
            }
            answers.push(live(stranger));
            Ok(answers)
        });
        assert_eq!(outcomes.await, vec![Err(ErrorKind::Protocol); 10]);
    }
    let nothing = batch_of(&tokens, |_| Ok(Vec::new()));
    assert_eq!(nothing.await, vec![Err(ErrorKind::Protocol); 10]);
}

/// E09: a batch that fails because of one digest is retried one by one. An error of another kind
/// fails the whole batch and is not retried.
#[tokio::test]
async fn one_invalid_row_fails_only_its_callers() {
    let tokens = tokens(10);
    let bad = tokens[4].digest();
    let outcomes = batch_of(&tokens, move |digests| {
        if digests.contains(&bad) {
            return Err(store_error(ErrorKind::Decode));
        }
        Ok(all_live(digests))
    });
    let mut right = right(&tokens);
    right[4] = Err(ErrorKind::Decode);
    assert_eq!(outcomes.await, right);

    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let outcomes = batch_of(&tokens, move |_| {
        counted.fetch_add(1, SeqCst);
        Err(store_error(ErrorKind::Statement))
    });
    assert_eq!(outcomes.await, vec![Err(ErrorKind::Statement); 10]);
    // The two that went alone, and the batch.
    assert_eq!(asked.load(SeqCst), 3);
}

// ---- Panics ----

/// Panics when it is dropped.
struct PanicsOnDrop(AtomicBool);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(self.0.load(SeqCst), "made up: a panic in a destructor");
    }
}

/// G08: a store that panics, before or after its first await, or when its future is dropped at the
/// deadline, is a 503 for its callers. The next lookup works.
#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_isolated() {
    let sessions = scripted(|asked, digests| match asked % 4 {
        0 => panic!("made up: a panic in find"),
        1 => Box::pin(async {
            yield_now().await;
            panic!("made up: a panic in find's future")
        }),
        2 => Box::pin(async {
            let _guard = PanicsOnDrop(AtomicBool::new(false));
            std::future::pending().await
        }),
        _ => Box::pin(ready(Ok(all_live(&digests)))),
    });
    for _ in 0..5 {
        for _ in 0..3 {
            let unavailable = (StatusCode::SERVICE_UNAVAILABLE, Some(ErrorKind::Store));
            assert_eq!(patiently(status(&sessions)).await, unavailable);
        }
        assert_eq!(patiently(status(&sessions)).await, (StatusCode::OK, None));
    }
    patiently(sessions.close()).await;
}

/// G08: after a panic every waiter gets a result, and none gets a wrong one. Only the callers whose
/// digests were in that query fail.
#[tokio::test]
async fn every_waiter_gets_a_result_after_a_panic() {
    let panicked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panicked);
    let sessions = scripted(move |asked, digests| {
        let counted = Arc::clone(&counted);
        Box::pin(async move {
            yield_now().await;
            if asked % 3 == 0 {
                counted.fetch_add(digests.len(), SeqCst);
                panic!("made up: every third lookup panics");
            }
            Ok(all_live(&digests))
        })
    });
    let mut calls = Vec::new();
    for token in tokens(1_000) {
        let sessions = sessions.clone();
        calls.push(tokio::spawn(async move {
            match sessions.user(&token).await {
                Ok(user) => {
                    assert_eq!(user, Some(owner(token.digest())));
                    0
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Store);
                    1
                }
            }
        }));
        if calls.len() % 13 == 0 {
            yield_now().await;
        }
    }
    let mut failed = 0;
    for call in calls {
        failed += patiently(call).await.unwrap();
    }
    assert_eq!(failed, panicked.load(SeqCst));
    patiently(sessions.close()).await;
}

// ---- No results ----

/// F02, G08: a store that never returns, or returns after the deadline, is a 503 at the deadline
/// and not later, also for queued lookups. Then lookups continue.
#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_lookup() {
    for late in [Some(DEFAULT_DEADLINE + Duration::from_millis(1)), None] {
        let slow = Arc::new(AtomicBool::new(true));
        let slowly = Arc::clone(&slow);
        let sessions = scripted(move |_, digests| {
            let slow = slowly.load(SeqCst);
            Box::pin(async move {
                match late {
                    Some(late) if slow => tokio::time::sleep(late).await,
                    None if slow => std::future::pending().await,
                    _ => {}
                }
                Ok(all_live(&digests))
            })
        });
        let mut calls = Vec::new();
        for n in 0..300_u64 {
            let sessions = sessions.clone();
            calls.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 7)).await;
                let start = Instant::now();
                let outcome = status(&sessions).await;
                (outcome, start.elapsed())
            }));
        }
        for call in calls {
            let ((status, kind), took) = patiently(call).await.unwrap();
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(kind, Some(ErrorKind::Deadline));
            // A batch that has used half of its time is not sent. The last caller joined it after a
            // quarter.
            let grain = Duration::from_millis(10);
            assert!(took <= DEFAULT_DEADLINE + grain, "{took:?}");
            assert!(took + grain >= DEFAULT_DEADLINE / 4, "{took:?}");
        }
        slow.store(false, SeqCst);
        assert_eq!(status(&sessions).await, (StatusCode::OK, None));
    }
}

/// The deadline is configurable, within bounds.
#[tokio::test(start_paused = true)]
async fn the_deadline_is_configurable_within_bounds() {
    let build = |deadline| {
        SessionService::builder(PendingStore)
            .deadline(deadline)
            .build()
    };
    let deadline = Duration::from_millis(50);
    let start = Instant::now();
    let outcome = patiently(status(&build(deadline).unwrap())).await;
    assert_eq!(outcome.1, Some(ErrorKind::Deadline));
    let took = start.elapsed();
    assert!(took >= deadline && took < 2 * deadline, "{took:?}");
    for refused in [
        Duration::ZERO,
        Duration::from_micros(999),
        Duration::from_secs(61),
        Duration::MAX,
    ] {
        let error = build(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
}

/// J05: beyond the queue's bound a lookup is rejected at once.
#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let sessions = watched();
    let overload = "lookups arrive faster than they are served";
    let fault = ObservedFault::begin(overload, &sessions);
    sessions.store().answer(false);
    let token = SessionToken::generate().unwrap();
    // The spans of so many lookups would make a large log.
    let silent = Dispatch::new(NoSubscriber::default());
    let mut calls: Vec<_> = (0..16_385)
        .map(|_| {
            let call = sessions.user(&token).into_future();
            Box::pin(call.with_subscriber(silent.clone()))
        })
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    let outcome = status(&sessions).await;
    assert_eq!(outcome.1, Some(ErrorKind::Overloaded));

    let full = Instant::now();
    let request = async || {
        status(&sessions).await;
    };
    fault
        .becomes_visible(async || {
            request().await;
            if full.elapsed() > Duration::from_millis(300) {
                sessions.store().answer(true);
            }
        })
        .await;
    sessions.store().answer(true);
    for call in calls {
        assert!(call.await.unwrap().is_none());
    }
    fault.ends(request).await;
}
