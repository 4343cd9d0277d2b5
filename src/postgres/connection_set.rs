//! Small sets of dedicated connections, one set for each purpose.
//!
//! Each connection is a new object of the application's pool. The pool's `post_create` hooks have
//! run on it, and no other code has used it. It is detached from the pool. Its settings therefore
//! reach no other code, and settings of other code do not reach it.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use deadpool_postgres::{ClientWrapper, Object, Pool};
use tokio::{
    join, pin,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connection::{Alive, Connection},
        counters::StoreCounters,
        errors,
        fence::{Fence, Follower, Gate},
        hosts,
        reconnect::Reconnect,
        sql::execution,
    },
    service::DEFAULT_DEADLINE,
};

/// The deadline of the service, in whole milliseconds, as the server's settings use it.
#[derive(Clone, Debug)]
pub(super) struct Deadline(Arc<AtomicU64>);

impl Default for Deadline {
    fn default() -> Self {
        let deadline = Self(Arc::default());
        deadline.set(DEFAULT_DEADLINE);
        deadline
    }
}

impl Deadline {
    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(SeqCst))
    }

    /// Sets the deadline, and returns whether it has changed.
    pub(super) fn set(&self, deadline: Duration) -> bool {
        let milliseconds = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self.0.swap(milliseconds.max(1), SeqCst) != milliseconds
    }
}

/// A fixed maximum of connections, opened in the background on demand.
#[derive(Clone)]
pub(super) struct ConnectionSet(Arc<Shared>);

struct Shared {
    pool: Pool,
    deadline: Deadline,
    fence: Fence,
    /// The settings of each new connection; `None` behind a transaction pooler.
    settings: Option<fn(Duration) -> String>,
    size: usize,
    counters: Arc<StoreCounters>,
    alive: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    /// Notifies the waiters that a connection was released or opened, or that an attempt to open a
    /// connection failed.
    changed: Notify,
    /// Backoff between failed attempts to connect, during which callers fail at once. Only a set
    /// that many requests use has a backoff.
    reconnect: Option<Reconnect>,
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<Connection>>,
    /// The start time of each attempt in progress.
    opening: Vec<Instant>,
    /// The start time and the error of the last attempt that failed.
    failed: Option<(Instant, Error)>,
    /// A connection of an earlier generation is closed when it is released.
    generation: u64,
    closed: bool,
}

/// A connection in use. Dropping it without [`release`](Self::release) closes the connection. A
/// response in flight therefore reaches no other caller. A connection that is
/// [shared](Self::share) is closed when its last user has dropped it.
pub(super) struct PooledConnection {
    connection: Option<Arc<Connection>>,
    shared: Arc<Shared>,
    // This is the last field. The connection is therefore closed before another connection is
    // opened in its place.
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionSet {
    pub(super) fn new(
        pool: Pool,
        deadline: Deadline,
        fence: &Fence,
        settings: Option<fn(Duration) -> String>,
        size: usize,
        with_backoff: bool,
        counters: &Arc<StoreCounters>,
    ) -> Self {
        let shared = Arc::new(Shared {
            pool,
            deadline,
            fence: fence.clone(),
            settings,
            size,
            counters: Arc::clone(counters),
            alive: Arc::default(),
            permits: Arc::new(Semaphore::new(size)),
            state: Mutex::default(),
            changed: Notify::new(),
            reconnect: with_backoff.then(Reconnect::default),
        });
        fence.follow(&shared);
        Self(shared)
    }

    /// Acquires a connection, in the order of the calls. If no connection is idle, a connection is
    /// opened in the background. The caller gets that connection, or a connection that is released
    /// earlier.
    ///
    /// # Errors
    ///
    /// The errors of opening a connection: [`ErrorKind::Pool`] if the pool has no connection
    /// available.
    pub(super) async fn acquire(&self) -> Result<PooledConnection, Error> {
        let shared = &self.0;
        let permit = Arc::clone(&shared.permits).acquire_owned();
        let permit = before_deadline(
            &shared.deadline,
            permit,
            "acquiring a connection failed: all connections of the store are in use",
        );
        let permit = permit.await?.ok();
        let arrived = Instant::now();
        loop {
            let changed = shared.changed.notified();
            pin!(changed);
            changed.as_mut().enable();
            if let Some(connection) = shared.idle() {
                return Ok(PooledConnection {
                    connection: Some(connection),
                    shared: Arc::clone(shared),
                    _permit: permit,
                });
            }
            shared.open_another(arrived)?;
            changed.await;
        }
    }

    pub(super) fn size(&self) -> usize {
        self.0.size
    }

    /// Acquires a connection that is idle, without waiting.
    pub(super) fn acquire_idle(&self) -> Option<PooledConnection> {
        let shared = &self.0;
        let permit = Arc::clone(&shared.permits).try_acquire_owned().ok()?;
        Some(PooledConnection {
            connection: Some(shared.idle()?),
            shared: Arc::clone(shared),
            _permit: Some(permit),
        })
    }

    /// Opens another connection in the background, if the set has room for it.
    pub(super) fn open_in_background(&self) {
        let shared = &self.0;
        let opening = shared.state().opening.len();
        if shared.alive.load(SeqCst) + opening < shared.size {
            // A caller that needs the connection gets the error.
            let _ = shared.open_another(Instant::now());
        }
    }

    /// Opens connections until the set has this many.
    pub(super) async fn fill(&self, connections: usize) -> Result<(), Error> {
        let mut all = Vec::with_capacity(connections);
        for _ in 0..connections {
            all.push(self.acquire().await?);
        }
        all.into_iter().for_each(PooledConnection::release);
        Ok(())
    }

    /// Closes all connections: idle connections now, and connections in use when they are released.
    pub(super) fn renew(&self) {
        self.0.renew();
    }

    /// Does the same after a failure on this connection, unless that has happened since the
    /// connection was opened. Several statements fail with one connection, and only the first
    /// failure is news.
    pub(super) fn renew_after(&self, failed: &Connection) {
        if self.generation() == failed.generation() {
            self.renew();
        }
    }

    /// Returns the generation of new connections. Connections of an earlier generation must not be
    /// used again.
    pub(super) fn generation(&self) -> u64 {
        self.0.state().generation
    }

    /// Closes the set: every connection is closed when it is released.
    pub(super) fn close(&self) {
        self.0.state().closed = true;
        self.renew();
    }
}

/// Closes the connections to the previous primary.
impl Follower for Shared {
    fn primary_changed(&self) {
        self.renew();
    }
}

impl Shared {
    fn renew(&self) {
        let idle = {
            let mut state = self.state();
            state.generation += 1;
            std::mem::take(&mut state.idle)
        };
        for connection in &idle {
            connection.retire();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an idle connection that the driver has not reported as closed.
    fn idle(&self) -> Option<Arc<Connection>> {
        loop {
            // This is a separate statement, because the lock must not be held while a closed
            // connection is dropped.
            let connection = self.state().idle.pop();
            match connection {
                Some(connection) if connection.is_closed() => {}
                other => return other,
            }
        }
    }

    /// Opens a connection in the background, unless an attempt is in progress. Fails if an attempt
    /// that started after the caller's arrival has failed.
    fn open_another(self: &Arc<Self>, arrived: Instant) -> Result<(), Error> {
        let mut state = self.state();
        if let Some((_, error)) = state.failed.as_ref().filter(|(since, _)| *since >= arrived) {
            return Err(error.clone());
        }
        let now = Instant::now();
        let deadline = self.deadline.get();
        // A task on a runtime that is no longer polled never ends.
        state
            .opening
            .retain(|since| now.duration_since(*since) <= deadline);
        let recent = |since: &Instant| now.duration_since(*since) <= deadline / 4;
        if state.opening.len() >= self.size || state.opening.iter().any(recent) {
            return Ok(());
        }
        if let Some(reconnect) = &self.reconnect {
            reconnect.ensure_allowed()?;
        }
        state.opening.push(now);
        drop(state);
        let opening = Opening {
            since: now,
            shared: Arc::clone(self),
            outcome: Err(Error::from_kind(ErrorKind::Connection)),
        };
        tokio::spawn(opening.run());
        Ok(())
    }

    async fn open(&self) -> Result<Connection, Error> {
        let mut attempts = 0;
        let generation = self.state().generation;
        let opened = loop {
            attempts += 1;
            match self.open_one().await {
                // The next attempt can lead to another host.
                Err(error)
                    if error.kind() == ErrorKind::Recovery
                        && attempts < hosts::count(&self.pool) => {}
                opened => break opened,
            }
        };
        if let Some(reconnect) = &self.reconnect {
            match &opened {
                Ok(_) => reconnect.succeeded(),
                Err(error) => reconnect.failed(error),
            }
        }
        let (client, gate, alive) = opened?;
        let counters = &self.counters;
        Ok(Connection::new(client, gate, generation, counters, alive))
    }

    async fn open_one(&self) -> Result<(ClientWrapper, Gate, Alive), Error> {
        let client = self.open_unless_pool_is_exhausted().await?;
        let alive = Alive::new(&self.alive);
        let gate = Gate::new(&self.fence, &client, self.settings.is_none());
        let gate = match self.settings {
            Some(settings) => {
                let settings = settings(self.deadline.get());
                let (set, gate) = join!(biased; execution::set(&client, &settings), gate);
                set?;
                gate?
            }
            None => gate.await?,
        };
        Ok((client, gate, alive))
    }

    /// Stops waiting for an exhausted pool before the deadline, so that callers get an error with
    /// the cause.
    async fn open_unless_pool_is_exhausted(&self) -> Result<ClientWrapper, Error> {
        let opening = open_new(&self.pool);
        pin!(opening);
        if let Ok(opened) = timeout(self.deadline.get() * 3 / 4, opening.as_mut()).await {
            return opened;
        }
        let status = self.pool.status();
        if status.available == 0 && status.size >= status.max_size {
            return Err(Error::from_kind(ErrorKind::Pool));
        }
        opening.await
    }
}

/// The background task that opens a connection. Its `Drop` reports the outcome, also if the task
/// ends early.
struct Opening {
    since: Instant,
    shared: Arc<Shared>,
    outcome: Result<Option<Connection>, Error>,
}

impl Opening {
    async fn run(mut self) {
        let limit = self.shared.deadline.get();
        let opened = timeout(limit, self.shared.open()).await;
        let opened = opened.unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)));
        self.outcome = opened.map(Some);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let shared = &self.shared;
        {
            let mut state = shared.state();
            if let Some(this) = state.opening.iter().position(|since| *since == self.since) {
                state.opening.swap_remove(this);
            }
            match &mut self.outcome {
                Ok(Some(connection))
                    if shared.alive.load(SeqCst) > shared.size
                        || connection.generation() != state.generation =>
                {
                    connection.retire();
                }
                Ok(connection) => state.idle.extend(connection.take().map(Arc::new)),
                Err(error) => {
                    shared.counters.failed.increment();
                    state.failed = Some((self.since, error.clone()));
                }
            }
        }
        // The rest of the outcome is dropped after the lock is released.
        shared.changed.notify_waiters();
    }
}

/// Waits for a resource that a caller needs before it sends anything. The wait times out before the
/// service's deadline. The error can therefore state that nothing has happened.
pub(super) async fn before_deadline<F: Future>(
    deadline: &Deadline,
    wait: F,
    message: &'static str,
) -> Result<F::Output, Error> {
    let waited = timeout(deadline.get() * 3 / 4, wait).await;
    waited.map_err(|_| Error::from_kind(ErrorKind::Deadline).with_message(message))
}

/// Returns a new connection, detached from the pool.
///
/// The pool may return used connections. Each used connection is closed, and the next connection is
/// acquired.
pub(super) async fn open_new(pool: &Pool) -> Result<ClientWrapper, Error> {
    for _ in 0..=pool.status().max_size {
        let object = pool.get().await.map_err(errors::pool)?;
        let is_new = Object::metrics(&object).recycle_count == 0;
        let client = Object::take(object);
        if is_new {
            return Ok(client);
        }
    }
    let message = "opening a connection failed: the pool returned only used connections";
    Err(Error::from_kind(ErrorKind::Pool).with_message(message))
}

impl PooledConnection {
    /// Returns the connection, for another user of it.
    pub(super) fn share(&self) -> Option<Arc<Connection>> {
        self.connection.clone()
    }

    /// Releases the connection to its set.
    pub(super) fn release(mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        {
            let mut state = self.shared.state();
            let current = connection.generation() == state.generation && !state.closed;
            if current && state.idle.len() < self.shared.size {
                state.idle.push(connection);
            } else {
                drop(state);
                connection.retire();
            }
        }
        self.shared.changed.notify_waiters();
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    #[expect(
        clippy::expect_used,
        reason = "only `release` takes it, and it consumes self"
    )]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("the connection is in use")
    }
}

impl fmt::Debug for ConnectionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSet")
            .field("size", &self.0.size)
            .finish_non_exhaustive()
    }
}
