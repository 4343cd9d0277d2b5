//! A feed that the test drives.

use std::{
    future::pending,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_user_session::{
    Error,
    feed::{FeedScope, FeedSink, Invalidation, SessionFeed},
};

use super::watched_store::{WatchedSessions, watched_with_lease};

/// Long enough that a feed which sent one heartbeat stays connected until the test ends.
pub const LONG_LEASE: Duration = Duration::from_secs(60);

/// Connects at once, and sends heartbeats until it is told to stop.
#[derive(Clone, Default)]
pub struct ManualFeed {
    hearing: Arc<OnceLock<FeedSink>>,
    silent: Arc<AtomicBool>,
}

impl ManualFeed {
    /// A service that follows such a feed and caches what it may.
    pub async fn with_lease(lease: Duration) -> (WatchedSessions, Self) {
        let (sessions, feed) = (watched_with_lease(lease), Self::default());
        sessions.enable_cache(feed.clone(), 1_000).await.unwrap();
        (sessions, feed)
    }

    pub fn announce(&self, announcement: Invalidation) {
        self.hearing().invalidate(announcement);
    }

    /// Disconnects and connects again.
    pub fn reconnect(&self) {
        self.hearing().subscribed(FeedScope::SessionsAndUsers);
        self.hearing().heartbeat_received(Instant::now());
    }

    /// Receives a heartbeat that was sent so long ago.
    pub fn late_heartbeat(&self, ago: Duration) {
        self.hearing().heartbeat_received(Instant::now() - ago);
    }

    /// From now on no heartbeat returns.
    pub fn stop_heartbeats(&self) {
        self.silent.store(true, SeqCst);
    }

    fn hearing(&self) -> &FeedSink {
        self.hearing.get().expect("no service follows it")
    }
}

impl SessionFeed for ManualFeed {
    async fn listen(&self, hearing: &FeedSink) -> Error {
        self.hearing
            .get_or_init(|| hearing.clone())
            .subscribed(FeedScope::SessionsAndUsers);
        while !self.silent.load(SeqCst) {
            hearing.heartbeat_received(Instant::now());
            hearing.next_heartbeat().await;
        }
        pending().await
    }
}
