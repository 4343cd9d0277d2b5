//! The tasks that send batches of lookups to the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use crate::{
    lookup::{
        pending::Waiter,
        queue::{Admission, Batch, BatchOutcome, Limits, Queue, RequestDigests},
        runner::BatchRunner,
    },
    store::SessionLookup,
};

/// The queue of batches, and the runtime whose tasks send them.
///
/// All batches run on one runtime: the runtime of the first lookup. If that runtime shuts down,
/// every waiter fails at once, and the runtime of the next lookup replaces it. If the runtime is
/// not polled, lookups still end at their deadlines, because every waiter has a timer of its own.
pub(crate) struct BatchQueue<L: SessionLookup> {
    runner: BatchRunner<L>,
    state: Mutex<State<L::User>>,
    idle: Notify,
}

struct State<U> {
    queue: Queue<Waiter<U>>,
    runtime: Option<Handle>,
    closed: bool,
}

/// The result of adding a lookup to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    /// The lookup is part of a batch.
    Queued,
    /// The queue is full.
    Overloaded,
    /// The service is closed.
    Closed,
}

impl<L: SessionLookup> BatchQueue<L> {
    pub(crate) fn new(limits: Limits, runner: BatchRunner<L>) -> Self {
        Self {
            runner,
            state: Mutex::new(State {
                queue: Queue::new(limits),
                runtime: None,
                closed: false,
            }),
            idle: Notify::new(),
        }
    }

    /// Adds the digests to one batch that has not been dispatched. Must be called in a runtime.
    pub(crate) fn join(
        self: &Arc<Self>,
        waiters: RequestDigests<Waiter<L::User>>,
        now: Instant,
    ) -> Enqueued {
        let mut state = self.state();
        if state.closed {
            return Enqueued::Closed;
        }
        match state.queue.admit(waiters, now.into_std()) {
            Admission::Dispatch(batch) => {
                let runtime = state.runtime.get_or_insert_with(Handle::current).clone();
                drop(state);
                BatchWorker::start(Arc::clone(self), batch, &runtime);
                Enqueued::Queued
            }
            Admission::Waiting => Enqueued::Queued,
            Admission::Overloaded => Enqueued::Overloaded,
        }
    }

    /// Returns the number of waiting lookups, and of queries in flight.
    pub(crate) fn load(&self) -> (u64, u64) {
        let (waiting, in_flight) = self.state().queue.load();
        (waiting as u64, in_flight as u64)
    }

    /// Rejects later lookups, and waits for the lookups in flight.
    pub(crate) async fn close(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let mut state = self.state();
                state.closed = true;
                if state.queue.is_idle() {
                    return;
                }
            }
            idle.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<L::User>> {
        // No code panics while it holds the lock. Even after a panic, the state would still be
        // consistent, because each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that sends batches until no batch is left.
///
/// The value is created before the task is spawned. Its `Drop` therefore always updates the queue,
/// even if the store panics, or if the runtime shuts down before the task was polled.
struct BatchWorker<L: SessionLookup> {
    queue: Arc<BatchQueue<L>>,
    /// The first batch, until the task is polled.
    first: Option<Batch<Waiter<L::User>>>,
    /// Whether the batch in flight has a suspect.
    alone: bool,
    /// Whether another runtime shut down before the first batch was sent.
    moved: bool,
    finished: bool,
}

impl<L: SessionLookup> BatchWorker<L> {
    fn start(queue: Arc<BatchQueue<L>>, batch: Batch<Waiter<L::User>>, runtime: &Handle) {
        Self {
            queue,
            alone: batch.alone,
            first: Some(batch),
            moved: false,
            finished: false,
        }
        .spawn(runtime);
    }

    fn spawn(self, runtime: &Handle) {
        runtime.spawn(async move {
            let mut worker = self;
            let mut next = worker.first.take();
            while let Some(batch) = next {
                worker.alone = batch.alone;
                let (digests, outcome, time) = worker.queue.runner.run_batch(batch).await;
                let now = Instant::now().into_std();
                let mut state = worker.queue.state();
                if let Some(time) = time {
                    state.queue.query_took(time, digests.len());
                }
                next = state
                    .queue
                    .batch_completed(&digests, worker.alone, outcome, now);
            }
            worker.finished = true;
            worker.queue.idle.notify_waiters();
        });
    }
}

impl<L: SessionLookup> Drop for BatchWorker<L> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (first, current) = (self.first.take(), Handle::try_current());
        let queue = &self.queue;
        let mut state = queue.state();
        match (first, current) {
            // The runtime of an earlier lookup shut down while no batch was in flight.
            (first @ Some(_), Ok(runtime)) if !self.moved => {
                state.runtime = Some(runtime.clone());
                drop(state);
                let worker = Self {
                    queue: Arc::clone(&self.queue),
                    first,
                    alone: self.alone,
                    moved: true,
                    finished: false,
                };
                return worker.spawn(&runtime);
            }
            // The store panicked. The waiters of this batch fail because their sender is dropped.
            // The other batches continue.
            (None, Ok(runtime)) if std::thread::panicking() => {
                let now = Instant::now().into_std();
                if let Some(batch) =
                    state
                        .queue
                        .batch_completed(&[], self.alone, BatchOutcome::NotSent, now)
                {
                    drop(state);
                    return Self::start(Arc::clone(&self.queue), batch, &runtime);
                }
            }
            // The runtime is shutting down. All waiters fail because their sender is dropped.
            (first, _) => {
                let abandoned = state.queue.abandon(self.alone);
                drop(state);
                drop((first, abandoned));
            }
        }
        queue.idle.notify_waiters();
    }
}
