//! Deleting the sessions that are over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    backoff::jittered,
    deadline::within,
    error::{Chain, Error},
    service::SessionService,
    store::SessionStore,
};

/// Nobody waits for a batch, so that it may take longer than what somebody waits for.
const LONGEST_BATCH: Duration = Duration::from_secs(60);

/// The first round comes about so long after the start: late enough not to burden it.
const FIRST_ROUND: Duration = Duration::from_secs(30);

/// # Cleaning up
///
/// A session that is over is dead whether or not its row is still there; cleaning up only frees the
/// room.
impl<S: SessionStore> SessionService<S> {
    /// Deletes the sessions that are over, once through, and says how many there were.
    ///
    /// It goes through the table in small batches, each a transaction of its own that skips what is
    /// locked, and rests between them for as long as they take, so that lookups go on as before. It
    /// needs no index. Where another process is at it, this one leaves it to that one.
    ///
    /// # Cancellation
    ///
    /// What was deleted stays deleted.
    pub async fn delete_expired(&self) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut place = None;
        loop {
            let start = Instant::now();
            let batch = within(LONGEST_BATCH, self.store().delete_expired(place));
            let batch = batch.await?;
            deleted += batch.sessions;
            place = batch.next;
            if place.is_none() {
                return Ok(deleted);
            }
            sleep(start.elapsed()).await;
        }
    }

    /// Cleans up again and again, about once in `interval`. It never returns: spawn it, and abort
    /// the task or drop the future to stop it. A failure is logged, and the next round comes as
    /// usual.
    ///
    /// The first round comes within a minute, so that a process that restarts often cleans up too. Each later wait
    /// is between half and one and a half times `interval`, so that processes that started together do not stay
    /// together.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_user_session::{SessionService, store::MemorySessionStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let sessions = SessionService::new(MemorySessionStore::<i64, String>::new());
    /// let hourly = {
    ///     let sessions = sessions.clone();
    ///     tokio::spawn(async move { sessions.delete_expired_every(Duration::from_secs(60 * 60)).await })
    /// };
    /// // … and when the process shuts down:
    /// hourly.abort();
    /// # }
    /// ```
    pub async fn delete_expired_every(&self, interval: Duration) {
        let mut wait = interval.min(FIRST_ROUND);
        loop {
            sleep(jittered(wait).max(Duration::from_secs(1))).await;
            wait = interval;
            match self.delete_expired().await {
                Ok(0) => {}
                Ok(sessions) => tracing::info!(sessions, "sessions that were over were deleted"),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "sessions could not be cleaned up");
                }
            }
        }
    }
}
