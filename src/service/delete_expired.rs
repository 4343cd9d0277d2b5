//! Deletion of expired sessions.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    backoff::jittered,
    deadline::within,
    error::{Chain, Error},
    metrics::counters::Counter,
    service::SessionService,
    store::SessionStore,
};

/// The time limit of one batch. It may exceed the deadline, because no request waits for a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// The mean delay before the first round. The delay keeps the load away from the startup.
const FIRST_ROUND_DELAY: Duration = Duration::from_secs(30);

/// # Deletion of expired sessions
///
/// An expired session is invalid even if its row still exists. The deletion only frees disk space.
impl<S: SessionStore> SessionService<S> {
    /// Deletes all expired sessions once, and returns their number.
    ///
    /// The method deletes in small batches. Each batch is a transaction that skips locked rows.
    /// After each batch the method pauses for as long as the batch took, so that lookups stay
    /// fast.
    /// The deletion needs no index.
    ///
    /// If another process is deleting expired sessions, this call ends early.
    /// The other process continues.
    ///
    /// # Errors
    ///
    /// If a batch fails or takes longer than 60 seconds. Earlier batches stay deleted.
    ///
    /// # Cancellation
    ///
    /// Completed batches stay deleted. A batch in progress may or may not take effect.
    pub async fn delete_expired(&self) -> Result<u64, Error> {
        let outcome = self.delete_in_batches().await;
        if outcome.is_err() {
            self.count(Counter::DeletionsFailed);
        }
        outcome
    }

    async fn delete_in_batches(&self) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut place = None;
        loop {
            let start = Instant::now();
            let batch = within(BATCH_TIMEOUT, self.store().delete_expired(place));
            let batch = batch.await?;
            self.counters().add(Counter::ExpiredDeleted, batch.sessions);
            deleted += batch.sessions;
            place = batch.next;
            if place.is_none() {
                return Ok(deleted);
            }
            sleep(start.elapsed()).await;
        }
    }

    /// Deletes expired sessions repeatedly, about once per `interval`.
    ///
    /// The future never completes. Spawn it, and abort the task or drop the future to stop it.
    /// A failed round is logged, and the next round runs as usual.
    ///
    /// The first round starts within one minute, so that a process that restarts often also deletes
    /// sessions. Each later wait is 0.5 to 1.5 times `interval` and at least 1 second.
    /// The jitter spreads the rounds of processes that started together.
    ///
    /// # Cancellation
    ///
    /// As for [`delete_expired`](Self::delete_expired).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_user_session::{SessionService, store::MemorySessionStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let sessions = SessionService::new(MemorySessionStore::<i64, String>::new());
    /// let hourly = {
    ///     let sessions = sessions.clone();
    ///     let hour = Duration::from_secs(60 * 60);
    ///     tokio::spawn(async move { sessions.delete_expired_every(hour).await })
    /// };
    /// // When the process shuts down:
    /// hourly.abort();
    /// # }
    /// ```
    pub async fn delete_expired_every(&self, interval: Duration) {
        let mut wait = interval.min(FIRST_ROUND_DELAY);
        loop {
            sleep(jittered(wait).max(Duration::from_secs(1))).await;
            wait = interval;
            self.report_deletion(self.delete_expired().await);
        }
    }

    fn report_deletion(&self, outcome: Result<u64, Error>) {
        let outage = self.deletion_outage();
        match outcome {
            Ok(sessions) => {
                outage.succeeded();
                if sessions > 0 {
                    tracing::info!(
                        target: "tower_user_session",
                        event = "expired_deleted",
                        sessions,
                        "expired sessions deleted"
                    );
                }
            }
            Err(error) => {
                if let Some(times) = outage.failed() {
                    tracing::warn!(
                        target: "tower_user_session",
                        event = "deletion_failed",
                        kind = ?error.kind(),
                        outcome = error.outcome(),
                        error = %Chain(&error),
                        times,
                        "deletion of expired sessions failed: the next round retries"
                    );
                }
            }
        }
    }
}
