//! A model check of the [batches](super::batch): every schedule that shuttle tries of callers, of the
//! tasks that send batches, and of a session that ends meanwhile.

use std::time::{Duration, Instant};

use shuttle::{
    check_random,
    sync::{Arc, Mutex, mpsc},
    thread,
};
use smallvec::SmallVec;

use crate::{
    lookup::queue::{Admission, Batch, Fate, Limits, Queue},
    session::TokenDigest,
};

type Caller = mpsc::Sender<bool>;

const LIMITS: Limits = Limits {
    in_flight: 2,
    digests: 2,
    min_for_extra_batch: 2,
    waiting: 8,
    max_batch_age: Duration::from_secs(1),
};

/// What is modelled: two sessions in a database, one of which ends, and the queue before it.
#[derive(Clone)]
struct Model {
    queue: Arc<Mutex<Queue<Caller>>>,
    live: Arc<Mutex<[bool; 2]>>,
    in_flight: Arc<Mutex<usize>>,
    /// Which sessions' next statement times out.
    slow: Arc<Mutex<[bool; 2]>>,
}

impl Model {
    fn new() -> Self {
        Self {
            queue: Arc::new(Mutex::new(Queue::new(LIMITS))),
            live: Arc::new(Mutex::new([true; 2])),
            in_flight: Arc::new(Mutex::new(0)),
            slow: Arc::new(Mutex::new([true; 2])),
        }
    }

    /// Asks, as `LookupBatcher::ask` does. `None` for whoever goes away instead of waiting.
    fn ask(&self, session: u8, now: Instant, stay: bool) -> Option<bool> {
        let (caller, answer) = mpsc::channel();
        let digest = TokenDigest::from_bytes([session; 32]);
        let admission = self
            .queue
            .lock()
            .unwrap()
            .admit(SmallVec::from_buf([(digest, caller)]), now);
        match admission {
            Admission::Dispatch(batch) => {
                let model = self.clone();
                thread::spawn(move || model.fly(batch));
            }
            Admission::Waiting => {}
            Admission::Overloaded => return None,
        }
        // A caller that is never answered would make this hang, which shuttle reports.
        stay.then(|| answer.recv().unwrap())
    }

    /// Sends batches until none is left, as the task of a `BatchWorker` does.
    fn fly(&self, first: Batch<Caller>) {
        let mut next = Some(first);
        while let Some(batch) = next {
            {
                let mut in_flight = self.in_flight.lock().unwrap();
                *in_flight += 1;
                assert!(*in_flight <= LIMITS.in_flight);
            }
            assert!(batch.waiting.len() <= LIMITS.digests);
            assert!(!batch.alone || batch.waiting.len() == 1);
            let digests: Vec<_> = batch.waiting.keys().copied().collect();
            let batch_alone = batch.alone;
            // The first statement of each session times out, and is answered all the same here.
            let timed_out = digests.iter().any(|digest| {
                let mut slow = self.slow.lock().unwrap();
                std::mem::take(&mut slow[usize::from(digest.as_bytes()[0])])
            });
            // The statement's snapshot.
            let live = *self.live.lock().unwrap();
            thread::yield_now();
            *self.in_flight.lock().unwrap() -= 1;
            for (digest, callers) in batch.waiting {
                for caller in callers {
                    let _ = caller.send(live[usize::from(digest.as_bytes()[0])]);
                }
            }
            let fate = if timed_out {
                Fate::TimedOut
            } else {
                Fate::Answered
            };
            let mut queue = self.queue.lock().unwrap();
            next = queue.batch_completed(&digests, batch_alone, fate);
        }
    }
}

/// E05, E06, E07, G10: whoever asks after a session has ended never hears that it is live, be there
/// as many questions about it under way as may be; who stays is answered, whoever goes away; the
/// bounds hold; and in the end nothing is in flight.
#[test]
fn nobody_is_answered_from_before_their_question() {
    check_random(
        || {
            let now = Instant::now();
            let model = Model::new();
            let callers: Vec<_> = (0..4_u8)
                .map(|n| {
                    let model = model.clone();
                    thread::spawn(move || {
                        let answer = model.ask(n % 2, now, n != 2);
                        if n % 2 == 1 {
                            assert_ne!(answer, Some(false), "a session that lives was refused");
                        }
                    })
                })
                .collect();
            let ending = {
                let model = model.clone();
                thread::spawn(move || {
                    model.live.lock().unwrap()[0] = false;
                    // From here on it has ended.
                    assert_ne!(
                        model.ask(0, now, true),
                        Some(true),
                        "answered from before it ended"
                    );
                })
            };
            for thread in callers.into_iter().chain([ending]) {
                thread.join().unwrap();
            }
            // Batches of callers that went away may still be under way.
            while !model.queue.lock().unwrap().is_idle() {
                thread::yield_now();
            }
            assert_eq!(*model.in_flight.lock().unwrap(), 0);
        },
        3_000,
    );
}
