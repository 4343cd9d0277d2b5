//! Connections for lookups: several statements may be in flight on each.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    error::Error,
    postgres::{
        connection::Connection,
        connection_set::{ConnectionSet, PooledConnection},
        lanes::{Free, Lanes, Ticket},
    },
    store::lookup::MAX_CONCURRENT_LOOKUPS,
};

/// The connections for lookups of a store.
pub(super) struct Pipelines {
    set: ConnectionSet,
    depth: usize,
    lanes: Mutex<Lanes<PooledConnection>>,
    /// Notifies the waiters that a lane may have room.
    changed: Notify,
}

/// A connection for one statement.
pub(super) enum Acquired<'a> {
    Slot(Slot<'a>),
    /// A connection with no statement in flight. It may have to be prepared.
    Idle(PooledConnection),
}

/// The right to run one statement on a connection. If it is dropped before the response was read,
/// the connection accepts no further statement.
pub(super) struct Slot<'a> {
    pipelines: &'a Pipelines,
    /// `None` once the slot is being dropped.
    connection: Option<Arc<Connection>>,
    ticket: Ticket,
    sent: Instant,
    finished: bool,
}

/// The outcome of a statement that may be moved.
pub(super) enum Moved<'a, T> {
    Completed(T),
    /// The statement waits behind one that is slow. It must be sent on this connection instead.
    To(Acquired<'a>),
}

impl Pipelines {
    pub(super) fn new(set: ConnectionSet, depth: usize) -> Self {
        Self {
            set,
            depth,
            lanes: Mutex::new(Lanes::new(depth)),
            changed: Notify::new(),
        }
    }

    /// Returns how many statements can be in flight.
    pub(super) fn max_statements(&self) -> usize {
        self.set.size() * self.depth
    }

    /// Opens the connections that are used at any distance.
    pub(super) async fn fill(&self) -> Result<(), Error> {
        self.set.fill(MAX_CONCURRENT_LOOKUPS).await
    }

    /// Closes all connections: idle connections now, and connections in use when their statements
    /// have ended.
    pub(super) fn renew(&self) {
        self.set.renew();
    }

    /// Does the same after a failure on this connection, unless that has happened already.
    pub(super) fn renew_after(&self, failed: &Connection) {
        self.set.renew_after(failed);
    }

    pub(super) fn close(&self) {
        self.set.close();
    }

    /// Acquires a connection for one statement. If each has as many statements as it may have, this
    /// waits for the first that has fewer, or for another connection.
    ///
    /// # Errors
    ///
    /// Those of [`ConnectionSet::acquire`].
    pub(super) async fn acquire(&self) -> Result<Acquired<'_>, Error> {
        if let Some(acquired) = self.acquire_at_once() {
            return Ok(acquired);
        }
        let mut opening = pin!(self.set.acquire());
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(acquired) = self.acquire_at_once() {
                return Ok(acquired);
            }
            tokio::select! {
                biased;
                connection = opening.as_mut() => return connection.map(Acquired::Idle),
                () = changed => {}
            }
        }
    }

    /// Returns an idle connection if each lane has enough statements. One statement is enough while
    /// there are fewer lanes than connections that every store opens. After that, two are enough.
    fn acquire_at_once(&self) -> Option<Acquired<'_>> {
        let now = Instant::now();
        let generation = self.set.generation();
        let mut lanes = self.lanes();
        lanes.retire_if(|connection| connection.generation() != generation);
        let fewest = lanes.fewest(now.into_std());
        let enough = if lanes.len() < MAX_CONCURRENT_LOOKUPS {
            1
        } else {
            2
        };
        if fewest.is_none_or(|fewest| fewest >= enough) {
            if let Some(idle) = self.set.acquire_idle() {
                return Some(Acquired::Idle(idle));
            }
            if fewest.is_some() {
                self.set.open_in_background();
            }
        }
        let (ticket, lane) = lanes.place(now.into_std())?;
        let connection = lane.share()?;
        Some(Acquired::Slot(self.slot(connection, ticket, now)))
    }

    /// Makes a connection available to other statements, and returns the slot for the first one.
    pub(super) fn open(&self, connection: PooledConnection) -> Option<Slot<'_>> {
        let (now, shared) = (Instant::now(), connection.share()?);
        let ticket = self.lanes().open(connection, now.into_std());
        self.changed.notify_waiters();
        Some(self.slot(shared, ticket, now))
    }

    const fn slot(&self, connection: Arc<Connection>, ticket: Ticket, sent: Instant) -> Slot<'_> {
        Slot {
            pipelines: self,
            connection: Some(connection),
            ticket,
            sent,
            finished: false,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<PooledConnection>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelines")
            .field("set", &self.set)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

impl<'a> Slot<'a> {
    #[expect(clippy::expect_used, reason = "only `drop` takes it")]
    pub(super) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("the slot is in use")
    }

    /// Runs a statement. If the statement waits behind a slow one, and another connection is
    /// available before `until`, this returns that connection instead of a response.
    pub(super) async fn run<T>(
        &self,
        statement: impl Future<Output = T>,
        until: Instant,
    ) -> Moved<'a, T> {
        let mut statement = pin!(statement);
        // The statement is sent when it is polled for the first time.
        let sent = poll_fn(|cx| Poll::Ready(statement.as_mut().poll(cx)));
        if let Poll::Ready(completed) = sent.await {
            return Moved::Completed(completed);
        }
        while let Some(stalls_at) = self.stalls_at()
            && stalls_at < until
        {
            if stalls_at > Instant::now() {
                tokio::select! {
                    biased;
                    completed = statement.as_mut() => return Moved::Completed(completed),
                    () = sleep_until(stalls_at) => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                completed = statement.as_mut() => return Moved::Completed(completed),
                () = sleep_until(until) => break,
                acquired = self.pipelines.acquire() => match acquired {
                    Ok(acquired) => return Moved::To(acquired),
                    Err(_) => break,
                },
            }
        }
        Moved::Completed(statement.await)
    }

    fn stalls_at(&self) -> Option<Instant> {
        self.pipelines
            .lanes()
            .stalls_at(self.ticket)
            .map(Instant::from_std)
    }

    /// Records that the response was read in full, and that it belongs to the statement.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // The last user of a connection closes it, before another one is opened in its place.
        drop(self.connection.take());
        let now = Instant::now();
        let mut lanes = self.pipelines.lanes();
        let free = if self.finished {
            let took = now.saturating_duration_since(self.sent);
            lanes.finished(self.ticket, took, now.into_std())
        } else {
            lanes.abandoned(self.ticket, now.into_std())
        };
        drop(lanes);
        match free {
            Some(Free::Idle(connection)) => connection.release(),
            // After a renewal, the store no longer needs it. Otherwise a response was not read.
            Some(Free::Retired(connection))
                if self.finished && connection.generation() != self.pipelines.set.generation() =>
            {
                connection.retire();
            }
            Some(Free::Retired(_)) | None => {}
        }
        self.pipelines.changed.notify_waiters();
    }
}
