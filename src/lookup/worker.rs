//! The tasks that send batches of lookups to the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use crate::{
    lookup::{
        inline::{InlineHandle, InlineWorker},
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
    /// The worker that the caller of the only lookup in flight polls.
    inline: Option<Arc<InlineWorker>>,
    closed: bool,
}

/// The result of adding a lookup to the queue.
pub(crate) enum Enqueued {
    /// The lookup is part of a batch.
    Queued,
    /// The lookup is a batch alone. The caller must poll it.
    Inline(InlineHandle),
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
                inline: None,
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
        let is_alone = waiters.len() == 1 && state.queue.is_idle();
        let in_flight = state.inline.take();
        let mut enqueued = Enqueued::Queued;
        let mut worker = None;
        match state.queue.admit(waiters, now.into_std()) {
            Admission::Dispatch(batch) => {
                let current = Handle::current();
                let runtime = state.runtime.get_or_insert_with(|| current.clone());
                let new = BatchWorker::new(Arc::clone(self), batch);
                if is_alone && runtime.id() == current.id() {
                    let inline = InlineWorker::new(Box::pin(new.run_first()), current);
                    state.inline = Some(Arc::clone(&inline));
                    enqueued = Enqueued::Inline(InlineHandle::new(inline));
                } else {
                    worker = Some((new, runtime.clone()));
                }
            }
            Admission::Waiting => {}
            Admission::Overloaded => enqueued = Enqueued::Overloaded,
        }
        drop(state);
        // This lookup may wait for the batch in flight.
        if let Some(inline) = in_flight {
            inline.move_to_task();
        }
        if let Some((worker, runtime)) = worker {
            worker.spawn(&runtime);
        }
        enqueued
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
                let inline = state.inline.take();
                drop(state);
                if let Some(inline) = inline {
                    inline.move_to_task();
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

/// Sends batches until no batch is left. It is a task, or the caller of the first lookup polls it.
///
/// The value is created before it is polled. Its `Drop` therefore always updates the queue,
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
    const fn new(queue: Arc<BatchQueue<L>>, batch: Batch<Waiter<L::User>>) -> Self {
        Self {
            queue,
            alone: batch.alone,
            first: Some(batch),
            moved: false,
            finished: false,
        }
    }

    fn spawn(self, runtime: &Handle) {
        runtime.spawn(self.run());
    }

    /// Sends batches until none is left.
    async fn run(mut self) {
        let mut next = self.first.take();
        while let Some(batch) = next {
            next = self.send(batch).await;
        }
        self.finish();
    }

    /// Sends the first batch only. The next batch has the lookups of others, and is a new task.
    /// Returns whether other batches are in flight.
    async fn run_first(mut self) -> bool {
        if let Some(batch) = self.first.take()
            && let Some(next) = self.send(batch).await
        {
            Self::new(Arc::clone(&self.queue), next).spawn(&Handle::current());
        }
        let others = !self.queue.state().queue.is_idle();
        self.finish();
        others
    }

    /// Sends a batch. Returns the batch to send next.
    async fn send(&mut self, batch: Batch<Waiter<L::User>>) -> Option<Batch<Waiter<L::User>>> {
        self.alone = batch.alone;
        let (digests, outcome, time) = self.queue.runner.run_batch(batch).await;
        let now = Instant::now().into_std();
        let queue = &mut self.queue.state().queue;
        if let Some(time) = time {
            queue.query_took(time, digests.len());
        }
        queue.batch_completed(&digests, self.alone, outcome, now)
    }

    fn finish(mut self) {
        self.finished = true;
        self.queue.idle.notify_waiters();
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
                    return Self::new(Arc::clone(&self.queue), batch).spawn(&runtime);
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
