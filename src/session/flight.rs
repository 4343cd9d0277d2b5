//! The tasks that carry batches of lookups to the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    SessionLookup,
    answering::Outcome,
    batch::{Admission, Batch, Fate, Limits, Queue, Together},
    resolver::Resolver,
};

/// Where the answer to one lookup is sent.
pub(super) struct Waiter<U> {
    pub(super) answer: oneshot::Sender<Outcome<U>>,
    /// Whether the request presents no other token. Then a live session is the request's, and counts as used.
    pub(super) only: bool,
}

/// The queue of batches, and the runtime that carries them.
///
/// All batches are carried by one runtime: that of the first lookup. If it shuts down, every waiter fails at
/// once, and the next lookup's runtime takes its place. A runtime that is not driven delays no lookup beyond
/// its deadline, because every waiter has a timer of its own.
pub(super) struct Batches<U> {
    state: Mutex<State<U>>,
    idle: Notify,
}

struct State<U> {
    queue: Queue<Waiter<U>>,
    runtime: Option<Handle>,
    closed: bool,
}

/// The result of adding a lookup to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The lookup is part of a batch.
    Queued,
    /// The queue is full.
    Overloaded,
    /// The service is closed.
    Closed,
}

impl<U: Send + 'static> Batches<U> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Queue::new(limits),
                runtime: None,
                closed: false,
            }),
            idle: Notify::new(),
        }
    }

    /// Adds the digests to one batch that has not been sent yet.
    pub(super) fn join<L: SessionLookup<User = U>>(
        &self,
        resolver: &Arc<Resolver<L>>,
        waiters: Together<Waiter<U>>,
        now: Instant,
        current: &Handle,
    ) -> Joined {
        let mut state = self.state();
        if state.closed {
            return Joined::Closed;
        }
        match state.queue.admit(waiters, now.into_std()) {
            Admission::Send(batch) => {
                let runtime = state.runtime.get_or_insert_with(|| current.clone()).clone();
                drop(state);
                Flight::start(Arc::clone(resolver), batch, &runtime);
                Joined::Queued
            }
            Admission::Waiting => Joined::Queued,
            Admission::Overloaded => Joined::Overloaded,
        }
    }

    /// Rejects lookups from now on, and waits for those in flight.
    pub(super) async fn close(&self) {
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

    fn state(&self) -> MutexGuard<'_, State<U>> {
        // Nothing panics while it is held, and if it did: every change is complete in one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that sends one batch after the other, until none is left.
///
/// It exists before the task is spawned, so that its `Drop` puts the queue in order however the task
/// ends: when the store panics, and when the runtime shuts down before the task was polled once.
struct Flight<L: SessionLookup> {
    resolver: Arc<Resolver<L>>,
    /// Until the task is polled.
    first: Option<Batch<Waiter<L::User>>>,
    /// Whether the batch in flight is about a digest that has timed out before.
    alone: bool,
    /// Whether another runtime had shut down before the first batch was sent.
    moved: bool,
    landed: bool,
}

impl<L: SessionLookup> Flight<L> {
    fn start(resolver: Arc<Resolver<L>>, batch: Batch<Waiter<L::User>>, runtime: &Handle) {
        Self {
            resolver,
            alone: batch.alone,
            first: Some(batch),
            moved: false,
            landed: false,
        }
        .spawn(runtime);
    }

    fn spawn(self, runtime: &Handle) {
        runtime.spawn(async move {
            let mut flight = self;
            let mut next = flight.first.take();
            while let Some(batch) = next {
                flight.alone = batch.alone;
                let (digests, fate) = flight.resolver.answer(batch).await;
                let mut state = flight.batches().state();
                next = state.queue.returned(&digests, flight.alone, fate);
            }
            flight.landed = true;
            flight.batches().idle.notify_waiters();
        });
    }

    fn batches(&self) -> &Batches<L::User> {
        &self.resolver.lookups
    }
}

impl<L: SessionLookup> Drop for Flight<L> {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        let (first, current) = (self.first.take(), Handle::try_current());
        let batches = self.batches();
        let mut state = batches.state();
        match (first, current) {
            // The runtime of an earlier lookup shut down while nothing was in flight.
            (first @ Some(_), Ok(runtime)) if !self.moved => {
                state.runtime = Some(runtime.clone());
                drop(state);
                let flight = Self {
                    resolver: Arc::clone(&self.resolver),
                    first,
                    alone: self.alone,
                    moved: true,
                    landed: false,
                };
                return flight.spawn(&runtime);
            }
            // The store panicked: its waiters see their channel closed, and the other batches go on.
            (None, Ok(runtime)) if std::thread::panicking() => {
                if let Some(batch) = state.queue.returned(&[], self.alone, Fate::NotSent) {
                    drop(state);
                    return Self::start(Arc::clone(&self.resolver), batch, &runtime);
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
