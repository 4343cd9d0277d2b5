//! Concurrent lookups share statements, and each of them gets its own result.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    task::Poll,
};

use proptest::prelude::*;
use tokio::task::yield_now;
use tower_user_session::{
    Error, ErrorKind, SessionService,
    session::{SessionToken, TokenDigest},
    store::{LookupResult, MemorySessionStore, SessionLookup},
};

use crate::support::{User, database, poll_once, sessions, until};

/// A store that yields a few times before it answers, so that lookups overlap, and counts how often
/// each digest was queried.
struct Slow {
    memory: MemorySessionStore<u16, u16>,
    live: Mutex<HashMap<TokenDigest, u16>>,
    yields: usize,
    asked: Mutex<Vec<usize>>,
}

impl SessionLookup for Slow {
    type User = u16;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<u16>>, Error> {
        self.asked.lock().unwrap().push(digests.len());
        // As in a database, the result is that of the moment in which the statement starts.
        let users: Vec<_> = {
            let live = self.live.lock().unwrap();
            digests
                .iter()
                .map(|digest| live.get(digest).copied())
                .collect()
        };
        for _ in 0..self.yields {
            yield_now().await;
        }
        let template = SessionService::new(MemorySessionStore::<u16, u16>::new());
        template.store().add_user(0, 0);
        let session = template.sign_in_without_request(0).await?.session();
        let mut answers: Vec<_> = digests
            .iter()
            .zip(users)
            .map(|(digest, user)| match user {
                Some(user) => LookupResult::live(*digest, user, session),
                None => LookupResult::absent(*digest),
            })
            .collect();
        // The order of the results does not matter.
        answers.reverse();
        Ok(answers)
    }

    async fn close(&self) {
        self.memory.set_failing(true);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Looks a token up, and drops the lookup after this many polls if there is a number.
    Ask(u8, Option<u8>),
    /// Ends a session. A later lookup must not find it.
    End(u8),
    /// Lets other tasks run.
    Yield,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..24_u8, prop::option::weighted(0.3, 0..4_u8)).prop_map(|(t, p)| Step::Ask(t, p)),
        1 => (0..16_u8).prop_map(Step::End),
        1 => Just(Step::Yield),
    ];
    prop::collection::vec(step, 1..120)
}

async fn run(steps: Vec<Step>, yields: usize) {
    let tokens: Vec<_> = (0..24)
        .map(|_| Arc::new(SessionToken::generate().unwrap()))
        .collect();
    // The first sixteen belong to users, the others are unknown.
    let live = (0..16_u16)
        .map(|n| (tokens[usize::from(n)].digest(), n))
        .collect();
    let memory = MemorySessionStore::new();
    let (live, asked) = (Mutex::new(live), Mutex::default());
    let sessions = SessionService::new(Slow {
        memory,
        live,
        yields,
        asked,
    });
    let mut ended = [false; 24];
    let mut asking = Vec::new();
    for step in steps {
        match step {
            Step::End(n) => {
                let digest = tokens[usize::from(n)].digest();
                sessions.store().live.lock().unwrap().remove(&digest);
                ended[usize::from(n)] = true;
            }
            Step::Yield => yield_now().await,
            Step::Ask(n, polls) => {
                let dead = ended[usize::from(n)] || n >= 16;
                let (sessions, token) = (sessions.clone(), Arc::clone(&tokens[usize::from(n)]));
                let task = tokio::spawn(async move {
                    let mut user = std::pin::pin!(sessions.user(&token));
                    let mut left = polls;
                    std::future::poll_fn(|cx| {
                        if left == Some(0) {
                            return Poll::Ready(None);
                        }
                        left = left.map(|left| left - 1);
                        user.as_mut().poll(cx).map(Some)
                    })
                    .await
                });
                asking.push((n, dead, task));
            }
        }
    }
    for (n, dead, task) in asking {
        if let Some(answer) = task.await.unwrap() {
            match answer.unwrap() {
                Some(user) => assert!(user == u16::from(n) && !dead, "token {n} is of {user}"),
                // It may have ended after the lookup started.
                None => assert!(
                    dead || ended[usize::from(n)],
                    "token {n} has no live session"
                ),
            }
        }
    }
    let counts = sessions.metrics();
    let asked = sessions.store().asked.lock().unwrap().clone();
    assert_eq!(counts.statements, asked.len() as u64);
    assert!(asked.iter().all(|digests| (1..=128).contains(digests)));
    sessions.close().await;
    let error = sessions.user(&tokens[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// E05, E07, E08: for each interleaving and each dropped caller, the results are those of a
    /// service that looks up one token at a time.
    #[test]
    fn batched_results_equal_single_lookups(steps in steps(), yields in 0..4_usize) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(run(steps, yields));
    }
}

/// E11: a thousand concurrent lookups of one token query it once in a batch.
#[tokio::test]
async fn a_repeated_token_is_queried_once_in_a_batch() {
    let database = database().await;
    let sessions = sessions(&database);
    let signed_in = Arc::new(sessions.sign_in_without_request(1).await.unwrap());
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (sessions, signed_in) = (sessions.clone(), Arc::clone(&signed_in));
            tokio::spawn(async move { sessions.user(signed_in.token()).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), Some(User::ada()));
    }
    let counts = sessions.metrics();
    assert_eq!(counts.lookups, 1_000);
    // Two batches go out at once, and the others together when one returns.
    assert!(counts.statements <= 4, "{counts:?}");
}

/// Sixty-four concurrent lookups need less than one statement for two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_lookups_share_statements() {
    let database = database().await;
    let sessions = sessions(&database);
    let mut tokens = Vec::new();
    for n in 0..64 {
        tokens.push(sessions.sign_in_without_request(1 + n % 2).await.unwrap());
    }
    let before = sessions.metrics();
    let tasks: Vec<_> = tokens
        .into_iter()
        .enumerate()
        .map(|(n, signed_in)| {
            let sessions = sessions.clone();
            tokio::spawn(async move {
                let owner = if n % 2 == 0 { User::ada() } else { User::eve() };
                for _ in 0..100 {
                    let user = sessions.user(signed_in.token()).await.unwrap();
                    assert_eq!(user.as_ref(), Some(&owner));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let counts = sessions.metrics();
    let (lookups, statements) = (
        counts.lookups - before.lookups,
        counts.statements - before.statements,
    );
    assert_eq!(lookups, 6_400);
    // A debug build is slower than the server, so that few lookups wait at the same time.
    assert!(2 * statements < lookups, "{statements} statements");
}

/// J09: a thousand requests whose clients leave during the lookup open and close no connection.
#[tokio::test]
async fn dropped_requests_open_and_close_no_connection() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    // Opens the connections that two lookups at a time may use.
    sessions.store().check().await.unwrap();
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
