//! Takes lookups in, and gathers them in batches.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, Sleep},
};

use crate::{
    deadline::timer,
    error::{Error, ErrorKind},
    lookup::{
        pending::{PendingLookup, Several, Waiter},
        queue::{Limits, Together},
        runner::BatchRunner,
        worker::{BatchQueue, Enqueued},
    },
    session::TokenDigest,
    store::{SessionLookup, lookup::MAX_CONCURRENT_LOOKUPS},
};

/// Below this a statement costs more than it saves: measured with 2 to 24.
const MIN_FOR_EXTRA_BATCH: usize = 4;
/// Beyond this the planner takes the statement for one over many rows.
const MAX_DIGESTS_PER_BATCH: usize = 128;
/// Some tenths of a second of work: whoever comes after that waits in vain.
const MAX_WAITERS: usize = 16_384;

pub(crate) struct LookupBatcher<L: SessionLookup> {
    queue: Arc<BatchQueue<L>>,
    deadline: Duration,
}

impl<L: SessionLookup> LookupBatcher<L> {
    pub(crate) fn new(runner: BatchRunner<L>) -> Self {
        let deadline = runner.deadline;
        let limits = Limits {
            in_flight: MAX_CONCURRENT_LOOKUPS,
            digests: MAX_DIGESTS_PER_BATCH,
            min_for_extra_batch: MIN_FOR_EXTRA_BATCH,
            waiting: MAX_WAITERS,
            max_batch_age: deadline / 4,
        };
        Self {
            queue: Arc::new(BatchQueue::new(limits, runner)),
            deadline,
        }
    }

    /// Asks whose session this is. The question counts as asked when this returns.
    pub(crate) fn submit(&self, digest: TokenDigest) -> PendingLookup<L::User> {
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter {
            answer: sender,
            only: true,
        };
        match self.join(SmallVec::from_buf([(digest, waiter)])) {
            Ok(deadline) => PendingLookup::waiting(answer, deadline),
            Err(error) => PendingLookup::failed(error),
        }
    }

    /// Asks about the digests of one request in one batch, past the cache. None of their sessions counts as
    /// used: the caller decides which of them is the request's.
    pub(crate) fn submit_together(
        &self,
        digests: &[TokenDigest],
    ) -> Result<Several<L::User>, Error> {
        let mut answers = Vec::with_capacity(digests.len());
        let waiters = digests.iter().map(|digest| {
            let (sender, answer) = oneshot::channel();
            answers.push(answer);
            let waiter = Waiter {
                answer: sender,
                only: false,
            };
            (*digest, waiter)
        });
        let deadline = self.join(waiters.collect())?;
        Ok(Several { answers, deadline })
    }

    /// Adds lookups to a batch, and returns a timer for their deadline.
    fn join(&self, waiters: Together<Waiter<L::User>>) -> Result<Sleep, Error> {
        let now = Instant::now();
        let deadline = timer(now + self.deadline)?;
        match self.queue.join(waiters, now, &Handle::current()) {
            Enqueued::Queued => Ok(deadline),
            Enqueued::Overloaded => Err(Error::from_kind(ErrorKind::Overloaded)),
            Enqueued::Closed => Err(Error::from_kind(ErrorKind::Closed)),
        }
    }

    /// Rejects lookups from now on, and waits for those in flight.
    pub(crate) async fn close(&self) {
        self.queue.close().await;
    }
}
