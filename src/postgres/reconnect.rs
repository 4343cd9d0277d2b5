//! Backoff between connection attempts.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{backoff::Backoff, error::Error};

/// The first pause. Each further failure doubles the pause, up to `MAX_PAUSE`. The pauses protect a
/// starting server from a burst of attempts. A server that is available again is used within a
/// tenth of a second.
const MIN_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// Rejects requests for a connection with the last error while a pause lasts.
#[derive(Debug, Default)]
pub(super) struct Reconnect(Mutex<Option<Pause>>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    backoff: Backoff,
    error: Error,
}

impl Reconnect {
    /// Fails with the last error if the pause after that error has not ended.
    pub(super) fn ensure_allowed(&self) -> Result<(), Error> {
        match &*self.lock() {
            Some(pause) if Instant::now() < pause.until => Err(pause.error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&self, error: &Error) {
        let mut pause = self.lock();
        let backoff = pause.take().map(|pause| pause.backoff);
        let mut backoff = backoff.unwrap_or(Backoff::new(MIN_PAUSE, MAX_PAUSE));
        *pause = Some(Pause {
            until: Instant::now() + backoff.pause(),
            backoff,
            error: error.clone(),
        });
    }

    pub(super) fn succeeded(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
