//! The tasks that carry batches to the store: of lookups, and of sign-outs.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;
use tokio::{
    runtime::{self, Handle},
    sync::Notify,
    time::Instant,
};

use super::{
    TokenDigest,
    batch::{Admission, Batch, Limits, Queue},
};

/// What carries one kind of batch to the store, and tells whoever waits what became of their digest.
pub(super) trait Carrier: Clone + Send + 'static {
    type Waiter: Send + 'static;

    fn batches(&self) -> &Batches<Self::Waiter>;

    fn carry(&self, batch: Batch<Self::Waiter>) -> impl Future<Output = ()> + Send;
}

/// The batches of one kind, and where those in flight are carried.
pub(super) struct Batches<W> {
    state: Mutex<State<W>>,
    idle: Notify,
}

struct State<W> {
    queue: Queue<W>,
    runtimes: SmallVec<[runtime::Id; 2]>,
    closed: bool,
}

/// What became of a digest that was to go with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is on its way, or will be.
    Here,
    /// The same, but a batch in flight is carried by another runtime, which somebody has to drive.
    Elsewhere,
    /// There is no room.
    Overloaded,
    /// Nothing goes any more.
    Closed,
}

impl<W: Send + 'static> Batches<W> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                queue: Queue::new(limits),
                runtimes: SmallVec::new(),
                closed: false,
            }),
            idle: Notify::new(),
        }
    }

    /// Has the digest carried with a batch that has not been sent when this is called.
    pub(super) fn join<C: Carrier<Waiter = W>>(
        &self,
        carrier: &C,
        digest: TokenDigest,
        waiter: W,
        now: Instant,
        runtime: &Handle,
    ) -> Joined {
        let mut state = self.state();
        if state.closed {
            return Joined::Closed;
        }
        match state.queue.admit(digest, waiter, now.into_std()) {
            Admission::Send(batch) => {
                state.runtimes.push(runtime.id());
                drop(state);
                Flight::start(carrier.clone(), batch, runtime);
                Joined::Here
            }
            Admission::Waiting => {
                let mut carriers = state.runtimes.iter();
                if carriers.any(|carrier| *carrier != runtime.id()) {
                    Joined::Elsewhere
                } else {
                    Joined::Here
                }
            }
            Admission::Overloaded(_) => Joined::Overloaded,
        }
    }

    /// Lets nothing join any more, and waits for what is under way.
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

    fn state(&self) -> MutexGuard<'_, State<W>> {
        // Nothing panics while it is held, and if it did: every change is complete in one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that sends one batch after the other, until none is left.
///
/// It exists before the task is spawned, so that its `Drop` puts the queue in order however the task
/// ends: when the store panics, and when the runtime shuts down before the task was polled once.
struct Flight<C: Carrier> {
    carrier: C,
    runtime: runtime::Id,
    landed: bool,
}

impl<C: Carrier> Flight<C> {
    fn start(carrier: C, batch: Batch<C::Waiter>, runtime: &Handle) {
        let flight = Self {
            carrier,
            runtime: runtime.id(),
            landed: false,
        };
        runtime.spawn(async move {
            let mut flight = flight;
            let mut next = Some(batch);
            while let Some(batch) = next {
                flight.carrier.carry(batch).await;
                next = flight.next(&mut flight.carrier.batches().state());
            }
            flight.landed = true;
            flight.carrier.batches().idle.notify_waiters();
        });
    }

    /// What goes out now that a batch has returned. Where it is nothing, this flight is over.
    fn next(&self, state: &mut State<C::Waiter>) -> Option<Batch<C::Waiter>> {
        let next = state.queue.returned();
        if next.is_none() {
            self.is_over(state);
        }
        next
    }

    fn is_over(&self, state: &mut State<C::Waiter>) {
        if let Some(place) = state.runtimes.iter().position(|id| *id == self.runtime) {
            state.runtimes.swap_remove(place);
        }
    }
}

impl<C: Carrier> Drop for Flight<C> {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        let batches = self.carrier.batches();
        let mut state = batches.state();
        if let (true, Ok(runtime)) = (std::thread::panicking(), Handle::try_current()) {
            // The store panicked: its callers see their channel closed, the others go on.
            if let Some(batch) = self.next(&mut state) {
                drop(state);
                return Self::start(self.carrier.clone(), batch, &runtime);
            }
        } else {
            // The runtime is shutting down. Callers on another one see their channel closed.
            let abandoned = state.queue.abandon();
            self.is_over(&mut state);
            drop(state);
            drop(abandoned);
        }
        batches.idle.notify_waiters();
    }
}
