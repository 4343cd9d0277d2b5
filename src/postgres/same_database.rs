//! Periodic verification that the feed and the store are connected to the same database.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    backoff::jittered,
    error::{Error, ErrorKind},
};

/// The average interval between verifications. With jitter, an interval is 10 to 30 seconds.
const INTERVAL: Duration = Duration::from_secs(20);
/// The pause before a retry, if the store has no connection for the verification.
const RETRY: Duration = Duration::from_secs(1);
/// The feed disconnects if no verification has succeeded for this long.
const MAX_TIME_WITHOUT_SUCCESS: Duration = Duration::from_secs(40);

/// Verifies the connection until a verification fails. `is_locked` returns whether the store sees
/// the advisory lock that the feed's connection holds.
pub(super) async fn verify_periodically<F: Future<Output = Result<bool, Error>>>(
    is_locked: impl Fn() -> F,
) -> Result<(), Error> {
    let mut last_success = Instant::now();
    loop {
        sleep(jittered(INTERVAL)).await;
        loop {
            match is_locked().await {
                Ok(true) => {
                    last_success = Instant::now();
                    break;
                }
                Ok(false) => {
                    return Err(different_database(
                        "the feed is connected to another database than the pool",
                    ));
                }
                Err(error) if last_success.elapsed() >= MAX_TIME_WITHOUT_SUCCESS => {
                    return Err(error);
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}

pub(super) fn different_database(message: &'static str) -> Error {
    Error::from_kind(ErrorKind::Configuration).with_message(message)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready, ops::RangeInclusive};

    use tokio::time::timeout;

    use super::*;

    /// A result of the store: it sees the lock, does not see it, or has no connection.
    #[derive(Clone, Copy)]
    enum Outcome {
        Locked,
        Free,
        Unavailable,
    }
    use Outcome::{Free, Locked, Unavailable};

    /// N04: each row lists the results of the store. The last result of a row repeats. The feed
    /// disconnects with this error kind within this many seconds, or stays connected.
    #[tokio::test(start_paused = true)]
    async fn feed_disconnects_without_verification_and_on_another_database() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let other = Some(ErrorKind::Configuration);
        let table: [(&[Outcome], Option<ErrorKind>, RangeInclusive<u64>); 7] = [
            (&[Locked], None, 3600..=3600),
            (&[Free], other, 10..=30),
            (&[Locked, Free], other, 20..=60),
            (&[Unavailable, Free], other, 11..=31),
            (&[Unavailable, Unavailable, Locked], None, 3600..=3600),
            // The time since the last successful verification counts; earlier failures do not.
            (
                &[Locked, Locked, Locked, Locked, Unavailable, Locked],
                None,
                3600..=3600,
            ),
            (&[Unavailable], Some(ErrorKind::Connection), 40..=41),
        ];
        for (outcomes, reason, seconds) in table {
            let (start, number) = (Instant::now(), Cell::new(0));
            let is_locked = || {
                let at = number.replace(number.get() + 1);
                ready(match outcomes[at.min(outcomes.len() - 1)] {
                    Locked => Ok(true),
                    Free => Ok(false),
                    Unavailable => Err(Error::from_kind(ErrorKind::Connection)),
                })
            };
            let ended = timeout(HOUR, verify_periodically(is_locked)).await;
            let ended = ended.ok().map(|ended| ended.unwrap_err().kind());
            assert_eq!(ended, reason, "{seconds:?}");
            let took = start.elapsed().as_secs();
            assert!(seconds.contains(&took), "{took}, not {seconds:?}");
            // Verifications are rare while they succeed. A failed verification is retried after a
            // second.
            assert!(number.get() <= 400, "{} verifications", number.get());
        }
    }
}
