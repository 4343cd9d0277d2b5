//! Follows a feed: keeps it connected, knows until when it hears, and passes on what it says.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant},
};

use futures_core::future::BoxFuture;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Announcement, Hearing, Hears, SessionFeed, Watchers,
    cache::{AskedAt, Cache, Hit},
};
use crate::{
    Error, ErrorKind, TokenDigest,
    backoff::Backoff,
    error::Chain,
    session::{lookup::SharedSession, notice::Notice},
};

/// How long a feed counts as hearing after a heartbeat that came back was sent, unless the application
/// says otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(1);
/// So that one heartbeat that is late does no harm.
const HEARTBEATS_IN_A_LEASE: u32 = 4;
/// The pause before a second attempt to connect; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A feed that is followed.
pub(crate) struct Following<U> {
    cache: Option<Cache<U>>,
    watchers: Arc<Watchers>,
    lease: Duration,
    start: StdInstant,
    /// Nanoseconds after `start`: until then all that was announced has been heard.
    hears_until: AtomicU64,
    stopped: AtomicBool,
    /// When the last heartbeat that came back was sent.
    proved: watch::Sender<Option<Instant>>,
    heartbeat: Notify,
    failures: Notice,
}

/// Ends the following when it is dropped.
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<U: Clone + Send + Sync + 'static> Following<U> {
    /// Starts to follow, and returns once the feed has proved that it hears.
    pub(crate) async fn start(
        feed: impl SessionFeed,
        cache: Option<Cache<U>>,
        watchers: Arc<Watchers>,
        lease: Duration,
        deadline: Duration,
    ) -> Result<(Arc<Self>, Task), Error> {
        let following = Arc::new(Self {
            cache,
            watchers,
            lease,
            start: StdInstant::now(),
            hears_until: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            proved: watch::Sender::new(None),
            heartbeat: Notify::new(),
            failures: Notice::default(),
        });
        let mut proved = following.proved.subscribe();
        let (failed, failure) = oneshot::channel();
        let running = tokio::spawn(Arc::clone(&following).run(feed, failed));
        let task = Task(running.abort_handle());
        let first = async {
            tokio::select! {
                _ = proved.wait_for(Option::is_some) => Ok(()),
                Ok(error) = failure => Err(error),
            }
        };
        match timeout(deadline, first).await {
            Ok(Ok(())) => Ok((following, task)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::bare(ErrorKind::Deadline)
                .saying("the feed of ended sessions did not prove in time that it hears")),
        }
    }

    async fn run(self: Arc<Self>, feed: impl SessionFeed, failed: oneshot::Sender<Error>) {
        let hearing = Hearing::new(Arc::clone(&self) as Arc<dyn Hears>);
        let mut failed = Some(failed);
        let fresh = || Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut backoff = fresh();
        loop {
            let before = *self.proved.borrow();
            let error = feed.hear(&hearing).await;
            self.connected();
            if *self.proved.borrow() != before {
                backoff = fresh();
            }
            if let Some(times) = self.failures.count() {
                tracing::warn!(error = %Chain(&error), times, "the feed of ended sessions is deaf");
            }
            if let Some(failed) = failed.take() {
                // Nobody waits for it once the feed has heard.
                let _ = failed.send(error);
            }
            sleep(backoff.pause()).await;
        }
    }

    /// The live session, where it can be told without asking the store.
    pub(crate) fn hit(&self, digest: &TokenDigest) -> Option<Hit<U>> {
        let cache = self.cache.as_ref()?;
        cache.get(digest, |now| self.hears_at(now))
    }

    /// To be called before a lookup is sent.
    pub(crate) fn ask(&self) -> Option<AskedAt> {
        let cache = self.cache.as_ref()?;
        self.hears().then(|| cache.ask())
    }

    /// Keeps what a lookup found.
    pub(crate) fn keep(&self, asked: AskedAt, digest: TokenDigest, live: &SharedSession<U>) {
        if let Some(cache) = &self.cache
            && self.hears()
        {
            cache.keep(asked, digest, live);
        }
    }

    /// Whether everything that was announced has been heard.
    pub(crate) fn hears(&self) -> bool {
        self.hears_at(StdInstant::now())
    }

    fn hears_at(&self, now: StdInstant) -> bool {
        self.nanos(now) < self.hears_until.load(SeqCst)
    }

    fn nanos(&self, at: StdInstant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits until all that has happened so far has been heard here, or the feed counts as deaf.
    pub(crate) async fn catch_up(&self) {
        if !self.hears() {
            return;
        }
        let now = Instant::now();
        let mut proved = self.proved.subscribe();
        self.heartbeat.notify_one();
        let caught_up = proved.wait_for(|sent| sent.is_some_and(|sent| sent >= now));
        // Where nothing has come back by then, the lease is over.
        let _ = timeout(self.lease, caught_up).await;
    }

    /// For ever deaf.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.connected();
    }

    /// Nothing that was kept is of any use.
    fn forget_everything(&self) {
        if let Some(cache) = &self.cache {
            cache.clear();
        }
    }
}

impl<U: Clone + Send + Sync + 'static> Hears for Following<U> {
    fn connected(&self) {
        self.hears_until.store(0, SeqCst);
        self.announced(Announcement::Everything);
    }

    fn announced(&self, announcement: Announcement) {
        match announcement {
            Announcement::Sessions(sessions) => {
                if let Some(cache) = &self.cache {
                    cache.announce(&sessions);
                }
                self.watchers.doubt(&sessions);
            }
            Announcement::Everything => {
                self.forget_everything();
                self.watchers.doubt_all();
            }
        }
    }

    fn proved(&self, sent: Instant) {
        let until = self.nanos((sent + self.lease).into_std());
        let now = self.nanos(StdInstant::now());
        if now >= until {
            // It comes too late to prove anything.
            return;
        }
        if now >= self.hears_until.load(SeqCst) {
            // It was deaf until now.
            self.forget_everything();
        }
        self.hears_until.store(until, SeqCst);
        // After that, so that whichever of the two comes second sees the other.
        if self.stopped.load(SeqCst) {
            self.connected();
        }
        self.proved.send_replace(Some(sent));
    }

    fn heartbeat_due(&self) -> BoxFuture<'_, ()> {
        let next = Instant::now() + self.lease / HEARTBEATS_IN_A_LEASE;
        Box::pin(async move {
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.heartbeat.notified() => {}
            }
        })
    }
}
