//! Which lookups go to the store together. A state machine without a clock, a runtime or a lock, so that it can
//! be checked by itself.
//!
//! While nothing is in flight, a lookup goes out at once and alone. While something is, arrivals gather.
//! What has gathered goes out when a batch returns, or before that, as long as the allowed number of
//! batches is not in flight and it is enough to be worth another one.
//!
//! After a time-out, one slow row must not slow down other lookups: each digest of the batch goes alone until it is
//! answered, and at most one such statement is in flight. After two time-outs in a row on different digests the
//! database itself is slow: one statement is in flight until one is answered.
//! Nobody joins a batch that has been sent: a session that was ended before the question was asked
//! can never be answered from a lookup that was sent earlier.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::session::{DigestHashing, TokenDigest};

/// Whoever waits for one digest; nearly always a single caller.
pub(crate) type Waiters<W> = SmallVec<[W; 1]>;

/// The digests of one request, with a caller for each. Nearly always a single one.
pub(crate) type Together<W> = SmallVec<[(TokenDigest, W); 1]>;

/// A client that chooses tokens whose digests collide makes the map of one batch as slow as a list.
pub(crate) type DigestMap<V> = HashMap<TokenDigest, V, DigestHashing>;

/// The digests that are asked together, each once, with those who wait for each.
#[derive(Debug)]
pub(crate) struct Batch<W> {
    pub(crate) opened: Instant,
    pub(crate) waiting: DigestMap<Waiters<W>>,
    /// Whether it is about a digest that has timed out before, and so about those of one request only.
    pub(crate) alone: bool,
    /// Whether it is sent only if it has half of its time left, because statements do not end in time at present.
    pub(crate) in_time: bool,
}

/// What became of a batch that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The store answered, or failed in time.
    Answered,
    /// The store did not answer within the deadline.
    TimedOut,
    /// The batch was not sent, or its task ended early.
    NotSent,
}

/// The bounds of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Batches in flight at the same time.
    pub(crate) in_flight: usize,
    /// Digests in one batch.
    pub(crate) digests: usize,
    /// From so many digests on, what has gathered goes out although another batch is in flight.
    pub(crate) min_for_extra_batch: usize,
    /// Callers whose batch has not been sent. A request that presents several tokens counts for each.
    pub(crate) waiting: usize,
    /// How long a batch takes in newcomers. The statement ends at the deadline of its first caller; this
    /// bounds what that costs the last one.
    pub(crate) max_batch_age: Duration,
}

/// What becomes of a caller.
#[derive(Debug)]
pub(crate) enum Admission<W> {
    /// This batch is to be sent now.
    Dispatch(Batch<W>),
    /// The caller waits for a batch in flight to return.
    Waiting,
    /// There is no room. The callers were dropped.
    Overloaded,
}

/// The number of digests that a batch has room for at first, if it waits for more.
const GATHERED: usize = 14;

/// Digests that have timed out. Beyond this number, more of them go together with others.
const SUSPECTS: usize = 1_024;

/// The batches that have not been sent, and the number of those that have not returned.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    limits: Limits,
    in_flight: usize,
    /// Whether a batch of a suspect is in flight.
    alone_in_flight: bool,
    callers: usize,
    batches: VecDeque<Batch<W>>,
    /// Digests whose last batch timed out.
    suspects: HashSet<TokenDigest>,
    /// How many batches in a row have timed out, and a digest of the last one.
    timeouts: usize,
    last_timeout: Option<TokenDigest>,
}

impl<W> Queue<W> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            alone_in_flight: false,
            callers: 0,
            batches: VecDeque::new(),
            suspects: HashSet::new(),
            timeouts: 0,
            last_timeout: None,
        }
    }

    /// Admits the callers of one request. Their digests differ, and are asked in one batch.
    pub(crate) fn admit(&mut self, callers: Together<W>, now: Instant) -> Admission<W> {
        let alone = callers
            .iter()
            .any(|(digest, _)| self.suspects.contains(digest));
        if self.in_flight == 0 {
            let mut batch = Batch::of(callers, now, alone, 1);
            self.sent(&mut batch);
            return Admission::Dispatch(batch);
        }
        if self.callers + callers.len() > self.limits.waiting {
            return Admission::Overloaded;
        }
        self.callers += callers.len();
        let limits = self.limits;
        match self
            .batches
            .iter_mut()
            .rfind(|batch| batch.alone == alone && (!alone || batch.new_of(&callers) == 0))
            .filter(|batch| batch.takes_in(&callers, now, limits))
        {
            Some(batch) => batch.add(callers),
            None => self
                .batches
                .push_back(Batch::of(callers, now, alone, GATHERED)),
        }
        if self.in_flight < self.allowed()
            && let Some(batch) =
                self.take(|batch| batch.alone || batch.waiting.len() >= limits.min_for_extra_batch)
        {
            return Admission::Dispatch(batch);
        }
        Admission::Waiting
    }

    /// How many batches may be in flight.
    fn allowed(&self) -> usize {
        if self.timeouts > 1 {
            1
        } else {
            self.limits.in_flight
        }
    }

    /// The batch that has waited longest of those that may be sent, if it is like that.
    fn take(&mut self, wanted: impl FnOnce(&Batch<W>) -> bool) -> Option<Batch<W>> {
        let alone_in_flight = self.alone_in_flight;
        let may_be_sent = |batch: &Batch<W>| !(batch.alone && alone_in_flight);
        let place = self.batches.iter().position(may_be_sent)?;
        self.batches.get(place).filter(|batch| wanted(batch))?;
        let mut batch = self.batches.remove(place)?;
        self.callers -= batch.waiting.values().map(SmallVec::len).sum::<usize>();
        self.sent(&mut batch);
        Some(batch)
    }

    fn sent(&mut self, batch: &mut Batch<W>) {
        batch.in_time = batch.alone || self.timeouts > 0;
        self.in_flight += 1;
        self.alone_in_flight |= batch.alone;
    }

    /// A batch of these digests returned. The next one, if there is one, is to be sent in its place.
    pub(crate) fn batch_completed(
        &mut self,
        digests: &[TokenDigest],
        alone: bool,
        fate: Fate,
    ) -> Option<Batch<W>> {
        self.in_flight -= 1;
        self.alone_in_flight &= !alone;
        match fate {
            Fate::Answered => {
                self.timeouts = 0;
                self.last_timeout = None;
                for digest in digests {
                    self.suspects.remove(digest);
                }
            }
            Fate::TimedOut => {
                let same = matches!(digests, [digest] if self.last_timeout == Some(*digest));
                if !same {
                    self.timeouts += 1;
                    self.last_timeout = digests.first().copied();
                }
                let room = SUSPECTS.saturating_sub(self.suspects.len());
                self.suspects.extend(digests.iter().take(room));
            }
            Fate::NotSent => {}
        }
        if self.in_flight < self.allowed() {
            self.take(|_| true)
        } else {
            None
        }
    }

    /// A batch was given up, and whoever could send the others with it. They are handed back.
    pub(crate) fn abandon(&mut self, alone: bool) -> VecDeque<Batch<W>> {
        self.in_flight -= 1;
        self.alone_in_flight &= !alone;
        self.callers = 0;
        std::mem::take(&mut self.batches)
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

impl<W> Batch<W> {
    fn of(callers: Together<W>, now: Instant, alone: bool, expected: usize) -> Self {
        let mut batch = Self {
            opened: now,
            waiting: DigestMap::with_capacity_and_hasher(expected, DigestHashing::default()),
            alone,
            in_time: false,
        };
        batch.add(callers);
        batch
    }

    fn add(&mut self, callers: Together<W>) {
        for (digest, caller) in callers {
            self.waiting.entry(digest).or_default().push(caller);
        }
    }

    /// How many of these digests the batch does not hold.
    fn new_of(&self, callers: &Together<W>) -> usize {
        let new = callers
            .iter()
            .filter(|(digest, _)| !self.waiting.contains_key(digest));
        new.count()
    }

    fn takes_in(&self, callers: &Together<W>, now: Instant, limits: Limits) -> bool {
        now.saturating_duration_since(self.opened) < limits.max_batch_age
            && self.waiting.len() + self.new_of(callers) <= limits.digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        in_flight: 2,
        digests: 3,
        min_for_extra_batch: 1,
        waiting: 6,
        max_batch_age: Duration::from_millis(500),
    };

    fn digest(n: u8) -> TokenDigest {
        TokenDigest::from_bytes([n; 32])
    }

    fn alone(n: u8, caller: u32) -> Together<u32> {
        SmallVec::from_buf([(digest(n), caller)])
    }

    /// A batch returned, and none of its digests was a suspect.
    fn answered(queue: &mut Queue<u32>) -> Option<Batch<u32>> {
        queue.batch_completed(&[], false, Fate::Answered)
    }

    fn waiting(admission: &Admission<u32>) -> bool {
        matches!(admission, Admission::Waiting)
    }

    fn callers(batch: &Batch<u32>) -> Vec<(u8, Vec<u32>)> {
        let mut all: Vec<_> = batch
            .waiting
            .iter()
            .map(|(d, w)| (d.as_bytes()[0], w.to_vec()))
            .collect();
        all.sort();
        all
    }

    /// E07: whoever comes after a batch was sent is never part of it, be it for the same digest.
    #[test]
    fn a_lookup_joins_only_what_has_not_been_sent() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for caller in [1, 2] {
            let Admission::Dispatch(sent) = queue.admit(alone(9, caller), now) else {
                panic!("nothing was in its way")
            };
            assert_eq!(callers(&sent), [(9, vec![caller])]);
        }
        assert!(waiting(&queue.admit(alone(9, 3), now)));
        assert!(waiting(&queue.admit(alone(9, 4), now)));
        assert!(waiting(&queue.admit(alone(8, 5), now)));
        let next = answered(&mut queue).unwrap();
        assert_eq!(callers(&next), [(8, vec![5]), (9, vec![3, 4])]);
        assert!(waiting(&queue.admit(alone(9, 6), now)));
        assert_eq!(callers(&answered(&mut queue).unwrap()), [(9, vec![6])]);
        assert!(answered(&mut queue).is_none());
        assert!(answered(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// A second batch goes out beside the first when enough has gathered, and a third one does not.
    #[test]
    fn another_batch_goes_out_when_it_is_worth_it() {
        let limits = Limits {
            min_for_extra_batch: 2,
            ..LIMITS
        };
        let mut queue = Queue::new(limits);
        let now = Instant::now();
        assert!(matches!(
            queue.admit(alone(1, 1), now),
            Admission::Dispatch(_)
        ));
        assert!(waiting(&queue.admit(alone(2, 2), now)));
        assert!(waiting(&queue.admit(alone(2, 3), now)));
        let Admission::Dispatch(second) = queue.admit(alone(3, 4), now) else {
            panic!("two digests are worth a batch")
        };
        assert_eq!(callers(&second), [(2, vec![2, 3]), (3, vec![4])]);
        assert!(waiting(&queue.admit(alone(4, 5), now)));
        assert!(waiting(&queue.admit(alone(5, 6), now)));
        assert_eq!(
            callers(&answered(&mut queue).unwrap()),
            [(4, vec![5]), (5, vec![6])]
        );
        assert!(answered(&mut queue).is_none());
        assert!(answered(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// J05: a batch is bounded in digests, the queue in callers; a hot token fills neither.
    #[test]
    fn batches_and_the_queue_are_bounded() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(alone(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for n in 1..=4 {
            assert!(waiting(&queue.admit(alone(n, u32::from(n)), now)));
        }
        assert!(waiting(&queue.admit(alone(4, 5), now)));
        assert!(waiting(&queue.admit(alone(4, 6), now)));
        assert!(matches!(
            queue.admit(alone(4, 7), now),
            Admission::Overloaded
        ));
        assert_eq!(callers(&answered(&mut queue).unwrap()).len(), 3);
        assert_eq!(
            callers(&answered(&mut queue).unwrap()),
            [(4, vec![4, 5, 6])]
        );
        assert!(matches!(queue.admit(alone(4, 8), now), Admission::Waiting));
    }

    /// O05: the digests of one request are asked in one batch, and each of them counts for the bounds.
    #[test]
    fn digests_of_one_request_stay_together_and_count_each() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        let together = |digests: &[u8], caller| -> Together<u32> {
            digests.iter().map(|&n| (digest(n), caller)).collect()
        };
        let Admission::Dispatch(sent) = queue.admit(together(&[1, 2], 1), now) else {
            panic!("nothing was in its way")
        };
        assert_eq!(callers(&sent), [(1, vec![1]), (2, vec![1])]);
        assert!(matches!(
            queue.admit(alone(1, 2), now),
            Admission::Dispatch(_)
        ));
        // Six digests may wait. A batch holds three, and those of one request are not divided.
        assert!(waiting(&queue.admit(together(&[1, 2], 3), now)));
        assert!(waiting(&queue.admit(together(&[3, 4], 4), now)));
        assert!(matches!(
            queue.admit(together(&[3, 4, 5], 5), now),
            Admission::Overloaded
        ));
        assert!(waiting(&queue.admit(together(&[3, 5], 6), now)));
        assert!(matches!(
            queue.admit(alone(3, 7), now),
            Admission::Overloaded
        ));
        let next = answered(&mut queue).unwrap();
        assert_eq!(callers(&next), [(1, vec![3]), (2, vec![3])]);
        let next = answered(&mut queue).unwrap();
        assert_eq!(
            callers(&next),
            [(3, vec![4, 6]), (4, vec![4]), (5, vec![6])]
        );
        assert!(answered(&mut queue).is_none());
    }

    /// E10: two digests are one only if all of their bytes are.
    #[test]
    fn digests_that_are_nearly_the_same_are_two() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(alone(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for (place, caller) in [(0, 1), (31, 2)] {
            let mut bytes = [9; 32];
            bytes[place] = 8;
            let digest = TokenDigest::from_bytes(bytes);
            let alone = SmallVec::from_buf([(digest, caller)]);
            assert!(waiting(&queue.admit(alone, now)));
        }
        assert_eq!(answered(&mut queue).unwrap().waiting.len(), 2);
    }

    /// The last of a batch to come gets at least three quarters of the deadline.
    #[test]
    fn a_batch_closes_for_newcomers_with_age() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(
                queue.admit(alone(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        assert!(waiting(&queue.admit(alone(1, 1), now)));
        assert!(waiting(
            &queue.admit(alone(1, 2), now + LIMITS.max_batch_age)
        ));
        assert_eq!(callers(&answered(&mut queue).unwrap()), [(1, vec![1])]);
        assert_eq!(callers(&answered(&mut queue).unwrap()), [(1, vec![2])]);
    }

    /// M06: after a time-out the digests of the batch go alone and one at a time, and the others go as before.
    #[test]
    fn one_slow_row_slows_down_no_other_lookup() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        let timed_out = |queue: &mut Queue<u32>, digests: &[u8], alone| {
            let digests: Vec<_> = digests.iter().map(|n| digest(*n)).collect();
            queue.batch_completed(&digests, alone, Fate::TimedOut)
        };
        assert!(matches!(
            queue.admit(alone(1, 1), now),
            Admission::Dispatch(_)
        ));
        assert!(matches!(
            queue.admit(alone(2, 2), now),
            Admission::Dispatch(_)
        ));
        assert!(answered(&mut queue).is_none());
        assert!(timed_out(&mut queue, &[1], false).is_none());

        let Admission::Dispatch(suspect) = queue.admit(alone(1, 3), now) else {
            panic!("nothing is in its way")
        };
        assert!(suspect.alone);
        assert!(matches!(
            queue.admit(alone(2, 4), now),
            Admission::Dispatch(_)
        ));
        // Nothing of these joins the suspect, and the suspect joins none of them.
        for (n, caller) in [(3, 5), (1, 6), (4, 7), (1, 8)] {
            assert!(waiting(&queue.admit(alone(n, caller), now)));
        }
        let others = answered(&mut queue).unwrap();
        assert_eq!(callers(&others), [(3, vec![5]), (4, vec![7])]);
        // The second one of the suspect waits for the first one.
        assert!(answered(&mut queue).is_none());
        let again = timed_out(&mut queue, &[1], true).unwrap();
        assert_eq!(callers(&again), [(1, vec![6, 8])]);
        // The same digest again is no sign of a slow database.
        assert!(matches!(
            queue.admit(alone(5, 9), now),
            Admission::Dispatch(_)
        ));
        assert!(
            queue
                .batch_completed(&[digest(1)], true, Fate::Answered)
                .is_none()
        );
        assert!(queue.suspects.is_empty());
    }

    /// M06: after two time-outs in a row on different digests, one statement is in flight until one is answered.
    #[test]
    fn a_slow_database_is_asked_one_statement_at_a_time() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 1..=2 {
            assert!(matches!(
                queue.admit(alone(n, 0), now),
                Admission::Dispatch(_)
            ));
        }
        for n in 3..=9 {
            queue.admit(alone(n, u32::from(n)), now);
        }
        let first = queue.batch_completed(&[digest(1)], false, Fate::TimedOut);
        assert_eq!(first.unwrap().waiting.len(), 3);
        assert!(
            queue
                .batch_completed(&[digest(2)], false, Fate::TimedOut)
                .is_none()
        );
        assert_eq!(queue.in_flight, 1);
        assert!(waiting(&queue.admit(alone(10, 10), now)));
        let second = queue.batch_completed(&[digest(3)], false, Fate::NotSent);
        assert_eq!(second.unwrap().waiting.len(), 3);
        let third = queue.batch_completed(&[digest(6)], false, Fate::Answered);
        assert_eq!(callers(&third.unwrap()), [(10, vec![10])]);
        assert!(matches!(
            queue.admit(alone(11, 11), now),
            Admission::Dispatch(_)
        ));
        assert_eq!(queue.in_flight, 2);
    }

    /// J05: digests that time out are remembered up to a bound.
    #[test]
    fn suspects_are_bounded() {
        let mut queue = Queue::<u32>::new(LIMITS);
        let now = Instant::now();
        for n in 0..40_u8 {
            assert!(matches!(
                queue.admit(alone(n, 0), now),
                Admission::Dispatch(_)
            ));
            let many: Vec<_> = (0..100_u8)
                .map(|m| TokenDigest::from_bytes([[n, m]; 16].concat().try_into().unwrap()))
                .collect();
            assert!(
                queue
                    .batch_completed(&many, false, Fate::TimedOut)
                    .is_none()
            );
        }
        assert_eq!(queue.suspects.len(), SUSPECTS);
    }

    #[test]
    fn what_is_abandoned_is_handed_back_and_the_queue_goes_on() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..4 {
            queue.admit(alone(n, u32::from(n)), now);
        }
        let left: usize = queue
            .abandon(false)
            .iter()
            .map(|batch| batch.waiting.len())
            .sum();
        assert_eq!(left, 2);
        assert!(matches!(
            queue.admit(alone(5, 5), now),
            Admission::Dispatch(_)
        ));
        assert!(answered(&mut queue).is_none());
        assert!(answered(&mut queue).is_none());
        assert!(queue.is_idle());
    }

    /// J05: whoever was handed back waits no more, and takes nobody's place.
    #[test]
    fn those_who_were_abandoned_leave_room_for_as_many() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        assert!(matches!(
            queue.admit(alone(0, 0), now),
            Admission::Dispatch(_)
        ));
        for _ in 0..3 {
            // Beside the one in flight a second, and behind them as many as find room.
            assert!(matches!(
                queue.admit(alone(1, 0), now),
                Admission::Dispatch(_)
            ));
            for caller in 0..6 {
                assert!(waiting(&queue.admit(alone(2, caller), now)));
            }
            assert!(matches!(
                queue.admit(alone(2, 6), now),
                Admission::Overloaded
            ));
            let abandoned = queue.abandon(false);
            let abandoned: Vec<_> = abandoned.iter().flat_map(callers).collect();
            assert_eq!(abandoned, [(2, vec![0, 1, 2, 3, 4, 5])]);
        }
    }
}
