//! Which lookups go to the store together. A state machine without a clock, a runtime or a lock, so that it can
//! be checked by itself.
//!
//! While nothing is in flight, a lookup goes out at once and alone. While something is, arrivals gather.
//! What has gathered goes out when a batch returns, or before that, as long as the allowed number of
//! batches is not in flight and it is enough to be worth another one.
//! Nobody joins a batch that has been sent: a session that was ended before the question was asked
//! can never be answered from a lookup that was sent earlier.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
    time::Instant,
};

use smallvec::SmallVec;

use super::TokenDigest;

/// Whoever waits for one digest; nearly always a single caller.
pub(crate) type Waiters<W> = SmallVec<[W; 1]>;

/// The digests that are asked together, each once, with those who wait for each.
#[derive(Debug)]
pub(crate) struct Batch<W> {
    pub(crate) opened: Instant,
    pub(crate) waiting: HashMap<TokenDigest, Waiters<W>>,
}

/// The bounds of a [`Queue`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Batches in flight at the same time.
    pub(crate) in_flight: usize,
    /// Digests in one batch.
    pub(crate) digests: usize,
    /// From so many digests on, what has gathered goes out although another batch is in flight.
    pub(crate) worth_another: usize,
    /// Callers whose batch has not been sent.
    pub(crate) waiting: usize,
    /// How long a batch takes in newcomers. The statement ends at the deadline of its first caller; this
    /// bounds what that costs the last one.
    pub(crate) joinable: Duration,
}

/// What becomes of a caller.
#[derive(Debug)]
pub(crate) enum Admission<W> {
    /// This batch is to be sent now.
    Send(Batch<W>),
    /// The caller waits for a batch in flight to return.
    Waiting,
    /// There is no room. The caller is handed back.
    Overloaded(W),
}

/// The batches that have not been sent, and the number of those that have not returned.
#[derive(Debug)]
pub(crate) struct Queue<W> {
    limits: Limits,
    in_flight: usize,
    callers: usize,
    batches: VecDeque<Batch<W>>,
}

impl<W> Queue<W> {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            callers: 0,
            batches: VecDeque::new(),
        }
    }

    pub(crate) fn admit(&mut self, digest: TokenDigest, caller: W, now: Instant) -> Admission<W> {
        if self.in_flight == 0 {
            self.in_flight = 1;
            return Admission::Send(Batch::of(digest, caller, now));
        }
        if self.callers >= self.limits.waiting {
            return Admission::Overloaded(caller);
        }
        self.callers += 1;
        let limits = self.limits;
        match self
            .batches
            .back_mut()
            .filter(|batch| batch.takes_in(digest, now, limits))
        {
            Some(batch) => batch.waiting.entry(digest).or_default().push(caller),
            None => self.batches.push_back(Batch::of(digest, caller, now)),
        }
        if self.in_flight < self.limits.in_flight
            && let Some(batch) = self.take(|batch| batch.waiting.len() >= limits.worth_another)
        {
            self.in_flight += 1;
            return Admission::Send(batch);
        }
        Admission::Waiting
    }

    /// The batch that has waited longest, if it is like that.
    fn take(&mut self, wanted: impl FnOnce(&Batch<W>) -> bool) -> Option<Batch<W>> {
        self.batches.front().filter(|batch| wanted(batch))?;
        let batch = self.batches.pop_front()?;
        self.callers -= batch.waiting.values().map(SmallVec::len).sum::<usize>();
        Some(batch)
    }

    /// A batch returned. The next one, if there is one, is to be sent in its place.
    pub(crate) fn returned(&mut self) -> Option<Batch<W>> {
        let next = self.take(|_| true);
        if next.is_none() {
            self.in_flight -= 1;
        }
        next
    }

    /// A batch was given up, and whoever could send the others with it. They are handed back.
    pub(crate) fn abandon(&mut self) -> VecDeque<Batch<W>> {
        self.in_flight -= 1;
        self.callers = 0;
        std::mem::take(&mut self.batches)
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

impl<W> Batch<W> {
    fn of(digest: TokenDigest, caller: W, now: Instant) -> Self {
        Self {
            opened: now,
            waiting: HashMap::from([(digest, SmallVec::from_buf([caller]))]),
        }
    }

    fn takes_in(&self, digest: TokenDigest, now: Instant, limits: Limits) -> bool {
        now.saturating_duration_since(self.opened) < limits.joinable
            && (self.waiting.len() < limits.digests || self.waiting.contains_key(&digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        in_flight: 2,
        digests: 3,
        worth_another: 1,
        waiting: 6,
        joinable: Duration::from_millis(500),
    };

    fn digest(n: u8) -> TokenDigest {
        TokenDigest::from_bytes([n; 32])
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
            let Admission::Send(sent) = queue.admit(digest(9), caller, now) else {
                panic!("nothing was in its way")
            };
            assert_eq!(callers(&sent), [(9, vec![caller])]);
        }
        assert!(waiting(&queue.admit(digest(9), 3, now)));
        assert!(waiting(&queue.admit(digest(9), 4, now)));
        assert!(waiting(&queue.admit(digest(8), 5, now)));
        let next = queue.returned().unwrap();
        assert_eq!(callers(&next), [(8, vec![5]), (9, vec![3, 4])]);
        assert!(waiting(&queue.admit(digest(9), 6, now)));
        assert_eq!(callers(&queue.returned().unwrap()), [(9, vec![6])]);
        assert!(queue.returned().is_none());
        assert!(queue.returned().is_none());
        assert!(queue.is_idle());
    }

    /// A second batch goes out beside the first when enough has gathered, and a third one does not.
    #[test]
    fn another_batch_goes_out_when_it_is_worth_it() {
        let limits = Limits {
            worth_another: 2,
            ..LIMITS
        };
        let mut queue = Queue::new(limits);
        let now = Instant::now();
        assert!(matches!(queue.admit(digest(1), 1, now), Admission::Send(_)));
        assert!(waiting(&queue.admit(digest(2), 2, now)));
        assert!(waiting(&queue.admit(digest(2), 3, now)));
        let Admission::Send(second) = queue.admit(digest(3), 4, now) else {
            panic!("two digests are worth a batch")
        };
        assert_eq!(callers(&second), [(2, vec![2, 3]), (3, vec![4])]);
        assert!(waiting(&queue.admit(digest(4), 5, now)));
        assert!(waiting(&queue.admit(digest(5), 6, now)));
        assert_eq!(
            callers(&queue.returned().unwrap()),
            [(4, vec![5]), (5, vec![6])]
        );
        assert!(queue.returned().is_none());
        assert!(queue.returned().is_none());
        assert!(queue.is_idle());
    }

    /// J05: a batch is bounded in digests, the queue in callers; a hot token fills neither.
    #[test]
    fn batches_and_the_queue_are_bounded() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(queue.admit(digest(n), 0, now), Admission::Send(_)));
        }
        for n in 1..=4 {
            assert!(waiting(&queue.admit(digest(n), u32::from(n), now)));
        }
        assert!(waiting(&queue.admit(digest(4), 5, now)));
        assert!(waiting(&queue.admit(digest(4), 6, now)));
        assert!(matches!(
            queue.admit(digest(4), 7, now),
            Admission::Overloaded(7)
        ));
        assert_eq!(callers(&queue.returned().unwrap()).len(), 3);
        assert_eq!(callers(&queue.returned().unwrap()), [(4, vec![4, 5, 6])]);
        assert!(matches!(queue.admit(digest(4), 8, now), Admission::Waiting));
    }

    /// E10: two digests are one only if all of their bytes are.
    #[test]
    fn digests_that_are_nearly_the_same_are_two() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(queue.admit(digest(n), 0, now), Admission::Send(_)));
        }
        for (place, caller) in [(0, 1), (31, 2)] {
            let mut bytes = [9; 32];
            bytes[place] = 8;
            assert!(waiting(&queue.admit(
                TokenDigest::from_bytes(bytes),
                caller,
                now
            )));
        }
        assert_eq!(queue.returned().unwrap().waiting.len(), 2);
    }

    /// The last of a batch to come gets at least three quarters of the deadline.
    #[test]
    fn a_batch_closes_for_newcomers_with_age() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..2 {
            assert!(matches!(queue.admit(digest(n), 0, now), Admission::Send(_)));
        }
        assert!(waiting(&queue.admit(digest(1), 1, now)));
        assert!(waiting(&queue.admit(digest(1), 2, now + LIMITS.joinable)));
        assert_eq!(callers(&queue.returned().unwrap()), [(1, vec![1])]);
        assert_eq!(callers(&queue.returned().unwrap()), [(1, vec![2])]);
    }

    #[test]
    fn what_is_abandoned_is_handed_back_and_the_queue_goes_on() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        for n in 0..4 {
            queue.admit(digest(n), u32::from(n), now);
        }
        let left: usize = queue
            .abandon()
            .iter()
            .map(|batch| batch.waiting.len())
            .sum();
        assert_eq!(left, 2);
        assert!(matches!(queue.admit(digest(5), 5, now), Admission::Send(_)));
        assert!(queue.returned().is_none());
        assert!(queue.returned().is_none());
        assert!(queue.is_idle());
    }

    /// J05: whoever was handed back waits no more, and takes nobody's place.
    #[test]
    fn those_who_were_abandoned_leave_room_for_as_many() {
        let mut queue = Queue::new(LIMITS);
        let now = Instant::now();
        assert!(matches!(queue.admit(digest(0), 0, now), Admission::Send(_)));
        for _ in 0..3 {
            // Beside the one in flight a second, and behind them as many as find room.
            assert!(matches!(queue.admit(digest(1), 0, now), Admission::Send(_)));
            for caller in 0..6 {
                assert!(waiting(&queue.admit(digest(2), caller, now)));
            }
            assert!(matches!(
                queue.admit(digest(2), 6, now),
                Admission::Overloaded(6)
            ));
            let abandoned = queue.abandon();
            let abandoned: Vec<_> = abandoned.iter().flat_map(callers).collect();
            assert_eq!(abandoned, [(2, vec![0, 1, 2, 3, 4, 5])]);
        }
    }
}
