//! The lookup queue: decides which lookups share a query.
//!
//! The queue is a state machine without a clock, a runtime or a lock. It can therefore be
//! model-checked.
//!
//! While no batch is in flight, a lookup is dispatched at once and alone. While a batch is in
//! flight, the [pace](super::pace) decides. If the latency is mostly the network round trip, a
//! lookup is dispatched at once too. If it is mostly the store, lookups wait and share the next
//! batch. A waiting batch is dispatched when another batch completes. A waiting batch with enough
//! digests is dispatched earlier, if fewer batches than allowed are in flight.
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
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    lookup::{pace::Pace, waiting::Waiting},
    session::TokenDigest,
};

/// The digests of one request, with a waiter for each digest. There is nearly always one digest.
pub(crate) type RequestDigests<W> = SmallVec<[(TokenDigest, W); 1]>;

/// The digests of one query, each once, with the waiters for each.
#[derive(Debug)]
pub(crate) struct Batch<W> {
    pub(crate) opened: Instant,
    pub(crate) waiting: Waiting<W>,
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
    /// Maximum number of batches in flight while the latency is mostly the store.
    pub(crate) max_at_store: usize,
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
    pace: Pace,
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
            pace: Pace::new(limits.max_in_flight),
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
            self.mark_sent(&mut batch, now);
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
        let at_once = self.may_be_sent_at_once(now);
        if self.in_flight < self.max_in_flight(at_once)
            && let Some(batch) = self.take_next_if(now, |batch| {
                at_once || batch.alone || batch.waiting.len() >= limits.min_for_extra_batch
            })
        {
            return Admission::Dispatch(batch);
        }
        Admission::Waiting
    }

    /// Returns whether a lookup need not wait for company. It does after a timeout: what takes the
    /// time is then the store.
    fn may_be_sent_at_once(&self, now: Instant) -> bool {
        self.timeouts == 0 && self.pace.allows(now)
    }

    /// Returns how many batches may be in flight at present.
    const fn max_in_flight(&self, at_once: bool) -> usize {
        match (self.timeouts, at_once) {
            (2.., _) => 1,
            (_, true) => self.limits.max_in_flight,
            (_, false) => self.limits.max_at_store,
        }
    }

    /// Removes the oldest batch that may be dispatched, if it fulfills the condition.
    fn take_next_if(
        &mut self,
        now: Instant,
        wanted: impl FnOnce(&Batch<W>) -> bool,
    ) -> Option<Batch<W>> {
        let alone_in_flight = self.alone_in_flight;
        let may_be_sent = |batch: &Batch<W>| !(batch.alone && alone_in_flight);
        let place = self.batches.iter().position(may_be_sent)?;
        self.batches.get(place).filter(|batch| wanted(batch))?;
        let mut batch = self.batches.remove(place)?;
        self.waiting -= batch.waiting.waiters();
        self.mark_sent(&mut batch, now);
        Some(batch)
    }

    fn mark_sent(&mut self, batch: &mut Batch<W>, now: Instant) {
        self.pace.sent(now);
        batch.skip_if_late = batch.alone || self.timeouts > 0;
        self.in_flight += 1;
        self.alone_in_flight |= batch.alone;
    }

    /// Records how long a query with this many digests took. It must have succeeded.
    pub(crate) fn query_took(&mut self, time: Duration, digests: usize) {
        self.pace.took(time, digests);
    }

    /// Records that a batch with these digests completed. Returns the batch that the caller must
    /// send next.
    pub(crate) fn batch_completed(
        &mut self,
        digests: &[TokenDigest],
        alone: bool,
        outcome: BatchOutcome,
        now: Instant,
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
        if self.in_flight < self.max_in_flight(self.may_be_sent_at_once(now)) {
            self.take_next_if(now, |_| true)
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

    /// Returns the number of waiters in batches that wait, and of batches in flight.
    pub(crate) const fn load(&self) -> (usize, usize) {
        (self.waiting, self.in_flight)
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }
}

impl<W> Batch<W> {
    fn new(waiters: RequestDigests<W>, now: Instant, alone: bool, expected: usize) -> Self {
        let mut batch = Self {
            opened: now,
            waiting: Waiting::with_capacity(expected),
            alone,
            skip_if_late: false,
        };
        batch.add(waiters);
        batch
    }

    fn add(&mut self, waiters: RequestDigests<W>) {
        for (digest, waiter) in waiters {
            self.waiting.add(digest, waiter);
        }
    }

    /// Returns how many of these digests are not in the batch.
    fn count_new(&self, waiters: &RequestDigests<W>) -> usize {
        let new = waiters
            .iter()
            .filter(|(digest, _)| !self.waiting.contains(digest));
        new.count()
    }

    fn has_room_for(&self, waiters: &RequestDigests<W>, now: Instant, limits: Limits) -> bool {
        let has_room = self.waiting.len() + waiters.len() <= limits.max_digests
            || self.waiting.len() + self.count_new(waiters) <= limits.max_digests;
        has_room && now < self.opened + limits.max_batch_age
    }
}

#[cfg(test)]
mod tests;
