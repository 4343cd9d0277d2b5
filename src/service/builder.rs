//! Builder of a session service.

use std::{sync::Arc, time::Duration};

use tokio::sync::OnceCell;

use crate::{
    cookie::{SessionCookie, credentials::Credentials},
    error::{Error, ErrorKind},
    feed::{DEFAULT_LEASE, slot::FeedSlot, subscription_state::Settings},
    log_limit::LogLimiter,
    lookup::{batcher::LookupBatcher, last_seen::LastSeenWriter, runner::BatchRunner},
    metrics::counters::Counters,
    outage::Outage,
    service::{
        DEFAULT_DEADLINE, Inner, SessionEvent, SessionService,
        events::{Events, Observer},
    },
    store::{SessionLookup, SessionStore},
};

/// The time without a failure after which lookups, or sign-outs, count as recovered. One session's
/// row can make them fail while those of other sessions succeed.
const QUIET: Duration = Duration::from_secs(1);

/// Builds a [`SessionService`] with settings other than the defaults.
#[derive(Debug)]
#[must_use]
pub struct SessionServiceBuilder<L> {
    lookup: L,
    credentials: Credentials,
    deadline: Duration,
    lease: Duration,
    recheck_interval: Option<Duration>,
    metrics: Arc<Counters>,
    observer: Option<Observer>,
}

impl<L: SessionLookup> SessionService<L> {
    /// Returns a service that uses this store and the default settings.
    pub fn new(store: L) -> Self {
        Self::assemble(Self::builder(store), None)
    }

    /// Returns a builder for a service that uses this store.
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
            metrics: Arc::default(),
            observer: None,
        }
    }

    fn assemble(builder: SessionServiceBuilder<L>, events: Option<Events>) -> Self {
        let SessionServiceBuilder {
            lookup,
            credentials,
            deadline,
            lease,
            recheck_interval,
            metrics,
            observer: _,
        } = builder;
        lookup.set_deadline(deadline);
        let store = Arc::new(lookup);
        let feed = Arc::new(FeedSlot::new(Settings {
            lease,
            recheck_interval,
            deadline,
        }));
        let last_seen = Arc::new(LastSeenWriter::new(
            Arc::clone(&store),
            Arc::clone(&metrics),
            deadline,
        ));
        let lookup_outage = Arc::new(Outage::new(
            QUIET,
            "lookup_recovered",
            "session lookups recovered",
        ));
        let lookups = LookupBatcher::new(BatchRunner {
            store: Arc::clone(&store),
            feed: Arc::clone(&feed),
            last_seen: Arc::clone(&last_seen),
            metrics: Arc::clone(&metrics),
            outage: Arc::clone(&lookup_outage),
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
                events,
                closed_store: OnceCell::new(),
                rejected: LogLimiter::default(),
                lookup_outage,
                sign_out_outage: Outage::new(QUIET, "sign_out_recovered", "sign-outs recovered"),
                deletion_outage: Outage::new(
                    Duration::ZERO,
                    "deletion_recovered",
                    "deletion of expired sessions recovered",
                ),
                disagreeing: LogLimiter::default(),
            }),
        }
    }
}

impl<L: SessionLookup> SessionServiceBuilder<L> {
    /// Sets the name and the attributes of the session cookie.
    ///
    /// The default is [`SessionCookie::default`]: `__Host-session`.
    pub fn cookie(mut self, cookie: SessionCookie) -> Self {
        self.credentials.cookie = cookie;
        self
    }

    /// Reads the token also from `Authorization: Bearer` (RFC 6750 §2.1).
    ///
    /// gRPC clients and mobile clients can send this header. The application gives them
    /// [`SignedIn::token`](crate::SignedIn::token).
    ///
    /// A request with two different tokens is ambiguous and therefore anonymous.
    /// A bearer value with another format, such as a proxy's JSON Web Token, does not conflict with
    /// a valid cookie.
    ///
    /// The default is off. In a browser, only a script that can read the token can send this
    /// header. A cookie needs no such script.
    #[doc(alias("authorization", "api_token", "mobile"))]
    pub fn bearer_tokens(mut self) -> Self {
        self.credentials.bearer = true;
        self
    }

    /// Sets the deadline of each operation, from 1 millisecond to 60 seconds.
    ///
    /// The deadline includes the time in a queue, the time to connect and the query.
    /// It applies to lookups, sign-ins, sign-outs, re-authentications, lists and revocations. It
    /// does not apply to [`revoke_everyone`](SessionService::revoke_everyone) and
    /// [`delete_expired`](SessionService::delete_expired).
    ///
    /// The default is [`DEFAULT_DEADLINE`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the lease of the session feed, from 100 milliseconds to 60 seconds.
    ///
    /// The feed counts as connected for one lease after it sent the last heartbeat that was
    /// received. After the lease has ended, the cache is bypassed.
    ///
    /// The default is [`DEFAULT_LEASE`]: 1 second. See [`SessionService::subscribe`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the re-check interval, from 100 milliseconds to 1 hour.
    ///
    /// While the feed is connected, the service looks up a cached session again after this time.
    /// It also checks each session with an open stream again within this time.
    /// The interval limits how long a change without a notification has no effect: see
    /// [`SessionService::enable_cache`].
    ///
    /// The default is [`DEFAULT_RECHECK_INTERVAL`] if the feed announces users, and
    /// [`DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS`][without-users] otherwise.
    ///
    /// [`DEFAULT_RECHECK_INTERVAL`]: crate::feed::DEFAULT_RECHECK_INTERVAL
    /// [without-users]: crate::feed::DEFAULT_RECHECK_INTERVAL_WITHOUT_USERS
    pub fn recheck_interval(mut self, interval: Duration) -> Self {
        self.recheck_interval = Some(interval);
        self
    }

    /// Builds the service. Needs no runtime and opens no connection.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the deadline, the lease or the re-check interval is outside
    /// its range, or if the thread of the [observer](Self::on_event) cannot be started.
    pub fn build(mut self) -> Result<SessionService<L>, Error> {
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.deadline) {
            let context = "the deadline must be between 1 ms and 60 s";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.lease) {
            let context = "the lease must be between 100 ms and 60 s";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        let interval = Duration::from_millis(100)..=Duration::from_secs(60 * 60);
        if self
            .recheck_interval
            .is_some_and(|set| !interval.contains(&set))
        {
            let context = "the re-check interval must be between 100 ms and 1 h";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        let observer = self.observer.take();
        let start = |observer: Observer| observer.start(Arc::clone(&self.metrics));
        let events = observer.map(start).transpose()?;
        Ok(SessionService::assemble(self, events))
    }
}

impl<S: SessionStore> SessionServiceBuilder<S> {
    /// Sets an observer, which receives what happens to sessions in this process: see
    /// [`SessionEventKind`](crate::service::SessionEventKind). The default is no observer.
    ///
    /// A thread of the service calls the observer, with one event at a time, in the order in which
    /// the operations completed. The thread is not in a runtime. An observer that blocks delays
    /// later events and no request. A panic is logged, and only its event is lost.
    ///
    /// At most 1,024 events wait for the observer. Rejected tokens, which a client can cause at any
    /// rate, have half of that. Further events are dropped, counted in
    /// [`SessionMetrics::events_dropped`](crate::service::SessionMetrics::events_dropped), and
    /// logged. [`SessionService::close`] waits for the waiting events, at most for the deadline.
    ///
    /// An observer that owns a clone of the service keeps the service and the thread alive.
    ///
    /// The events are no complete audit trail. Another process, `psql` and a cascading delete cause
    /// none. Sessions that expire cause none. An operation that fails, also with an unknown outcome,
    /// and an operation in the application's transaction cause none.
    ///
    /// ```
    /// # use tower_user_session::{SessionService, service::SessionEventKind, store::MemorySessionStore};
    /// # fn main() -> Result<(), tower_user_session::Error> {
    /// # let store = MemorySessionStore::<i64, &str>::new();
    /// let sessions = SessionService::builder(store)
    ///     .on_event(|event| {
    ///         if let SessionEventKind::SignInRefused(cause) = event.kind {
    ///             eprintln!("user {:?}: {cause:?}", event.user_id);
    ///         }
    ///     })
    ///     .build()?;
    /// # let _ = sessions;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_event(
        mut self,
        observer: impl Fn(SessionEvent<S::UserId>) + Send + Sync + 'static,
    ) -> Self
    where
        S::UserId: Clone,
    {
        self.observer = Some(Observer::new(observer));
        self
    }
}
