//! How a service is built.

use std::{sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use crate::{
    cookie::{SessionCookie, credentials::Credentials},
    error::{Error, ErrorKind},
    feed::{DEFAULT_LEASE, slot::FeedSlot, subscription_state::Settings},
    log_limit::LogLimiter,
    lookup::{batcher::LookupBatcher, last_seen::LastSeenWriter, runner::BatchRunner},
    metrics::Counters,
    service::{DEFAULT_DEADLINE, Inner, SessionService},
    store::SessionLookup,
};

/// Settings of a [`SessionService`] that is about to be built.
#[derive(Debug)]
#[must_use]
pub struct SessionServiceBuilder<L> {
    lookup: L,
    credentials: Credentials,
    deadline: Duration,
    lease: Duration,
    recheck_interval: Option<Duration>,
}

impl<L: SessionLookup> SessionService<L> {
    /// A service over this store, with every default.
    pub fn new(store: L) -> Self {
        Self::assemble(Self::builder(store))
    }

    /// A service over this store, with settings of one's own.
    pub fn builder(store: L) -> SessionServiceBuilder<L> {
        SessionServiceBuilder {
            lookup: store,
            credentials: Credentials {
                cookie: SessionCookie::default(),
                bearer: false,
            },
            deadline: DEFAULT_DEADLINE,
            lease: DEFAULT_LEASE,
            recheck_interval: None,
        }
    }

    fn assemble(builder: SessionServiceBuilder<L>) -> Self {
        let SessionServiceBuilder {
            lookup,
            credentials,
            deadline,
            lease,
            recheck_interval,
        } = builder;
        lookup.set_deadline(deadline);
        let store = Arc::new(lookup);
        let metrics = Arc::new(Counters::default());
        let feed = Arc::new(FeedSlot::new(Settings {
            lease,
            recheck_interval,
            deadline,
        }));
        let last_seen = Arc::new(LastSeenWriter::new(Arc::clone(&store), deadline));
        let lookups = LookupBatcher::new(BatchRunner {
            store: Arc::clone(&store),
            feed: Arc::clone(&feed),
            last_seen: Arc::clone(&last_seen),
            metrics: Arc::clone(&metrics),
            deadline,
        });
        Self {
            inner: Arc::new(Inner {
                store,
                deadline,
                credentials,
                feed,
                last_seen,
                lookups,
                metrics,
                closed_store: OnceCell::new(),
                rejected: LogLimiter::default(),
                unavailable: LogLimiter::default(),
                failed_sign_outs: LogLimiter::default(),
                disagreeing: LogLimiter::default(),
            }),
        }
    }
}

impl<L: SessionLookup> SessionServiceBuilder<L> {
    /// The session cookie's name and attributes.
    pub fn cookie(mut self, cookie: SessionCookie) -> Self {
        self.credentials.cookie = cookie;
        self
    }

    /// Reads the token from `Authorization: Bearer` as well (RFC 6750 §2.1), for gRPC and mobile
    /// clients, which are given [`SignedIn::token`](crate::SignedIn::token). A request that presents
    /// two different tokens is ambiguous and so anonymous. What cannot be a token of this crate, such as a
    /// proxy's JSON Web Token, does not compete with a cookie that can.
    ///
    /// Off by default: a browser's cookie needs no script that could read the token; this header
    /// does.
    pub fn bearer_tokens(mut self) -> Self {
        self.credentials.bearer = true;
        self
    }

    /// How long a lookup may take, waiting, connecting and asking together; likewise a sign-in and a
    /// sign-out. By default [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a feed of ended sessions counts as hearing after its last proof. By default
    /// [`DEFAULT_LEASE`]. See [`SessionService::subscribe`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets after which time a cached result is looked up again, and a session that a stream waits for is checked
    /// again, while the feed is connected. By default
    /// [`DEFAULT_RECHECK_INTERVAL`](crate::feed::DEFAULT_RECHECK_INTERVAL) if the feed announces users, and
    /// [`DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS`](crate::feed::DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS) otherwise. It bounds for how long a
    /// change that nothing announces goes unnoticed: see [`SessionService::enable_cache`].
    pub fn recheck_interval(mut self, interval: Duration) -> Self {
        self.recheck_interval = Some(interval);
        self
    }

    /// The service.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] unless the deadline lies between a millisecond and a minute, the lease between a
    /// tenth of a second and a minute, and the re-check interval between a tenth of a second and an hour.
    pub fn build(self) -> Result<SessionService<L>, Error> {
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.deadline) {
            let context = "the deadline must lie between a millisecond and a minute";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.lease) {
            let context = "the lease must lie between a tenth of a second and a minute";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        let interval = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
        if self
            .recheck_interval
            .is_some_and(|set| !interval.contains(&set))
        {
            let context = "the re-check interval must lie between a tenth of a second and an hour";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(SessionService::assemble(self))
    }
}
