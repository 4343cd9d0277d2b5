//! The layers among other tower services: readiness, cancellation, panics, runtimes, and stores that
//! do not keep their promise.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, poll_fn, ready},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, header::COOKIE, header::SET_COOKIE};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
    time::Instant,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, limit::ConcurrencyLimit, service_fn,
};
use tower_http::catch_panic::CatchPanicLayer;
use tower_user_session::{
    CurrentSession, DEFAULT_DEADLINE, Error, ErrorKind, Hearing, LoadUser, LoadUserLayer,
    LookupAnswer, MemorySessionStore, Rejection, RequireUser, RequireUserLayer, SessionFeed,
    SessionId, SessionLookup, SessionService, SessionStore, SessionTimes, SessionToken,
    TokenDigest, load_user, require_user,
};

use crate::support::{
    PATIENCE, User, cookie_lines, database, memory, patiently, poll_once, request, sessions,
    signed_in_cookie, watched, who,
};

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it never comes about");
        std::thread::yield_now();
    }
}

// ---- Readiness ----

/// Panics when it is called without having been ready, and its clones have not been.
struct NeedsReady {
    ready: bool,
    /// How often it is pending before it is ready.
    pending: usize,
    fails: bool,
}

impl NeedsReady {
    fn new() -> Self {
        Self {
            ready: false,
            pending: 0,
            fails: false,
        }
    }
}

impl Clone for NeedsReady {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            ..*self
        }
    }
}

impl Service<Request<String>> for NeedsReady {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, &'static str>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = !self.fails;
        Poll::Ready(if self.fails { Err("not today") } else { Ok(()) })
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        assert!(self.ready, "called without having been ready");
        self.ready = false;
        Box::pin(async move { Ok(who(request).await.unwrap()) })
    }
}

/// G02: the service that was polled ready is the one that is called, on every way through the layer,
/// and one call uses up one readiness.
#[tokio::test]
async fn the_service_that_was_ready_is_called() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone()).exempt(|_, uri| uri.path() == "/exempt");
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .service(NeedsReady::new());
    let unknown = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    for _ in 0..3 {
        for (cookie, path, right) in [
            (&*cookie, "/", "ada@example.com"),
            (&unknown, "/", "nobody"),
            ("a=b", "/", "nobody"),
            ("__Host-session=x", "/", "nobody"),
            (&cookie, "/exempt", "nobody"),
        ] {
            let mut request = request(cookie);
            *request.uri_mut() = path.parse().unwrap();
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            assert_eq!(response.body(), right);
            let mut clone = service.clone();
            let request = self::request(cookie);
            clone.ready().await.unwrap().call(request).await.unwrap();
        }
        // Refused before it is called, readiness and all.
        sessions.store().set_failing(true);
        let refused = service.ready().await.unwrap().call(request(&cookie)).await;
        assert_eq!(refused.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        sessions.store().set_failing(false);
    }
    let require = RequireUserLayer::<User>::new();
    let mut service = require.layer(NeedsReady::new());
    let mut with_user = request("");
    with_user.extensions_mut().insert(User::ada());
    let response = service.ready().await.unwrap().call(with_user).await;
    assert_eq!(response.unwrap().body(), "ada@example.com");
}

/// G03: the inner service's readiness and its failure are the layer's, and nothing is asked before.
#[tokio::test]
async fn readiness_is_the_inner_services() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone());
    let mut inner = NeedsReady::new();
    inner.pending = 100;
    let mut service = layer.layer(inner);
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        service.poll_ready(cx)
    })
    .await
    .unwrap();
    assert_eq!((polls, sessions.counts().lookups), (101, 0));
    let response = service.call(request(&cookie)).await.unwrap();
    assert_eq!(response.body(), "ada@example.com");

    let mut inner = NeedsReady::new();
    inner.fails = true;
    let mut service = layer.layer(inner);
    assert_eq!(service.ready().await.err(), Some("not today"));
    assert_eq!(sessions.store().finds(), 1);
}

/// G02: under a limit of one the layers never wait for themselves, and a call that is dropped or
/// refused gives its place back.
#[tokio::test]
async fn a_concurrency_limit_of_one_does_not_deadlock() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layers = || {
        ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .layer(RequireUserLayer::<User>::new())
    };
    let inner = ConcurrencyLimit::new(NeedsReady::new(), 1);
    let service = layers().service(inner);
    let calls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(service.clone().oneshot(request(&cookie))))
        .collect();
    for call in calls {
        let response = patiently(call).await.unwrap().unwrap();
        assert_eq!(response.body(), "ada@example.com");
    }

    let mut service = service;
    let dropped = service.ready().await.unwrap().call(request(&cookie));
    assert!(poll_once(pin!(service.ready())).is_pending());
    drop(dropped);
    sessions.store().set_failing(true);
    let call = patiently(service.ready())
        .await
        .unwrap()
        .call(request(&cookie));
    assert_eq!(
        call.await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    sessions.store().set_failing(false);
    let call = patiently(service.ready())
        .await
        .unwrap()
        .call(request(&cookie));
    assert_eq!(call.await.unwrap().body(), "ada@example.com");
}

/// G02: a buffer inside or outside changes nothing.
#[tokio::test]
async fn buffered_services_work_inside_and_outside() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let layer = LoadUserLayer::new(sessions.clone());
    let inside = layer.layer(Buffer::new(NeedsReady::new(), 1));
    let outside = Buffer::new(layer.layer(NeedsReady::new()), 1);
    for _ in 0..20 {
        let response = patiently(inside.clone().oneshot(request(&cookie))).await;
        assert_eq!(response.unwrap().body(), "ada@example.com");
        let response = patiently(outside.clone().oneshot(request(&cookie))).await;
        assert_eq!(response.unwrap().body(), "ada@example.com");
    }
}

// ---- Cancellation ----

/// Drops a future when it has been polled so often, at its own wake-ups.
async fn cancelled_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn dropping_a_call_disturbs_nobody<S>(sessions: SessionService<S>)
where
    S: SessionStore<UserId = i64, User = User>,
{
    let ada = signed_in_cookie(&sessions, 1).await;
    let eve = signed_in_cookie(&sessions, 2).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .service_fn(|request: Request<String>| async move {
            yield_now().await;
            who(request).await
        });
    let eve_is_served = async || {
        let response = patiently(service.clone().oneshot(request(&eve))).await;
        assert_eq!(response.unwrap().body(), "eve@example.com");
    };
    let mut finished = 0;
    for polls in 0..8 {
        let call = service.clone().oneshot(request(&ada));
        if let Some(response) = cancelled_after(polls, call).await {
            assert_eq!(response.unwrap().body(), "ada@example.com");
            finished += 1;
        }
        eve_is_served().await;
    }
    assert!((1..8).contains(&finished), "{finished} calls finished");
    // The lookup runs on without its caller: drop the call at each step of it.
    for steps in 0..25 {
        let calls: Vec<_> = (0..=steps % 5)
            .map(|_| {
                let mut call = Box::pin(service.clone().oneshot(request(&ada)));
                assert!(poll_once(call.as_mut()).is_pending());
                call
            })
            .collect();
        for _ in 0..steps {
            yield_now().await;
        }
        drop(calls);
        eve_is_served().await;
    }
}

/// G01: a call that is dropped at whatever point leaves nothing behind.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind_in_memory() {
    dropping_a_call_disturbs_nobody(memory()).await;
    let sessions = watched();
    sessions.store().take_steps(5);
    dropping_a_call_disturbs_nobody(sessions).await;
}

/// G01: nor with PostgreSQL: the pool has its connections and no answer is taken for another.
#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind_in_postgresql() {
    let database = database().await;
    let sessions = sessions(&database);
    dropping_a_call_disturbs_nobody(sessions.clone()).await;
    let status = sessions.store().pool().status();
    assert_eq!((status.available, status.waiting), (status.size, 0));
}

/// G01: whoever is dropped while waiting is not asked for.
#[tokio::test]
async fn nobody_is_asked_for_who_has_gone() {
    let sessions = watched();
    let tokens: Vec<_> = (0..10).map(|_| SessionToken::generate().unwrap()).collect();
    sessions.store().answer(false);
    let mut calls: Vec<_> = tokens
        .iter()
        .map(|token| Box::pin(sessions.user(token)))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    yield_now().await;
    assert_eq!(sessions.store().finds(), 2);
    drop(calls);
    sessions.store().answer(true);
    patiently(sessions.close()).await;
    assert_eq!(sessions.store().finds(), 2);
}

// ---- Panics of the inner service ----

/// G07: a panic of the inner service is the inner service's: it goes outwards, a layer there makes a
/// 500 of it, which sets no cookie, and the session is as it was.
#[tokio::test]
async fn a_panic_inside_goes_outside_and_changes_nothing() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(|request: Request<String>| {
            let path = request.uri().path().to_owned();
            assert_ne!(path, "/call", "panic in call");
            async move {
                assert_ne!(path, "/first", "panic at the first poll");
                yield_now().await;
                assert_ne!(path, "/second", "panic at the second poll");
                who(request).await
            }
        });
    for path in ["/call", "/first", "/second"] {
        let mut request = request(&cookie);
        *request.uri_mut() = path.parse().unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key(SET_COOKIE));
        let response = service
            .clone()
            .oneshot(self::request(&cookie))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

// ---- Stores that do not keep their promise ----

type Answers = Result<Vec<LookupAnswer<User>>, Error>;
type Answering = Pin<Box<dyn Future<Output = Answers> + Send>>;

type Script = dyn Fn(usize, Vec<TokenDigest>) -> Answering + Send + Sync;

/// A lookup that does what the test says, knowing how often it was asked before.
struct Scripted {
    script: Box<Script>,
    asked: AtomicUsize,
    closed: AtomicUsize,
}

impl SessionLookup for Scripted {
    type User = User;

    fn find(&self, digests: &[TokenDigest]) -> impl Future<Output = Answers> + Send {
        (self.script)(self.asked.fetch_add(1, SeqCst), digests.to_vec())
    }

    async fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
    }
}

fn scripted(
    script: impl Fn(usize, Vec<TokenDigest>) -> Answering + Send + Sync + 'static,
) -> SessionService<Scripted> {
    SessionService::new(Scripted {
        script: Box::new(script),
        asked: AtomicUsize::new(0),
        closed: AtomicUsize::new(0),
    })
}

/// A live session of the user whose e-mail address names the digest.
fn live(digest: TokenDigest) -> LookupAnswer<User> {
    let now = std::time::SystemTime::UNIX_EPOCH;
    let times = SessionTimes {
        created_at: now,
        authenticated_at: now,
        last_seen_at: now,
        expires_at: now + Duration::from_secs(60),
        now,
    };
    let session = CurrentSession::new(SessionId::from_bytes([1; 16]), times);
    LookupAnswer::live(digest, owner(digest), session)
}

fn owner(digest: TokenDigest) -> User {
    User {
        id: 0,
        email: format!("{:?}", digest.as_bytes()),
        role: String::new(),
    }
}

fn all_live(digests: &[TokenDigest]) -> Vec<LookupAnswer<User>> {
    digests.iter().map(|digest| live(*digest)).collect()
}

fn store_error(kind: ErrorKind) -> Error {
    Error::new(kind, "made up")
}

fn tokens(count: usize) -> Vec<SessionToken> {
    (0..count)
        .map(|_| SessionToken::generate().unwrap())
        .collect()
}

/// Asks for two tokens, which go out alone, and then for these, which gather in one batch; then lets
/// all of them be answered. `script` gives the answers to that batch.
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
    while usize::try_from(sessions.counts().lookups).unwrap() < 2 + tokens.len() {
        yield_now().await;
    }
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

/// G08, E08: answers go to their callers by digest, in whatever order they come; a token that is
/// asked for several times is asked once.
#[tokio::test]
async fn answers_in_any_order_reach_their_callers() {
    let mut tokens = tokens(20);
    tokens.extend(
        [3, 3, 7].map(|n: usize| SessionToken::parse(tokens[n].expose().as_bytes()).unwrap()),
    );
    for turn in 0..3 {
        let outcomes = batch_of(&tokens, move |digests| {
            let mut seen: Vec<_> = digests.to_vec();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), digests.len(), "one digest was asked twice");
            let mut answers = all_live(digests);
            match turn {
                0 => answers.reverse(),
                1 => answers.sort_by_key(LookupAnswer::digest),
                _ => answers.sort_by_key(|answer| std::cmp::Reverse(answer.digest())),
            }
            Ok(answers)
        })
        .await;
        assert_eq!(outcomes, right(&tokens));
    }
}

/// G08, E08: one digest that is not answered, or answered twice, fails its callers alone.
#[tokio::test]
async fn a_missing_or_second_answer_fails_its_callers_alone() {
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
    for second in [live, LookupAnswer::absent] {
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
                LookupAnswer::failed(*digest, store_error(ErrorKind::Protocol))
            } else {
                live(*digest)
            }
        });
        Ok(answers.collect())
    });
    assert_eq!(failed.await, right);
}

/// G08: whoever answers what was not asked may be answering another question: nobody believes it.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_fails_the_whole_batch() {
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

/// E09: a batch that one of its digests makes fail is asked again one by one; an error of another
/// kind is everybody's and is not asked again.
#[tokio::test]
async fn one_bad_row_fails_its_callers_alone() {
    let tokens = tokens(10);
    let bad = tokens[4].digest();
    let outcomes = batch_of(&tokens, move |digests| {
        if digests.contains(&bad) {
            return Err(store_error(ErrorKind::Row));
        }
        Ok(all_live(digests))
    });
    let mut right = right(&tokens);
    right[4] = Err(ErrorKind::Row);
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

async fn status<L: SessionLookup>(sessions: &SessionService<L>) -> (StatusCode, Option<ErrorKind>)
where
    L::User: Debug,
{
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    let cookie = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    let response = service.oneshot(request(&cookie)).await.unwrap();
    let rejection = response.extensions().get::<Rejection>();
    let kind = rejection.map(|rejection| rejection.error().unwrap().kind());
    (response.status(), kind)
}

/// Panics when it is dropped.
struct PanicsOnDrop(AtomicBool);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(self.0.load(SeqCst), "made up: a panic in a destructor");
    }
}

/// G08: a store that panics, before or after its first await, or while its future is dropped at the
/// deadline, is a 503 for its callers; the next lookup is as good as new.
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
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, Some(ErrorKind::Store));
    for _ in 0..5 {
        for _ in 0..3 {
            assert_eq!(patiently(status(&sessions)).await, unavailable);
        }
        assert_eq!(patiently(status(&sessions)).await, (StatusCode::OK, None));
    }
    patiently(sessions.close()).await;
}

/// G08: everyone who waits behind a panic is answered, and nobody is lost or answered wrongly. It fails
/// those who were asked for in its question, and nobody else.
#[tokio::test]
async fn nobody_is_lost_behind_a_panic() {
    let panicked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panicked);
    let sessions = scripted(move |asked, digests| {
        let counted = Arc::clone(&counted);
        Box::pin(async move {
            yield_now().await;
            if asked % 3 == 0 {
                counted.fetch_add(digests.len(), SeqCst);
                panic!("made up: every third question panics");
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

/// F02, G08: a store that never answers, or answers after the deadline, is a 503 at the deadline and
/// not later, also for those who waited in the queue; then lookups go on.
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
            // The last to join a batch has a quarter less; timers are exact to a millisecond.
            let grain = Duration::from_millis(10);
            assert!(took <= DEFAULT_DEADLINE + grain, "{took:?}");
            assert!(took + grain >= DEFAULT_DEADLINE * 3 / 4, "{took:?}");
        }
        slow.store(false, SeqCst);
        assert_eq!(status(&sessions).await, (StatusCode::OK, None));
    }
}

/// The deadline is the application's, within bounds.
#[tokio::test(start_paused = true)]
async fn the_deadline_is_a_setting() {
    let build = |deadline| SessionService::builder(Hung).deadline(deadline).build();
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

/// And so is the lease.
#[test]
fn the_lease_is_a_setting() {
    let build = |lease| SessionService::builder(Hung).lease(lease).build();
    for taken in [Duration::from_millis(100), Duration::from_secs(60)] {
        assert!(build(taken).is_ok());
    }
    for refused in [
        Duration::ZERO,
        Duration::from_millis(99),
        Duration::from_secs(61),
        Duration::MAX,
    ] {
        let error = build(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("lease"), "{error}");
    }
}

/// Connects, and proves that it hears if it is to.
struct Feed {
    proves: bool,
}

impl SessionFeed for Feed {
    async fn hear(&self, hearing: &Hearing) -> Error {
        hearing.connected();
        if self.proves {
            hearing.proved(Instant::now());
        }
        std::future::pending().await
    }
}

/// A feed that proves nothing is an error at the deadline, and leaves nothing behind: another one can be
/// followed.
#[tokio::test(start_paused = true)]
async fn a_feed_that_never_proves_that_it_hears_is_an_error_at_the_deadline() {
    let sessions = memory();
    let (deaf, hears) = (Feed { proves: false }, Feed { proves: true });
    let start = Instant::now();
    let error = patiently(sessions.cache(deaf, 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("feed"), "{error}");
    let took = start.elapsed();
    assert!(
        took >= DEFAULT_DEADLINE && took < 2 * DEFAULT_DEADLINE,
        "{took:?}"
    );
    patiently(sessions.follow(hears)).await.unwrap();
}

#[derive(Debug)]
struct Hung;

impl SessionLookup for Hung {
    type User = User;

    async fn find(&self, _: &[TokenDigest]) -> Answers {
        std::future::pending().await
    }
}

/// J05: beyond the queue's bound a lookup is refused at once.
#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let sessions = SessionService::new(Hung);
    let token = SessionToken::generate().unwrap();
    let mut calls: Vec<_> = (0..16_385)
        .map(|_| Box::pin(sessions.user(&token)))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    let outcome = status(&sessions).await;
    assert_eq!(outcome.1, Some(ErrorKind::Overloaded));
}

// ---- Runtimes ----

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// F06: a deadline does not depend on whether anybody drives the runtime that carries the batches in
/// flight.
#[test]
fn the_deadline_holds_while_another_runtime_stands_still() {
    let deadline = Duration::from_millis(300);
    let sessions = SessionService::builder(Hung).deadline(deadline);
    let sessions = sessions.build().unwrap();
    let token = || SessionToken::generate().unwrap();
    let still = Builder::new_current_thread().enable_all().build().unwrap();
    still.block_on(async {
        for _ in 0..5 {
            let (sessions, token) = (sessions.clone(), token());
            tokio::spawn(async move { sessions.user(&token).await });
        }
        while sessions.counts().statements < 2 {
            yield_now().await;
        }
    });

    let start = Instant::now();
    let outcome = runtime().block_on(sessions.user(&token()));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    let took = start.elapsed();
    assert!(took >= deadline && took < 2 * deadline, "{took:?}");
    drop(still);
}

/// A service may outlive a runtime: lookups that it takes down with it are errors for whoever waits
/// elsewhere, and the next runtime finds the service working.
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
        let statements = sessions.counts().statements;
        // Until two are in flight: what the last round left in flight may not have ended yet.
        wait_until(|| {
            ask(&first);
            sessions.counts().statements >= statements + 2
        });
        let lookups = sessions.counts().lookups;
        let waiting: Vec<_> = (0..5).map(|_| ask(&second)).collect();
        wait_until(|| sessions.counts().lookups >= lookups + 5);
        if round == 2 {
            first.shutdown_background();
        } else {
            drop(first);
        }
        hang.store(false, SeqCst);
        second.block_on(async {
            for waiting in waiting {
                // Whether it was handed back or went out in time, it is answered.
                let _ = patiently(waiting).await.unwrap();
            }
            let token = SessionToken::generate().unwrap();
            let user = patiently(sessions.user(&token)).await.unwrap();
            assert_eq!(user, Some(owner(token.digest())));
        });
    }
    runtime().block_on(async { patiently(sessions.close()).await });
}

/// The same when a runtime goes before its task was polled once.
#[test]
fn a_lookup_that_never_started_leaves_no_trace() {
    let sessions = scripted(|_, digests| Box::pin(ready(Ok(all_live(&digests)))));
    let token = SessionToken::generate().unwrap();
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
                panic!("nobody will ever answer")
            };
            assert_eq!(error.kind(), ErrorKind::Store);
        }
    }
    let user = runtime().block_on(async { patiently(sessions.user(&token)).await.unwrap() });
    assert_eq!(user, Some(owner(token.digest())));
}

/// Outside any runtime nobody is signed in or out, and that is an error and no panic.
#[test]
fn signing_in_and_out_outside_a_runtime_is_an_error() {
    let sessions = memory();
    let headers = crate::support::cookie(&sessions, &SessionToken::generate().unwrap());
    let Poll::Ready(signed_out) = poll_once(pin!(sessions.sign_out(&headers).into_future())) else {
        panic!("it has nothing to wait for")
    };
    let Poll::Ready(Err(signed_in)) = poll_once(pin!(sessions.sign_in(1).into_future())) else {
        panic!("it has nothing to wait for")
    };
    for error in [signed_out.ended().unwrap_err(), &signed_in] {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("runtime"), "{error}");
    }
}

/// Outside any runtime a lookup is an error, through the layer a 503, and no panic.
#[test]
fn a_lookup_outside_a_runtime_is_an_error() {
    let sessions = memory();
    let token = SessionToken::generate().unwrap();
    let Poll::Ready(Err(error)) = poll_once(pin!(sessions.user(&token))) else {
        panic!("it has nothing to wait for")
    };
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("runtime"), "{error}");
    let Poll::Ready(outcome) = poll_once(pin!(status(&sessions))) else {
        panic!("it has nothing to wait for")
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

/// A service that was closed waits for what is under way, refuses what comes, gives up what the store
/// holds, and signs out all the same. Closing it again is no mistake.
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

/// The store is told of the closing once all lookups are back, and once only.
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

// ---- Bounds ----

type Store = MemorySessionStore<i64, User>;

/// Sync or not, sendable or not, the layers take what they are given.
#[derive(Clone)]
struct Inner;

assert_impl_all!(SessionService<Store>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(LoadUserLayer<Store>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(LoadUser<Inner, Store>: Send, Sync, Clone, Unpin);
assert_impl_all!(RequireUserLayer<User>: Send, Sync, Clone, Unpin, Debug);
assert_impl_all!(RequireUser<Inner, User>: Send, Sync, Clone, Unpin);
// A user type that is neither Send nor Clone makes no layer so.
assert_impl_all!(RequireUserLayer<Rc<()>>: Send, Sync, Clone);
assert_impl_all!(Rejection: Send, Sync, Clone, std::error::Error);
assert_impl_all!(Error: Send, Sync, Clone, std::error::Error);
assert_impl_all!(
    load_user::ResponseFuture<NeedsReady, Store, fn(&Rejection) -> Response<String>, String>: Send
);
assert_impl_all!(
    require_user::ResponseFuture<std::future::Ready<Result<Response<()>, Infallible>>, ()>: Send
);
assert_not_impl_any!(
    require_user::ResponseFuture<std::future::Pending<Result<Response<Rc<()>>, Infallible>>, Rc<()>>:
        Send
);

/// G11: a body that is not `Sync`, such as most of hyper's and axum's, leaves the future `Send`.
#[tokio::test]
async fn bodies_that_are_not_sync_are_accepted() {
    #[derive(Default)]
    struct NotSync(std::cell::Cell<u8>);
    assert_not_impl_any!(NotSync: Sync);
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .layer(RequireUserLayer::<User>::new())
        .service_fn(|request: Request<NotSync>| async move {
            let n = request.into_body().0.get();
            Ok::<_, Infallible>(Response::new(NotSync((n + 1).into())))
        });
    let request = Request::builder().header(COOKIE, cookie);
    let call = service.oneshot(request.body(NotSync(6.into())).unwrap());
    let response = tokio::spawn(call).await.unwrap().unwrap();
    assert_eq!(response.into_body().0.get(), 7);
}

#[derive(Debug, PartialEq)]
struct Plain(i32);

/// Gives the borrowed body back, in a future that cannot leave its thread and cannot be moved.
#[derive(Clone)]
struct Local(Rc<Mutex<u32>>);

impl<'a> Service<Request<&'a str>> for Local {
    type Response = Response<&'a str>;
    type Error = Plain;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Plain>> + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Plain>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<&'a str>) -> Self::Future {
        let calls = Rc::clone(&self.0);
        Box::pin(async move {
            *calls.lock().unwrap() += 1;
            match request.into_body() {
                "" => Err(Plain(7)),
                text => Ok(Response::new(text)),
            }
        })
    }
}

/// G12: a borrowed body, an error that is no `std::error::Error`, and futures and services that
/// cannot leave their thread.
#[tokio::test]
async fn borrowed_bodies_and_local_services_are_accepted() {
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let text = String::from("borrowed");
    let calls = Rc::new(Mutex::new(0));
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions))
        .layer(RequireUserLayer::<User>::new())
        .service(Local(Rc::clone(&calls)));
    let ask = |text| {
        let request = Request::builder().header(COOKIE, &cookie);
        service.clone().oneshot(request.body(text).unwrap())
    };
    assert_eq!(*ask(text.as_str()).await.unwrap().body(), "borrowed");
    assert_eq!(ask("").await.unwrap_err(), Plain(7));
    assert_eq!(*calls.lock().unwrap(), 2);
}
