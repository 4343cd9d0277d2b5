//! Pauses between attempts to connect to a server that cannot be had.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{backoff::Backoff, error::Error};

/// The pause after a first failure; it doubles up to the longest. So a server that is starting is not
/// stormed, and one that is back is found within a tenth of a second.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);

/// Between a failed attempt and the end of its pause, whoever wants a connection is told why there is none.
#[derive(Debug, Default)]
pub(super) struct Reconnect(Mutex<Option<Pause>>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    backoff: Backoff,
    error: Error,
}

impl Reconnect {
    /// Whether to try.
    pub(super) fn allowed(&self) -> Result<(), Error> {
        match &*self.lock() {
            Some(pause) if Instant::now() < pause.until => Err(pause.error.clone()),
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&self, error: &Error) {
        let mut pause = self.lock();
        let backoff = pause.take().map(|pause| pause.backoff);
        let mut backoff = backoff.unwrap_or(Backoff::new(SHORTEST, LONGEST));
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
