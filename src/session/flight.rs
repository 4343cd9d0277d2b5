//! The tasks that carry batches to the store.

use std::sync::Arc;

use tokio::runtime::{self, Handle};

use super::{
    SessionLookup,
    resolver::{Resolver, Sent, State},
};

/// The task that sends one batch after the other, until none is left.
///
/// It exists before the task is spawned, so that its `Drop` puts the queue in order however the task
/// ends: when the store panics, and when the runtime shuts down before the task was polled once.
pub(super) struct Flight<L: SessionLookup> {
    resolver: Arc<Resolver<L>>,
    runtime: runtime::Id,
    landed: bool,
}

impl<L: SessionLookup> Flight<L> {
    pub(super) fn start(resolver: Arc<Resolver<L>>, batch: Sent<L::User>, runtime: &Handle) {
        let flight = Self {
            resolver,
            runtime: runtime.id(),
            landed: false,
        };
        runtime.spawn(async move {
            let mut flight = flight;
            let mut next = Some(batch);
            while let Some(batch) = next {
                flight.resolver.answer(batch).await;
                next = flight.next(&mut flight.resolver.state());
            }
            flight.landed = true;
            flight.resolver.idle.notify_waiters();
        });
    }

    /// What goes out now that a batch has returned. Where it is nothing, this flight is over.
    fn next(&self, state: &mut State<L::User>) -> Option<Sent<L::User>> {
        let next = state.queue.returned();
        if next.is_none() {
            self.is_over(state);
        }
        next
    }

    fn is_over(&self, state: &mut State<L::User>) {
        if let Some(place) = state.runtimes.iter().position(|id| *id == self.runtime) {
            state.runtimes.swap_remove(place);
        }
    }
}

impl<L: SessionLookup> Drop for Flight<L> {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        let mut state = self.resolver.state();
        if let (true, Ok(runtime)) = (std::thread::panicking(), Handle::try_current()) {
            // The store panicked: its callers see their channel closed, the others go on.
            if let Some(batch) = self.next(&mut state) {
                drop(state);
                return Self::start(Arc::clone(&self.resolver), batch, &runtime);
            }
        } else {
            // The runtime is shutting down. Callers on another one see their channel closed.
            let abandoned = state.queue.abandon();
            self.is_over(&mut state);
            drop(state);
            drop(abandoned);
        }
        self.resolver.idle.notify_waiters();
    }
}
