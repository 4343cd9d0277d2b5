//! Events about sessions, for an observer of the application.

use std::{
    any::Any,
    fmt,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Error, ErrorKind},
    log_limit::LogLimiter,
    metrics::counters::{Counter, Counters},
    session::{SessionId, user_agent},
};

/// The number of events that wait for the observer.
const MAX_WAITING: usize = 1_024;
/// The number of waiting events from which rejected tokens are dropped. A client can cause a
/// rejection at any rate. The rest of the queue is for the other events.
const MAX_WAITING_REJECTIONS: usize = MAX_WAITING / 2;

/// An event about a session, for
/// [`SessionServiceBuilder::on_event`](crate::service::SessionServiceBuilder::on_event).
///
/// A field is `None` if the operation does not know the value.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionEvent<I> {
    /// What happened.
    pub kind: SessionEventKind,
    /// The user's key. It is unknown in an update, a sign-out and a rejected token. It is also
    /// unknown if a sign-in replaced a session, which may belong to another user.
    pub user_id: Option<I>,
    /// The session's public id. It is unknown if a sign-in was refused or a token was rejected.
    /// It is also `None` for [`revoke_everyone`](crate::SessionService::revoke_everyone), which ends
    /// all sessions in one event.
    pub session: Option<SessionId>,
    /// The address that the application passed to [`SignIn::ip`](crate::service::SignIn::ip).
    pub ip: Option<IpAddr>,
    /// The `User-Agent` of the request, as the list of sessions has it.
    pub user_agent: Option<String>,
}

/// What a [`SessionEvent`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEventKind {
    /// A session began.
    SignedIn,
    /// A session got a new token, because the user proved their identity again.
    Reauthenticated,
    /// Session columns were set by [`update`](crate::SessionService::update).
    Updated,
    /// A session ended.
    Ended(EndCause),
    /// A sign-in was refused.
    SignInRefused(RefusalCause),
    /// [`LoadUserLayer`](crate::LoadUserLayer) rejected the token of a request. The request is
    /// anonymous.
    TokenRejected(TokenRejection),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndCause {
    /// The client signed out.
    SignedOut,
    /// A sign-in replaced the session of its request.
    Replaced,
    /// A sign-in exceeded the user's [`SessionLimit`](crate::session::SessionLimit).
    Limit,
    /// A call revoked the session.
    Revoked,
}

/// Why a sign-in was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCause {
    /// The user does not exist or does not meet a condition ([`ErrorKind::UserNotAllowed`]).
    UserNotAllowed,
    /// The user has too many sessions ([`ErrorKind::TooManySessions`]).
    TooManySessions,
}

/// Why a token was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenRejection {
    /// The value is not a token.
    Malformed,
    /// The request has several different tokens.
    Ambiguous,
    /// The request's token does not belong to exactly one live session: the session is unknown, has
    /// expired or has ended, or the user is disabled.
    NotLive,
}

/// The observer's queue. The methods never wait.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Message>,
    clone_id: fn(&(dyn Any + Send + Sync)) -> Option<Box<dyn Any + Send>>,
    reports: Arc<Reports>,
}

struct Reports {
    metrics: Arc<Counters>,
    dropped: LogLimiter,
    panicked: LogLimiter,
}

/// A [`SessionEvent`] without the type of the user's key.
#[derive(Clone, Copy, Default)]
pub(crate) struct EventFields<'a> {
    pub(crate) user_id: Option<&'a (dyn Any + Send + Sync)>,
    pub(crate) session: Option<SessionId>,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) user_agent: Option<&'a str>,
}

enum Message {
    Event(SessionEvent<Box<dyn Any + Send>>),
    /// Is answered when the observer has received all earlier events.
    Flush(oneshot::Sender<()>),
}

/// Calls the observer, which knows the type of the user's key.
type Deliver = Box<dyn FnMut(SessionEvent<Box<dyn Any + Send>>) + Send>;

/// An observer before the service exists.
pub(crate) struct Observer {
    deliver: Deliver,
    clone_id: fn(&(dyn Any + Send + Sync)) -> Option<Box<dyn Any + Send>>,
}

impl Observer {
    pub(crate) fn new<I: Clone + Send + 'static>(
        observe: impl Fn(SessionEvent<I>) + Send + 'static,
    ) -> Self {
        Self {
            deliver: Box::new(move |event| {
                let user_id = event.user_id.and_then(|id| id.downcast().ok());
                observe(SessionEvent {
                    kind: event.kind,
                    user_id: user_id.map(|id| *id),
                    session: event.session,
                    ip: event.ip,
                    user_agent: event.user_agent,
                });
            }),
            clone_id: |id| Some(Box::new(id.downcast_ref::<I>()?.clone())),
        }
    }

    /// Starts the observer's thread. The thread ends when the service has been dropped.
    ///
    /// A thread, because an observer that blocks must not block a runtime.
    pub(crate) fn start(self, metrics: Arc<Counters>) -> Result<Events, Error> {
        let (queue, messages) = mpsc::channel(MAX_WAITING);
        let reports = Arc::new(Reports {
            metrics,
            dropped: LogLimiter::default(),
            panicked: LogLimiter::default(),
        });
        let of_thread = Arc::clone(&reports);
        let deliver = self.deliver;
        thread::Builder::new()
            .name("session-events".to_owned())
            .spawn(move || run(messages, deliver, &of_thread))
            .map_err(|error| {
                Error::new(ErrorKind::Configuration, error)
                    .with_message("starting the thread of the event observer failed")
            })?;
        Ok(Events {
            queue,
            clone_id: self.clone_id,
            reports,
        })
    }
}

fn run(mut messages: mpsc::Receiver<Message>, mut deliver: Deliver, reports: &Reports) {
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Event(event) => {
                let observed = catch_unwind(AssertUnwindSafe(|| deliver(event)));
                if observed.is_err()
                    && let Some(times) = reports.panicked.count()
                {
                    tracing::error!(
                        target: "tower_user_session",
                        event = "observer_panicked",
                        times,
                        "the observer of session events panicked: the event is lost"
                    );
                }
            }
            Message::Flush(flushed) => drop(flushed.send(())),
        }
    }
}

impl Events {
    /// Queues an event, or drops it if the queue is full.
    pub(crate) fn send(&self, kind: SessionEventKind, fields: EventFields<'_>) {
        let Ok(permit) = self.queue.try_reserve() else {
            return self.reports.dropped();
        };
        permit.send(Message::Event(SessionEvent {
            kind,
            user_id: fields.user_id.and_then(self.clone_id),
            session: fields.session,
            ip: fields.ip,
            user_agent: fields.user_agent.map(str::to_owned),
        }));
    }

    /// Queues the rejection of a request's token, or drops it if half of the queue is full.
    pub(crate) fn rejected(&self, reason: TokenRejection, headers: &HeaderMap) {
        let waiting = MAX_WAITING.saturating_sub(self.queue.capacity());
        if waiting >= MAX_WAITING_REJECTIONS {
            return self.reports.dropped();
        }
        let user_agent = user_agent::of(headers);
        let fields = EventFields {
            user_agent: user_agent.as_deref(),
            ..EventFields::default()
        };
        self.send(SessionEventKind::TokenRejected(reason), fields);
    }

    /// Waits until the observer has received all queued events.
    pub(crate) async fn flush(&self) {
        let (flushed, wait) = oneshot::channel();
        if self.queue.send(Message::Flush(flushed)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

impl Reports {
    fn dropped(&self) {
        self.metrics.count(Counter::EventsDropped);
        if let Some(events) = self.dropped.count() {
            tracing::warn!(
                target: "tower_user_session",
                event = "events_dropped",
                events,
                "session events dropped: the observer is slower than the events"
            );
        }
    }
}

impl<I> fmt::Debug for SessionEvent<I> {
    /// Omits the user's key and the client, because they are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionEvent")
            .field("kind", &self.kind)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
