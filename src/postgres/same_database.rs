//! The repeated proof that the feed and the store are connected to the same database.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    backoff::jittered,
    error::{Error, ErrorKind},
};

/// Between two proofs, on average. With the jitter it is 10 to 30 seconds.
const INTERVAL: Duration = Duration::from_secs(20);
/// Between attempts, if the store has no connection for the proof.
const RETRY: Duration = Duration::from_secs(1);
/// Without a proof for this long, the feed disconnects.
const LONGEST_WITHOUT_PROOF: Duration = Duration::from_secs(40);

/// Ends when the proof fails. `is_locked` tells whether the store sees the lock that the feed's connection holds.
pub(super) async fn prove_again_and_again<F: Future<Output = Result<bool, Error>>>(
    is_locked: impl Fn() -> F,
) -> Result<(), Error> {
    let mut proved = Instant::now();
    loop {
        sleep(jittered(INTERVAL)).await;
        loop {
            match is_locked().await {
                Ok(true) => {
                    proved = Instant::now();
                    break;
                }
                Ok(false) => {
                    return Err(elsewhere(
                        "the feed is connected to another database than the pool",
                    ));
                }
                Err(error) if proved.elapsed() >= LONGEST_WITHOUT_PROOF => return Err(error),
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}

pub(super) fn elsewhere(context: &'static str) -> Error {
    Error::from_kind(ErrorKind::Configuration).with_message(context)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready, ops::RangeInclusive};

    use tokio::time::timeout;

    use super::*;

    /// What the store answers: whether it sees the lock, or that it has no connection.
    #[derive(Clone, Copy)]
    enum Answer {
        Locked,
        Free,
        Unavailable,
    }
    use Answer::{Free, Locked, Unavailable};

    /// N04: after these answers, of which the last one repeats, the feed disconnects for this reason within so many
    /// seconds, or stays connected.
    #[tokio::test(start_paused = true)]
    async fn a_feed_disconnects_without_a_proof_and_on_another_database() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let other = Some(ErrorKind::Configuration);
        let table: [(&[Answer], Option<ErrorKind>, RangeInclusive<u64>); 7] = [
            (&[Locked], None, 3600..=3600),
            (&[Free], other, 10..=30),
            (&[Locked, Free], other, 20..=60),
            (&[Unavailable, Free], other, 11..=31),
            (&[Unavailable, Unavailable, Locked], None, 3600..=3600),
            // The time since the last proof counts, and no longer one.
            (
                &[Locked, Locked, Locked, Locked, Unavailable, Locked],
                None,
                3600..=3600,
            ),
            (&[Unavailable], Some(ErrorKind::Connection), 40..=41),
        ];
        for (answers, reason, seconds) in table {
            let (start, number) = (Instant::now(), Cell::new(0));
            let is_locked = || {
                let at = number.replace(number.get() + 1);
                ready(match answers[at.min(answers.len() - 1)] {
                    Locked => Ok(true),
                    Free => Ok(false),
                    Unavailable => Err(Error::from_kind(ErrorKind::Connection)),
                })
            };
            let ended = timeout(HOUR, prove_again_and_again(is_locked)).await;
            let ended = ended.ok().map(|ended| ended.unwrap_err().kind());
            assert_eq!(ended, reason, "{seconds:?}");
            let took = start.elapsed().as_secs();
            assert!(seconds.contains(&took), "{took}, not {seconds:?}");
            // A proof is rare while it succeeds, and repeated soon while it cannot be made.
            assert!(number.get() <= 400, "{} proofs", number.get());
        }
    }
}
