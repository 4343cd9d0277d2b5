//! A batch worker that the caller of its only lookup polls.
//!
//! A task of its own for a lookup that is alone costs two task switches. Therefore the caller polls
//! the worker. The worker becomes a task if another lookup begins, if the caller is dropped, or if
//! the service is closed. A caller that is not polled, or that does not yield after its lookup, thus
//! delays only its own lookup.

use std::{
    future::Future,
    mem::replace,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::runtime::Handle;

/// Returns whether other batches are in flight.
type Worker = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A worker that is polled by its caller until it becomes a task or finishes.
pub(crate) struct InlineWorker {
    worker: Mutex<State>,
    runtime: Handle,
}

enum State {
    /// The waker is the caller's.
    Waiting(Worker, Option<Waker>),
    /// The caller polls it.
    Polled,
    /// The caller polls it, and must then make it a task.
    Wanted,
    /// It is a task or has finished.
    Gone,
}

/// The caller's handle. If it is dropped, the worker becomes a task.
pub(crate) struct InlineHandle(Arc<InlineWorker>);

impl InlineWorker {
    pub(super) fn new(worker: Worker, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            worker: Mutex::new(State::Waiting(worker, None)),
            runtime,
        })
    }

    /// Makes the worker a task, unless it has finished.
    pub(super) fn move_to_task(&self) {
        let mut state = self.state();
        match replace(&mut *state, State::Gone) {
            State::Waiting(worker, caller) => {
                drop(state);
                self.start_task(worker);
                if let Some(caller) = caller {
                    caller.wake();
                }
            }
            State::Polled | State::Wanted => *state = State::Wanted,
            State::Gone => {}
        }
    }

    fn start_task(&self, worker: Worker) {
        self.runtime.spawn(worker);
        self.share_next_task();
    }

    /// Lets another thread of the runtime run the task that was last spawned or woken on this
    /// thread.
    ///
    /// Tokio runs that task next on this thread, and no other thread can take it. If a caller does
    /// not yield after its lookup, the lookups that depend on the task would wait for that caller.
    /// Therefore an empty task replaces it.
    fn share_next_task(&self) {
        self.runtime.spawn(async {});
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InlineHandle {
    pub(super) const fn new(inline: Arc<InlineWorker>) -> Self {
        Self(inline)
    }

    /// Polls the worker, and returns whether the caller must poll it again. Otherwise the result is
    /// there, or a task sends it. The lock is not held meanwhile, because the worker calls the
    /// application. The worker runs in the context of its own runtime, even if the caller moved.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> bool {
        let State::Waiting(mut worker, caller) = self.take() else {
            return false;
        };
        let _context = self.0.runtime.enter();
        // A panic ends the worker as it ends a task: its lookups fail.
        let polled = catch_unwind(AssertUnwindSafe(|| worker.as_mut().poll(cx)));
        let mut state = self.0.state();
        match (polled, &*state) {
            (Ok(Poll::Pending), State::Wanted) => {
                *state = State::Gone;
                drop(state);
                self.0.start_task(worker);
                false
            }
            (Ok(Poll::Pending), _) => {
                let caller = caller.filter(|caller| caller.will_wake(cx.waker()));
                let caller = caller.unwrap_or_else(|| cx.waker().clone());
                *state = State::Waiting(worker, Some(caller));
                true
            }
            (ended, _) => {
                *state = State::Gone;
                drop(state);
                // The worker may have spawned the next batch, or may have woken another one.
                if !matches!(ended, Ok(Poll::Ready(false))) {
                    self.0.share_next_task();
                }
                false
            }
        }
    }

    fn take(&self) -> State {
        let mut state = self.0.state();
        match &*state {
            State::Waiting(..) => replace(&mut *state, State::Polled),
            _ => State::Gone,
        }
    }
}

impl Drop for InlineHandle {
    fn drop(&mut self) {
        self.0.move_to_task();
    }
}
