//! A feed that does what the test says, when the test says it.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_user_session::{Announcement, Announces, Error, Hearing, SessionFeed};

use super::watched_store::{WatchedSessions, watched_with_lease};

/// So long that a feed which has once proved that it hears is not deaf before the test is over.
pub const LONG_LEASE: Duration = Duration::from_secs(60);

/// Hears from the start, and proves it until it falls silent.
#[derive(Clone, Default)]
pub struct Told {
    hearing: Arc<OnceLock<Hearing>>,
    silent: Arc<AtomicBool>,
}

impl Told {
    /// A service that follows such a feed and keeps what it may.
    pub async fn with_lease(lease: Duration) -> (WatchedSessions, Self) {
        let (sessions, feed) = (watched_with_lease(lease), Self::default());
        sessions.cache(feed.clone(), 1_000).await.unwrap();
        (sessions, feed)
    }

    pub fn announce(&self, announcement: Announcement) {
        self.hearing().announced(announcement);
    }

    /// It was lost, and hears again.
    pub fn come_back(&self) {
        self.hearing().connected(Announces::SessionsAndUsers);
        self.hearing().proved(Instant::now());
    }

    /// From now on no heartbeat comes back.
    pub fn fall_silent(&self) {
        self.silent.store(true, SeqCst);
    }

    fn hearing(&self) -> &Hearing {
        self.hearing.get().expect("nobody follows it")
    }
}

impl SessionFeed for Told {
    async fn hear(&self, hearing: &Hearing) -> Error {
        self.hearing
            .get_or_init(|| hearing.clone())
            .connected(Announces::SessionsAndUsers);
        while !self.silent.load(SeqCst) {
            hearing.proved(Instant::now());
            hearing.heartbeat_due().await;
        }
        pending().await
    }
}
