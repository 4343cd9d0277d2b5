//! Deadline timers on the caller's runtime.

use std::{panic::catch_unwind, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep_until},
};

use crate::error::{Error, ErrorKind};

/// Returns a timer that fires at this time.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] outside a tokio runtime, and inside a runtime without timers.
pub(crate) fn timer(at: Instant) -> Result<Sleep, Error> {
    if Handle::try_current().is_err() {
        return Err(configuration(
            "no tokio runtime: sessions must be used inside one",
        ));
    }
    // tokio has no other way to detect a runtime without timers.
    catch_unwind(|| sleep_until(at)).map_err(|_| {
        configuration("the tokio runtime has no timers: build it with Builder::enable_time")
    })
}

/// Awaits the operation, at most for `limit`.
///
/// # Errors
///
/// * [`ErrorKind::Deadline`] if `limit` passes first. The outcome is then unknown.
/// * The errors of [`timer`] and of the operation.
pub(crate) async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let timer = timer(Instant::now() + limit)?;
    tokio::select! {
        biased;
        outcome = operation => outcome,
        () = timer => Err(Error::from_kind(ErrorKind::Deadline).with_outcome_unknown()),
    }
}

fn configuration(context: &'static str) -> Error {
    Error::from_kind(ErrorKind::Configuration).with_message(context)
}
