//! Entry point of session lookups: coalesces concurrent lookups into batched queries.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep},
};

use crate::{
    deadline::timer,
    error::{Error, ErrorKind},
    lookup::{
        inline::InlineHandle,
        pending::{PendingLookup, PendingLookups, Waiter},
        queue::{Limits, RequestDigests},
        runner::BatchRunner,
        span::LookupSpan,
        worker::{BatchQueue, Enqueued},
    },
    metrics::counters::{Counter, Counters},
    session::TokenDigest,
    store::{
        SessionLookup,
        lookup::{MAX_CONCURRENT_LOOKUPS, STATEMENTS_PER_CONNECTION},
    },
};

/// Minimum number of waiting digests for a second batch while another batch is in flight. With
/// fewer digests, the second query costs more than it saves. Values from 2 to 24 were measured.
const MIN_FOR_EXTRA_BATCH: usize = 4;
/// Maximum number of digests in one query. With more digests, PostgreSQL chooses a plan for many
/// rows.
const MAX_DIGESTS_PER_BATCH: usize = 128;
/// Maximum number of waiters. Their lookups take a few hundred milliseconds. A further lookup would
/// only time out.
const MAX_WAITERS: usize = 16_384;

/// Returns how many queries may be in flight while the latency is mostly the store. The store is
/// assumed to have as many processors as this process, because their number is not known.
pub(super) fn max_at_store(max_in_flight: usize, processors: usize) -> usize {
    let connections = max_in_flight / STATEMENTS_PER_CONNECTION;
    connections
        .min(processors)
        .max(MAX_CONCURRENT_LOOKUPS)
        .min(max_in_flight)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

pub(crate) struct LookupBatcher<L: SessionLookup> {
    queue: Arc<BatchQueue<L>>,
    metrics: Arc<Counters>,
    deadline: Duration,
}

impl<L: SessionLookup> LookupBatcher<L> {
    pub(crate) fn new(runner: BatchRunner<L>) -> Self {
        let deadline = runner.deadline;
        let max_in_flight = runner.store.max_concurrent_lookups().max(1);
        let limits = Limits {
            max_in_flight,
            max_at_store: max_at_store(max_in_flight, processors()),
            max_digests: MAX_DIGESTS_PER_BATCH,
            min_for_extra_batch: MIN_FOR_EXTRA_BATCH,
            max_waiters: MAX_WAITERS,
            max_batch_age: deadline / 4,
        };
        Self {
            metrics: Arc::clone(&runner.metrics),
            queue: Arc::new(BatchQueue::new(limits, runner)),
            deadline,
        }
    }

    /// Looks up one digest. The lookup is in the queue when this method returns.
    ///
    /// A session that ended before the call is not reported as live.
    pub(crate) fn submit(&self, digest: TokenDigest) -> PendingLookup<L::User> {
        let (sender, result) = oneshot::channel();
        let waiter = Waiter {
            result: sender,
            only_token: true,
            span: LookupSpan::new(),
        };
        match self.join(SmallVec::from_buf([(digest, waiter)])) {
            Ok((deadline, inline)) => PendingLookup::waiting(result, deadline, inline),
            Err(error) => PendingLookup::failed(error),
        }
    }

    /// Looks up the digests of one request in one batch, and bypasses the cache.
    ///
    /// None of the sessions counts as used. The caller decides which session belongs to the
    /// request.
    pub(crate) fn submit_together(
        &self,
        digests: &[TokenDigest],
    ) -> Result<PendingLookups<L::User>, Error> {
        let mut results = Vec::with_capacity(digests.len());
        let waiters = digests.iter().map(|digest| {
            let (sender, result) = oneshot::channel();
            results.push(result);
            let waiter = Waiter {
                result: sender,
                only_token: false,
                span: LookupSpan::new(),
            };
            (*digest, waiter)
        });
        let (deadline, inline) = self.join(waiters.collect())?;
        // Becomes a task.
        drop(inline);
        Ok(PendingLookups { results, deadline })
    }

    /// Adds lookups to a batch, and returns a timer for their deadline.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] if the queue is full. [`ErrorKind::Closed`] if the service is
    /// closed.
    fn join(
        &self,
        waiters: RequestDigests<Waiter<L::User>>,
    ) -> Result<(Sleep, Option<InlineHandle>), Error> {
        let lookups = waiters.len() as u64;
        let joined = self.enqueue(waiters);
        if joined.is_err() {
            self.metrics.add(Counter::LookupsFailed, lookups);
        }
        joined
    }

    fn enqueue(
        &self,
        waiters: RequestDigests<Waiter<L::User>>,
    ) -> Result<(Sleep, Option<InlineHandle>), Error> {
        let now = Instant::now();
        let deadline = timer(now + self.deadline)?;
        match self.queue.join(waiters, now) {
            Enqueued::Queued => Ok((deadline, None)),
            Enqueued::Inline(inline) => Ok((deadline, Some(inline))),
            Enqueued::Overloaded => Err(Error::from_kind(ErrorKind::Overloaded)),
            Enqueued::Closed => Err(Error::from_kind(ErrorKind::Closed)),
        }
    }

    /// Returns the number of lookups that wait, and of batches in flight.
    pub(crate) fn load(&self) -> (u64, u64) {
        self.queue.load()
    }

    /// Rejects later lookups, and waits for the lookups in flight.
    pub(crate) async fn close(&self) {
        self.queue.close().await;
    }
}
