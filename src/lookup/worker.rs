//! The tasks that carry batches of lookups to the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{runtime::Handle, sync::Notify, time::Instant};

use crate::{
    lookup::{
        pending::Waiter,
        queue::{Admission, Batch, Fate, Limits, Queue, Together},
        runner::BatchRunner,
    },
    store::SessionLookup,
};

/// The queue of batches, and the runtime that carries them.
///
/// All batches are carried by one runtime: that of the first lookup. If it shuts down, every waiter fails at
/// once, and the next lookup's runtime takes its place. A runtime that is not driven delays no lookup beyond
/// its deadline, because every waiter has a timer of its own.
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

    /// Adds the digests to one batch that has not been sent yet.
    pub(crate) fn join(
        self: &Arc<Self>,
        waiters: Together<Waiter<L::User>>,
        now: Instant,
        current: &Handle,
    ) -> Enqueued {
        let mut state = self.state();
        if state.closed {
            return Enqueued::Closed;
        }
        match state.queue.admit(waiters, now.into_std()) {
            Admission::Dispatch(batch) => {
                let runtime = state.runtime.get_or_insert_with(|| current.clone()).clone();
                drop(state);
                BatchWorker::start(Arc::clone(self), batch, &runtime);
                Enqueued::Queued
            }
            Admission::Waiting => Enqueued::Queued,
            Admission::Overloaded => Enqueued::Overloaded,
        }
    }

    /// Rejects lookups from now on, and waits for those in flight.
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
        // Nothing panics while it is held, and if it did: every change is complete in one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that sends one batch after the other, until none is left.
///
/// It exists before the task is spawned, so that its `Drop` puts the queue in order however the task
/// ends: when the store panics, and when the runtime shuts down before the task was polled once.
struct BatchWorker<L: SessionLookup> {
    batches: Arc<BatchQueue<L>>,
    /// Until the task is polled.
    first: Option<Batch<Waiter<L::User>>>,
    /// Whether the batch in flight is about a digest that has timed out before.
    alone: bool,
    /// Whether another runtime had shut down before the first batch was sent.
    moved: bool,
    finished: bool,
}

impl<L: SessionLookup> BatchWorker<L> {
    fn start(batches: Arc<BatchQueue<L>>, batch: Batch<Waiter<L::User>>, runtime: &Handle) {
        Self {
            batches,
            alone: batch.alone,
            first: Some(batch),
            moved: false,
            finished: false,
        }
        .spawn(runtime);
    }

    fn spawn(self, runtime: &Handle) {
        runtime.spawn(async move {
            let mut flight = self;
            let mut next = flight.first.take();
            while let Some(batch) = next {
                flight.alone = batch.alone;
                let (digests, fate) = flight.batches.runner.run_batch(batch).await;
                let mut state = flight.batches.state();
                next = state.queue.batch_completed(&digests, flight.alone, fate);
            }
            flight.finished = true;
            flight.batches.idle.notify_waiters();
        });
    }
}

impl<L: SessionLookup> Drop for BatchWorker<L> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (first, current) = (self.first.take(), Handle::try_current());
        let batches = &self.batches;
        let mut state = batches.state();
        match (first, current) {
            // The runtime of an earlier lookup shut down while nothing was in flight.
            (first @ Some(_), Ok(runtime)) if !self.moved => {
                state.runtime = Some(runtime.clone());
                drop(state);
                let flight = Self {
                    batches: Arc::clone(&self.batches),
                    first,
                    alone: self.alone,
                    moved: true,
                    finished: false,
                };
                return flight.spawn(&runtime);
            }
            // The store panicked: its waiters see their channel closed, and the other batches go on.
            (None, Ok(runtime)) if std::thread::panicking() => {
                if let Some(batch) = state.queue.batch_completed(&[], self.alone, Fate::NotSent) {
                    drop(state);
                    return Self::start(Arc::clone(&self.batches), batch, &runtime);
                }
            }
            // The runtime is shutting down: the waiters see their channel closed.
            (first, _) => {
                let abandoned = state.queue.abandon(self.alone);
                state.runtime = None;
                drop(state);
                drop((first, abandoned));
            }
        }
        batches.idle.notify_waiters();
    }
}
