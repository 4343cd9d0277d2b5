//! The lookup queue: decides which lookups share a query.
//!
//! The queue is a state machine without a clock, a runtime or a lock. It can therefore be
//! model-checked.
//!
//! While no batch is in flight, a lookup is dispatched at once and alone. While a batch is in
//! flight, lookups wait and share the next batch. A waiting batch is dispatched when another batch
//! completes. A waiting batch with enough digests is dispatched earlier, if fewer batches than
//! allowed are in flight.
//!
//! After a timeout, one slow row must not slow down other lookups. Each digest of a batch that
//! timed out is a *suspect* until a query for the digest completes. Suspects are looked up apart
//! from other digests, and one such batch is in flight at a time. After two timeouts in a row on
//! different digests, the database itself counts as slow. Then only one query is in flight at a
//! time, until a query completes.
//!
//! No lookup joins a batch that was dispatched. Therefore a lookup never receives the result of a
//! query that was sent before the lookup. A session that ended before the lookup is not reported as
//! live.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::session::{DigestHashing, TokenDigest};

/// The waiters for one digest. There is nearly always one waiter.
pub(crate) type Waiters<W> = SmallVec<[W; 1]>;

/// The digests of one request, with a waiter for each digest. There is nearly always one digest.
pub(crate) type RequestDigests<W> = SmallVec<[(TokenDigest, W); 1]>;

/// The waiters of one batch by digest. If a client chooses tokens whose digests collide, the map of
/// that batch becomes as slow as a list.
pub(crate) type DigestMap<V> = HashMap<TokenDigest, V, DigestHashing>;

/// The digests of one query, each once, with the waiters for each.
#[derive(Debug)]
pub(crate) struct Batch<W> {
    pub(crate) opened: Instant,
    pub(crate) waiting: DigestMap<Waiters<W>>,
    /// Whether a digest of the batch is a suspect. Such a batch has the digests of one request
    /// only.
    pub(crate) alone: bool,
    /// Whether the batch is dropped if less than half of its time is left. The flag is set while
    /// queries time out.
    pub(crate) skip_if_late: bool,
}

/// The outcome of a dispatched batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchOutcome {
    /// The store returned before the deadline, with results or with an error.
    Completed,
    /// The store did not return before the deadline.
    TimedOut,
    /// The batch was not sent, or its task ended early.
    NotSent,
}

/// The limits of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of batches in flight.
    pub(crate) max_in_flight: usize,
    /// Maximum number of digests in one batch.
    pub(crate) max_digests: usize,
    /// Minimum number of digests for which a batch is dispatched while another batch is in flight.
    pub(crate) min_for_extra_batch: usize,
    /// Maximum number of waiters whose batch was not dispatched. A request with several tokens
    /// counts once for each token.
    pub(crate) max_waiters: usize,
    /// Maximum time for which a batch accepts lookups. The query ends at the deadline of the first
    /// waiter. The last waiter therefore loses at most this time of its own deadline.
    pub(crate) max_batch_age: Duration,
}

/// The decision about the waiters of one request.
#[derive(Debug)]
pub(crate) enum Admission<W> {
    /// The caller must send this batch now.
    Dispatch(Batch<W>),
    /// The waiters wait until a batch in flight completes.
    Waiting,
    /// The queue is full. The waiters were dropped.
    Overloaded,
}

/// Initial capacity of a batch that waits, in digests.
const INITIAL_CAPACITY: usize = 14;

/// Maximum number of suspects. Further digests that time out share batches with other digests.
const MAX_SUSPECTS: usize = 1_024;

/// The batches that wait, and the number of batches in flight.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    limits: Limits,
    in_flight: usize,
    /// Whether a batch with a suspect is in flight.
    alone_in_flight: bool,
    waiting: usize,
    batches: VecDeque<Batch<W>>,
    /// Digests whose last batch timed out.
    suspects: HashSet<TokenDigest>,
    /// Number of batches in a row that timed out.
    timeouts: usize,
    /// A digest of the last batch that timed out.
    last_timeout: Option<TokenDigest>,
}

impl<W> Queue<W> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            alone_in_flight: false,
            waiting: 0,
            batches: VecDeque::new(),
            suspects: HashSet::new(),
            timeouts: 0,
            last_timeout: None,
        }
    }

    /// Admits the waiters of one request. The digests of these waiters must differ. All of them
    /// share one batch.
    pub(crate) fn admit(&mut self, waiters: RequestDigests<W>, now: Instant) -> Admission<W> {
        let alone = waiters
            .iter()
            .any(|(digest, _)| self.suspects.contains(digest));
        if self.in_flight == 0 {
            let mut batch = Batch::new(waiters, now, alone, 1);
            self.mark_sent(&mut batch);
            return Admission::Dispatch(batch);
        }
        if self.waiting + waiters.len() > self.limits.max_waiters {
            return Admission::Overloaded;
        }
        self.waiting += waiters.len();
        let limits = self.limits;
        match self
            .batches
            .iter_mut()
            .rfind(|batch| batch.alone == alone && (!alone || batch.count_new(&waiters) == 0))
            .filter(|batch| batch.has_room_for(&waiters, now, limits))
        {
            Some(batch) => batch.add(waiters),
            None => self
                .batches
                .push_back(Batch::new(waiters, now, alone, INITIAL_CAPACITY)),
        }
        if self.in_flight < self.max_in_flight()
            && let Some(batch) = self.take_next_if(|batch| {
                batch.alone || batch.waiting.len() >= limits.min_for_extra_batch
            })
        {
            return Admission::Dispatch(batch);
        }
        Admission::Waiting
    }

    /// Returns how many batches may be in flight at present.
    fn max_in_flight(&self) -> usize {
        if self.timeouts > 1 {
            1
        } else {
            self.limits.max_in_flight
        }
    }

    /// Removes the oldest batch that may be dispatched, if it fulfills the condition.
    fn take_next_if(&mut self, wanted: impl FnOnce(&Batch<W>) -> bool) -> Option<Batch<W>> {
        let alone_in_flight = self.alone_in_flight;
        let may_be_sent = |batch: &Batch<W>| !(batch.alone && alone_in_flight);
        let place = self.batches.iter().position(may_be_sent)?;
        self.batches.get(place).filter(|batch| wanted(batch))?;
        let mut batch = self.batches.remove(place)?;
        self.waiting -= batch.waiting.values().map(SmallVec::len).sum::<usize>();
        self.mark_sent(&mut batch);
        Some(batch)
    }

    fn mark_sent(&mut self, batch: &mut Batch<W>) {
        batch.skip_if_late = batch.alone || self.timeouts > 0;
        self.in_flight += 1;
        self.alone_in_flight |= batch.alone;
    }

    /// Records that a batch with these digests completed. Returns the batch that the caller must
    /// send next.
    pub(crate) fn batch_completed(
        &mut self,
        digests: &[TokenDigest],
        alone: bool,
        outcome: BatchOutcome,
    ) -> Option<Batch<W>> {
        self.in_flight -= 1;
        self.alone_in_flight &= !alone;
        match outcome {
            BatchOutcome::Completed => {
                self.timeouts = 0;
                self.last_timeout = None;
                for digest in digests {
                    self.suspects.remove(digest);
                }
            }
            BatchOutcome::TimedOut => {
                let same = matches!(digests, [digest] if self.last_timeout == Some(*digest));
                if !same {
                    self.timeouts += 1;
                    self.last_timeout = digests.first().copied();
                }
                let room = MAX_SUSPECTS.saturating_sub(self.suspects.len());
                self.suspects.extend(digests.iter().take(room));
            }
            BatchOutcome::NotSent => {}
        }
        if self.in_flight < self.max_in_flight() {
            self.take_next_if(|_| true)
        } else {
            None
        }
    }

    /// Records that a batch was dropped and that no task is left to send the waiting batches.
    /// Returns these batches.
    pub(crate) fn abandon(&mut self, alone: bool) -> VecDeque<Batch<W>> {
        self.in_flight -= 1;
        self.alone_in_flight &= !alone;
        self.waiting = 0;
        std::mem::take(&mut self.batches)
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

impl<W> Batch<W> {
    fn new(waiters: RequestDigests<W>, now: Instant, alone: bool, expected: usize) -> Self {
        let mut batch = Self {
            opened: now,
            waiting: DigestMap::with_capacity_and_hasher(expected, DigestHashing::default()),
            alone,
            skip_if_late: false,
        };
        batch.add(waiters);
        batch
    }

    fn add(&mut self, waiters: RequestDigests<W>) {
        for (digest, waiter) in waiters {
            self.waiting.entry(digest).or_default().push(waiter);
        }
    }

    /// Returns how many of these digests are not in the batch.
    fn count_new(&self, waiters: &RequestDigests<W>) -> usize {
        let new = waiters
            .iter()
            .filter(|(digest, _)| !self.waiting.contains_key(digest));
        new.count()
    }

    fn has_room_for(&self, waiters: &RequestDigests<W>, now: Instant, limits: Limits) -> bool {
        now.saturating_duration_since(self.opened) < limits.max_batch_age
            && self.waiting.len() + self.count_new(waiters) <= limits.max_digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_in_flight: 2,
        max_digests: 3,
        min_for_extra_batch: 1,
        max_waiters: 6,
        max_batch_age: Duration::from_millis(500),
    };

    fn digest(n: u8) -> TokenDigest {
        TokenDigest::from_bytes([n; 32])
    }

    fn single(n: u8, waiter: u32) -> RequestDigests<u32> {
        SmallVec::from_buf([(digest(n), waiter)])
    }

    /// Completes a batch without suspects.
    fn completed(queue: &mut Queue<u32>) -> Option<Batch<u32>> {
        queue.batch_completed(&[], false, BatchOutcome::Completed)
    }

    fn waiting(admission: &Admission<u32>) -> bool {
        matches!(admission, Admission::Waiting)
    }

    fn waiters(batch: &Batch<u32>) -> Vec<(u8, Vec<u32>)> {
        let mut all: Vec<_> = batch
            .waiting
            .iter()
            .map(|(d, w)| (d.as_bytes()[0], w.to_vec()))
            .collect();
        all.sort();
        all
    }

    /// E07: a lookup never joins a batch that was dispatched, even for the same digest.
    #[test]
    fn a_lookup_joins_only_unsent_batches() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for waiter in [1, 2] {
            let Admission::Dispatch(sent) = queue.admit(single(9, waiter), now) else {
                panic!("the batch must be dispatched")
            };
            assert_eq!(waiters(&sent), [(9, vec![waiter])]);
        }
        assert!(waiting(&queue.admit(single(9, 3), now)));
        assert!(waiting(&queue.admit(single(9, 4), now)));
        assert!(waiting(&queue.admit(single(8, 5), now)));
        let next = completed(&mut queue).unwrap();
        assert_eq!(waiters(&next), [(8, vec![5]), (9, vec![3, 4])]);
        assert!(waiting(&queue.admit(single(9, 6), now)));
        assert_eq!(waiters(&completed(&mut queue).unwrap()), [(9, vec![6])]);
        assert!(completed(&mut queue).is_none());
        assert!(completed(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// A second batch is dispatched beside the first once enough digests wait. A third batch is not
    /// dispatched.
    #[test]
    fn a_second_batch_is_sent_once_enough_digests_wait() {
        let limits = Limits {
            min_for_extra_batch: 2,
            ..LIMITS
        };
        let mut queue = Queue::new(limits);
        let now = Instant::now();
        assert!(matches!(
            queue.admit(single(1, 1), now),
            Admission::Dispatch(_)
        ));
        assert!(waiting(&queue.admit(single(2, 2), now)));
        assert!(waiting(&queue.admit(single(2, 3), now)));
        let Admission::Dispatch(second) = queue.admit(single(3, 4), now) else {
            panic!("two digests must be dispatched")
        };
        assert_eq!(waiters(&second), [(2, vec![2, 3]), (3, vec![4])]);
        assert!(waiting(&queue.admit(single(4, 5), now)));
        assert!(waiting(&queue.admit(single(5, 6), now)));
        assert_eq!(
            waiters(&completed(&mut queue).unwrap()),
            [(4, vec![5]), (5, vec![6])]
        );
        assert!(completed(&mut queue).is_none());
        assert!(completed(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// J05: the number of digests in a batch is bounded, and the number of waiters in the queue is
    /// bounded. Many lookups of one token fill no batch.
    #[test]
    fn batches_are_bounded_in_digests_and_the_queue_in_waiters() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(single(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for n in 1..=4 {
            assert!(waiting(&queue.admit(single(n, u32::from(n)), now)));
        }
        assert!(waiting(&queue.admit(single(4, 5), now)));
        assert!(waiting(&queue.admit(single(4, 6), now)));
        assert!(matches!(
            queue.admit(single(4, 7), now),
            Admission::Overloaded
        ));
        assert_eq!(waiters(&completed(&mut queue).unwrap()).len(), 3);
        assert_eq!(
            waiters(&completed(&mut queue).unwrap()),
            [(4, vec![4, 5, 6])]
        );
        assert!(matches!(queue.admit(single(4, 8), now), Admission::Waiting));
    }

    /// O05: the digests of one request share a batch, and each of them counts toward the bounds.
    #[test]
    fn digests_of_one_request_share_a_batch_and_count_each() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        let together = |digests: &[u8], waiter| -> RequestDigests<u32> {
            digests.iter().map(|&n| (digest(n), waiter)).collect()
        };
        let Admission::Dispatch(sent) = queue.admit(together(&[1, 2], 1), now) else {
            panic!("the batch must be dispatched")
        };
        assert_eq!(waiters(&sent), [(1, vec![1]), (2, vec![1])]);
        assert!(matches!(
            queue.admit(single(1, 2), now),
            Admission::Dispatch(_)
        ));
        // Six waiters fit. A batch holds three digests, and the digests of one request share a
        // batch.
        assert!(waiting(&queue.admit(together(&[1, 2], 3), now)));
        assert!(waiting(&queue.admit(together(&[3, 4], 4), now)));
        assert!(matches!(
            queue.admit(together(&[3, 4, 5], 5), now),
            Admission::Overloaded
        ));
        assert!(waiting(&queue.admit(together(&[3, 5], 6), now)));
        assert!(matches!(
            queue.admit(single(3, 7), now),
            Admission::Overloaded
        ));
        let next = completed(&mut queue).unwrap();
        assert_eq!(waiters(&next), [(1, vec![3]), (2, vec![3])]);
        let next = completed(&mut queue).unwrap();
        assert_eq!(
            waiters(&next),
            [(3, vec![4, 6]), (4, vec![4]), (5, vec![6])]
        );
        assert!(completed(&mut queue).is_none());
    }

    /// E10: digests are equal only if all of their bytes are equal.
    #[test]
    fn digests_that_differ_in_one_byte_are_distinct() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(single(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for (place, waiter) in [(0, 1), (31, 2)] {
            let mut bytes = [9; 32];
            bytes[place] = 8;
            let digest = TokenDigest::from_bytes(bytes);
            let lookup = SmallVec::from_buf([(digest, waiter)]);
            assert!(waiting(&queue.admit(lookup, now)));
        }
        assert_eq!(completed(&mut queue).unwrap().waiting.len(), 2);
    }

    /// The last lookup of a batch has at least three quarters of the deadline.
    #[test]
    fn an_old_batch_admits_no_further_lookups() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(single(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        assert!(waiting(&queue.admit(single(1, 1), now)));
        assert!(waiting(
            &queue.admit(single(1, 2), now + LIMITS.max_batch_age)
        ));
        assert_eq!(waiters(&completed(&mut queue).unwrap()), [(1, vec![1])]);
        assert_eq!(waiters(&completed(&mut queue).unwrap()), [(1, vec![2])]);
    }

    /// M06: after a timeout, the digests of the batch are looked up alone and one at a time. Other
    /// lookups are not delayed.
    #[test]
    fn one_slow_row_slows_down_no_other_lookup() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        let timed_out = |queue: &mut Queue<u32>, digests: &[u8], alone| {
            let digests: Vec<_> = digests.iter().map(|n| digest(*n)).collect();
            queue.batch_completed(&digests, alone, BatchOutcome::TimedOut)
        };
        assert!(matches!(
            queue.admit(single(1, 1), now),
            Admission::Dispatch(_)
        ));
        assert!(matches!(
            queue.admit(single(2, 2), now),
            Admission::Dispatch(_)
        ));
        assert!(completed(&mut queue).is_none());
        assert!(timed_out(&mut queue, &[1], false).is_none());

        let Admission::Dispatch(suspect) = queue.admit(single(1, 3), now) else {
            panic!("the batch must be dispatched")
        };
        assert!(suspect.alone);
        assert!(matches!(
            queue.admit(single(2, 4), now),
            Admission::Dispatch(_)
        ));
        // The suspect never shares a batch with other digests.
        for (n, waiter) in [(3, 5), (1, 6), (4, 7), (1, 8)] {
            assert!(waiting(&queue.admit(single(n, waiter), now)));
        }
        let others = completed(&mut queue).unwrap();
        assert_eq!(waiters(&others), [(3, vec![5]), (4, vec![7])]);
        // The second batch of the suspect waits for the first one.
        assert!(completed(&mut queue).is_none());
        let again = timed_out(&mut queue, &[1], true).unwrap();
        assert_eq!(waiters(&again), [(1, vec![6, 8])]);
        // Two timeouts of the same digest are no sign of a slow database.
        assert!(matches!(
            queue.admit(single(5, 9), now),
            Admission::Dispatch(_)
        ));
        assert!(
            queue
                .batch_completed(&[digest(1)], true, BatchOutcome::Completed)
                .is_none()
        );
        assert!(queue.suspects.is_empty());
    }

    /// M06: after two timeouts in a row on different digests, only one query is in flight at a
    /// time, until a query completes.
    #[test]
    fn a_slow_database_runs_one_query_at_a_time() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 1..=2 {
            assert!(matches!(
                queue.admit(single(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for n in 3..=9 {
            queue.admit(single(n, u32::from(n)), now);
        }
        let first = queue.batch_completed(&[digest(1)], false, BatchOutcome::TimedOut);
        assert_eq!(first.unwrap().waiting.len(), 3);
        assert!(
            queue
                .batch_completed(&[digest(2)], false, BatchOutcome::TimedOut)
                .is_none()
        );
        assert_eq!(queue.in_flight, 1);
        assert!(waiting(&queue.admit(single(10, 10), now)));
        let second = queue.batch_completed(&[digest(3)], false, BatchOutcome::NotSent);
        assert_eq!(second.unwrap().waiting.len(), 3);
        let third = queue.batch_completed(&[digest(6)], false, BatchOutcome::Completed);
        assert_eq!(waiters(&third.unwrap()), [(10, vec![10])]);
        assert!(matches!(
            queue.admit(single(11, 11), now),
            Admission::Dispatch(_)
        ));
        assert_eq!(queue.in_flight, 2);
    }

    /// J05: the number of suspects is bounded.
    #[test]
    fn suspects_are_bounded() {
        let mut queue = Queue::<u32>::new(LIMITS);
        let now = Instant::now();
        for n in 0..40_u8 {
            assert!(matches!(
                queue.admit(single(n, 0), now),
                Admission::Dispatch(_)
            ));
            let many: Vec<_> = (0..100_u8)
                .map(|m| TokenDigest::from_bytes([[n, m]; 16].concat().try_into().unwrap()))
                .collect();
            assert!(
                queue
                    .batch_completed(&many, false, BatchOutcome::TimedOut)
                    .is_none()
            );
        }
        assert_eq!(queue.suspects.len(), MAX_SUSPECTS);
    }

    #[test]
    fn abandoned_batches_are_returned_and_the_queue_remains_usable() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..4 {
            queue.admit(single(n, u32::from(n)), now);
        }
        let left: usize = queue
            .abandon(false)
            .iter()
            .map(|batch| batch.waiting.len())
            .sum();
        assert_eq!(left, 2);
        assert!(matches!(
            queue.admit(single(5, 5), now),
            Admission::Dispatch(_)
        ));
        assert!(completed(&mut queue).is_none());
        assert!(completed(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// J05: abandoned waiters no longer count toward the bound.
    #[test]
    fn abandoned_waiters_free_their_capacity() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        assert!(matches!(
            queue.admit(single(0, 0), now),
            Admission::Dispatch(_)
        ));
        for _ in 0..3 {
            // One more batch is dispatched beside the first, and then the queue fills up.
            assert!(matches!(
                queue.admit(single(1, 0), now),
                Admission::Dispatch(_)
            ));
            for waiter in 0..6 {
                assert!(waiting(&queue.admit(single(2, waiter), now)));
            }
            assert!(matches!(
                queue.admit(single(2, 6), now),
                Admission::Overloaded
            ));
            let abandoned = queue.abandon(false);
            let abandoned: Vec<_> = abandoned.iter().flat_map(waiters).collect();
            assert_eq!(abandoned, [(2, vec![0, 1, 2, 3, 4, 5])]);
        }
    }
}
