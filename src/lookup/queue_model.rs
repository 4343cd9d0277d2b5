//! Model check of the [lookup queue](super::queue). Shuttle tries schedules of callers, of the
//! tasks that send batches, and of a session that ends meanwhile.

use std::time::{Duration, Instant};

use shuttle::{
    check_random,
    sync::{Arc, Mutex, mpsc},
    thread,
};
use smallvec::SmallVec;

use crate::{
    lookup::queue::{Admission, Batch, BatchOutcome, Limits, Queue},
    session::TokenDigest,
};

type Waiter = mpsc::Sender<bool>;

const LIMITS: Limits = Limits {
    max_in_flight: 3,
    max_at_store: 2,
    max_digests: 2,
    min_for_extra_batch: 2,
    max_waiters: 8,
    max_batch_age: Duration::from_secs(1),
};

/// A guard that the model leaves out, to show that the check needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Without {
    Nothing,
    /// A lookup of a session shares the result of a query for it that was sent before.
    OwnQuery,
    /// A batch that completed does not send the next one.
    NextBatch,
    /// More batches are sent than may be in flight.
    Bound,
}

/// A queue in front of a database with two sessions, one of which ends.
#[derive(Clone)]
struct Model {
    queue: Arc<Mutex<Queue<Waiter>>>,
    live: Arc<Mutex<[bool; 2]>>,
    in_flight: Arc<Mutex<usize>>,
    /// Whether the next query for each session times out.
    slow: Arc<Mutex<[bool; 2]>>,
    /// The results of the queries that are in flight.
    sent: Arc<Mutex<[Option<bool>; 2]>>,
    without: Without,
}

impl Model {
    fn new(without: Without, far: bool) -> Self {
        let limits = Limits {
            max_in_flight: if without == Without::Bound {
                usize::MAX
            } else {
                LIMITS.max_in_flight
            },
            ..LIMITS
        };
        let mut queue = Queue::new(limits);
        if far {
            // The latency is mostly the round trip, so that batches are dispatched at once.
            queue.query_took(Duration::from_secs(1), 1);
        }
        Self {
            without,
            sent: Arc::default(),
            queue: Arc::new(Mutex::new(queue)),
            live: Arc::new(Mutex::new([true; 2])),
            in_flight: Arc::new(Mutex::new(0)),
            slow: Arc::new(Mutex::new([true; 2])),
        }
    }

    /// Looks up a session, as `LookupBatcher::submit` does. Returns `None` if the caller does not
    /// wait, or if the queue is full.
    fn look_up(&self, session: u8, now: Instant, waits: bool) -> Option<bool> {
        let (waiter, result) = mpsc::channel();
        let digest = TokenDigest::from_bytes([session; 32]);
        let sent = self.sent.lock().unwrap()[usize::from(session)];
        if let Some(live) = sent.filter(|_| self.without == Without::OwnQuery) {
            return waits.then_some(live);
        }
        let admission = self
            .queue
            .lock()
            .unwrap()
            .admit(SmallVec::from_buf([(digest, waiter)]), now);
        match admission {
            Admission::Dispatch(batch) => {
                let model = self.clone();
                thread::spawn(move || model.run_batches(batch));
            }
            Admission::Waiting => {}
            Admission::Overloaded => return None,
        }
        waits.then(|| result.recv().unwrap())
    }

    /// Sends batches until no batch is left, as the task of a `BatchWorker` does.
    fn run_batches(&self, first: Batch<Waiter>) {
        let mut next = Some(first);
        while let Some(batch) = next {
            let in_flight = {
                let mut in_flight = self.in_flight.lock().unwrap();
                *in_flight += 1;
                *in_flight
            };
            assert!(
                in_flight <= LIMITS.max_in_flight,
                "too many batches are in flight"
            );
            assert!(batch.waiting.len() <= LIMITS.max_digests);
            assert!(!batch.alone || batch.waiting.len() == 1);
            let (digests, waiters_of_each) = batch.waiting.into_parts();
            let batch_alone = batch.alone;
            // The first query for each session times out. The waiters of that query receive a
            // result nevertheless.
            let timed_out = digests.iter().any(|digest| {
                let mut slow = self.slow.lock().unwrap();
                std::mem::take(&mut slow[usize::from(digest.as_bytes()[0])])
            });
            // The snapshot of the query.
            let live = *self.live.lock().unwrap();
            for digest in &digests {
                let session = usize::from(digest.as_bytes()[0]);
                self.sent.lock().unwrap()[session] = Some(live[session]);
            }
            thread::yield_now();
            for digest in &digests {
                self.sent.lock().unwrap()[usize::from(digest.as_bytes()[0])] = None;
            }
            *self.in_flight.lock().unwrap() -= 1;
            for (digest, waiters) in digests.iter().zip(waiters_of_each) {
                for waiter in waiters {
                    let _ = waiter.send(live[usize::from(digest.as_bytes()[0])]);
                }
            }
            let outcome = if timed_out {
                BatchOutcome::TimedOut
            } else {
                BatchOutcome::Completed
            };
            let mut queue = self.queue.lock().unwrap();
            let now = Instant::now();
            next = queue.batch_completed(&digests, batch_alone, outcome, now);
            if self.without == Without::NextBatch {
                std::mem::forget(next.take());
            }
            drop(queue);
        }
    }
}

/// E05, E06, E07, G10: a lookup that starts after a session has ended never reports it as live, no
/// matter how many lookups of it are in flight. A waiter receives a result even if other waiters
/// were cancelled. The limits hold, and no batch stays in flight.
#[test]
fn no_result_predates_its_lookup() {
    for far in [false, true] {
        check(Without::Nothing, far);
    }
}

#[test]
#[should_panic = "an ended session was reported as live"]
fn the_model_needs_a_query_of_its_own_for_each_lookup() {
    check(Without::OwnQuery, true);
}

#[test]
#[should_panic = "deadlock"]
fn the_model_needs_the_next_batch_to_be_sent() {
    check(Without::NextBatch, false);
}

#[test]
#[should_panic = "too many batches are in flight"]
fn the_model_needs_the_bound_on_batches_in_flight() {
    check(Without::Bound, true);
}

fn check(without: Without, far: bool) {
    check_random(
        move || {
            let now = Instant::now();
            let model = Model::new(without, far);
            let waiters: Vec<_> = (0..4_u8)
                .map(|n| {
                    let model = model.clone();
                    thread::spawn(move || {
                        let result = model.look_up(n % 2, now, n != 2);
                        if n % 2 == 1 {
                            assert_ne!(result, Some(false), "a live session was rejected");
                        }
                    })
                })
                .collect();
            let ending = {
                let model = model.clone();
                thread::spawn(move || {
                    model.live.lock().unwrap()[0] = false;
                    // From here on, the session has ended.
                    assert_ne!(
                        model.look_up(0, now, true),
                        Some(true),
                        "an ended session was reported as live"
                    );
                })
            };
            for thread in waiters.into_iter().chain([ending]) {
                thread.join().unwrap();
            }
            if without != Without::Nothing {
                return;
            }
            // Batches of cancelled waiters may still be in flight.
            while !model.queue.lock().unwrap().is_idle() {
                thread::yield_now();
            }
            assert_eq!(*model.in_flight.lock().unwrap(), 0);
        },
        3_000,
    );
}
