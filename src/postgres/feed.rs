//! Session feed: `LISTEN` with heartbeats on one connection, verified through the store's pool.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_postgres::{
    AsyncMessage, Client, Row,
    types::{ToSql, Type},
};

use crate::{
    error::{Error, ErrorKind},
    feed::{FeedScope, FeedSink, SessionFeed},
    postgres::{
        connection_set::ConnectionSet,
        connector::{Messages, PgConnector},
        decode::column,
        errors,
        fence::{Fence, Follower, Gate},
        payload, same_database,
    },
};

/// The time limit of each query of the feed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit for the store's test notification to reach the feed. It is shorter than the
/// [default deadline](crate::service::DEFAULT_DEADLINE). The caller then gets the error that names
/// the cause, not a deadline error.
const DELIVERY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The version of `0002_announce_sessions.sql` whose triggers this feed supports.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// A feed that listens on one connection, created by
/// [`PgSessionStore::feed`](super::PgSessionStore::feed).
///
/// # Heartbeats
///
/// A heartbeat is a query on the feed's own connection. PostgreSQL sends pending notifications to a
/// connection before it reports the end of a query. When the result of a heartbeat is received, the
/// notifications of all transactions that were committed before the heartbeat was sent have
/// arrived. A heartbeat involves no other process. The server's work therefore grows linearly with
/// the number of processes. The query also verifies that the triggers are in place.
///
/// # Verification of the database
///
/// A feed that is connected to another database than the pool would receive no notifications.
/// Therefore the feed verifies each new connection: the store sends a notification through its
/// pool, and the notification must arrive on the feed's connection. Behind a transaction pooler,
/// this verification fails. The feed's connection also holds an advisory lock with a random key.
/// Every 10 to 30 seconds, the store verifies through its pool that this lock is held. If the lock
/// is not held, the feed disconnects. The feed also disconnects if no verification has succeeded
/// for 40 seconds.
///
/// # Cost
///
/// Each process uses one connection, four queries per lease, and one verification every 20 seconds
/// on average.
///
/// # Trust
///
/// Every role that may connect to the database can listen and send notifications on the feed's
/// channels. A forged notification makes the service query the store, and has no other effect. A
/// payload that the feed cannot parse invalidates all sessions. Payloads contain session ids and
/// hashes of users' keys. They contain neither tokens nor digests.
pub struct PgSessionFeed {
    connector: PgConnector,
    store: StoreConnection,
    fence: Fence,
    channels_sql: String,
    table: String,
}

/// The channels of the triggers.
#[derive(Clone, PartialEq)]
struct Channels {
    sessions: String,
    users: Option<String>,
}

impl PgSessionFeed {
    pub(super) fn new(
        connector: PgConnector,
        writes: ConnectionSet,
        fence: Fence,
        channels_sql: String,
        table: String,
    ) -> Self {
        Self {
            connector,
            store: StoreConnection(writes),
            fence,
            channels_sql,
            table,
        }
    }

    async fn subscribe(
        &self,
        client: &Client,
        listener: &Listener,
        sink: &FeedSink,
    ) -> Result<(), Error> {
        warn_if_unencrypted(client).await?;
        let gate = match timeout(QUERY_TIMEOUT, Gate::new(&self.fence, client, false)).await {
            Ok(gate) => gate?,
            Err(_) => return Err(query_timed_out()),
        };
        let table: (&(dyn ToSql + Sync), Type) = (&self.table, Type::TEXT);
        let rows = with_timeout(client.query_typed(&self.channels_sql, &[table])).await?;
        let channels = Channels::read(&rows)?;
        let scope = if channels.users.is_some() {
            FeedScope::SessionsAndUsers
        } else {
            tracing::info!(
                target: "tower_user_session",
                event = "feed_without_users",
                "the triggers do not announce changes of users: the re-check interval bounds how \
                 long a change goes unnoticed"
            );
            FeedScope::Sessions
        };
        let listen = [
            Some(&channels.sessions),
            channels.users.as_ref(),
            Some(&listener.probe_channel),
        ];
        let listen: String = listen
            .into_iter()
            .flatten()
            .flat_map(|channel| ["LISTEN ", channel, "; "])
            .collect();
        *lock(&listener.channels) = Some(channels.clone());
        // The server releases the lock when the connection is closed.
        let subscribe = format!(
            "{listen}SELECT pg_catalog.pg_advisory_lock('{}'::pg_catalog.int8)",
            listener.lock
        );
        with_timeout(client.batch_execute(&subscribe))
            .await
            .map_err(|error| {
                error.with_message(
                    "LISTEN failed: the feed needs a direct connection to a primary, not a \
                     transaction pooler",
                )
            })?;
        let subscription = Arc::new(Subscription {
            sink: sink.clone(),
            scope,
            primary_changed: Notify::new(),
        });
        // The fence calls the subscription from here on, so that it misses no change.
        self.fence.follow(&subscription);
        gate.server(client).await?;
        sink.subscribed(scope);
        self.verify_delivery(listener).await?;
        let verified = async {
            tokio::try_join!(
                self.run_heartbeats(client, &gate, &channels, sink),
                same_database::verify_periodically(|| self.store.is_locked(listener.lock))
            )
        };
        tokio::select! {
            verified = verified => verified.map(|((), ())| ()),
            () = subscription.primary_changed.notified() => {
                Err(Error::from_kind(ErrorKind::Recovery)
                    .with_message("another primary has responded: resubscribing"))
            }
        }
    }

    /// Sends heartbeats. Each heartbeat covers all transactions that were committed before it was
    /// sent.
    ///
    /// At most two heartbeats are in flight. A write that waits for the feed requests a heartbeat,
    /// which is sent although an earlier heartbeat has not returned.
    async fn run_heartbeats(
        &self,
        client: &Client,
        gate: &Gate,
        channels: &Channels,
        sink: &FeedSink,
    ) -> Result<(), Error> {
        // The heartbeat is prepared, because planning costs the server several times as much as
        // execution.
        let heartbeat = client.prepare_typed(&self.channels_sql, &[Type::TEXT]);
        let heartbeat = with_timeout(heartbeat).await?;
        let send = async || -> Result<(), Error> {
            let sent = Instant::now();
            let rows = with_timeout(client.query(&heartbeat, &[&self.table])).await?;
            gate.server(client).await?;
            if Channels::read(&rows)? != *channels {
                return Err(Error::from_kind(ErrorKind::Schema).with_message(
                    "the sessions table or its triggers were replaced: resubscribing",
                ));
            }
            sink.heartbeat_received(sent);
            Ok(())
        };
        send().await?;
        let next = tokio::sync::Mutex::new(());
        let send_each = async || -> Result<(), Error> {
            loop {
                {
                    let _only_one_waits = next.lock().await;
                    sink.next_heartbeat().await;
                }
                send().await?;
            }
        };
        tokio::try_join!(send_each(), send_each()).map(|((), ())| ())
    }

    /// Verifies that a test notification of the store arrives.
    async fn verify_delivery(&self, listener: &Listener) -> Result<(), Error> {
        self.store.notify(&listener.probe_channel).await?;
        timeout(DELIVERY_TIMEOUT, listener.arrived.notified())
            .await
            .map_err(|_| {
                same_database::different_database(
                    "a notification of the store did not arrive at its feed: the feed is connected to \
                     another database than the pool, or through a transaction pooler",
                )
            })
    }
}

impl SessionFeed for PgSessionFeed {
    async fn listen(&self, sink: &FeedSink) -> Error {
        let (client, connection) = match timeout(QUERY_TIMEOUT, self.connector.open()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return errors::connecting(error),
            Err(_) => return Error::from_kind(ErrorKind::Deadline),
        };
        let listener = match Listener::new() {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        let listening = pin!(listener.listen(connection, sink));
        tokio::select! {
            error = listening => error,
            Err(error) = self.subscribe(&client, &listener, sink) => error,
        }
    }
}

impl Channels {
    fn read(rows: &[Row]) -> Result<Self, Error> {
        let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
        if column(row, 1)? {
            return Ok(Self {
                sessions: column(row, 0)?,
                users: column(row, 2)?,
            });
        }
        let remedy = format!(
            "the feed needs schema version {SCHEMA_VERSION} of the triggers, each of them ENABLE \
             ALWAYS: run Migrate::notify_on_revocation"
        );
        Err(Error::new(ErrorKind::Schema, remedy).with_message(
            "the notification triggers are missing, disabled or of another schema version",
        ))
    }
}

/// A feed that counts as connected.
struct Subscription {
    sink: FeedSink,
    scope: FeedScope,
    primary_changed: Notify,
}

/// Sessions that ended on another primary were not announced on this connection.
impl Follower for Subscription {
    fn primary_changed(&self) {
        self.sink.subscribed(self.scope);
        self.primary_changed.notify_one();
    }
}

/// The subscription of one connection.
struct Listener {
    channels: Mutex<Option<Channels>>,
    /// A channel with a random name, unknown to other processes.
    probe_channel: String,
    arrived: Notify,
    /// The random key of an advisory lock.
    lock: i64,
}

impl Listener {
    fn new() -> Result<Self, Error> {
        let random = || {
            SysRng
                .try_next_u64()
                .map_err(|error| Error::new(ErrorKind::Rng, error))
        };
        Ok(Self {
            channels: Mutex::default(),
            probe_channel: format!("tower_user_session_proof_{:016x}", random()?),
            arrived: Notify::new(),
            lock: random()?.cast_signed(),
        })
    }

    async fn listen(&self, mut connection: Box<dyn Messages>, sink: &FeedSink) -> Error {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    self.receive(notification.channel(), notification.payload(), sink);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return errors::connecting(error),
                None => return Error::from_kind(ErrorKind::Connection),
            }
        }
    }

    fn receive(&self, channel: &str, payload: &str, sink: &FeedSink) {
        if channel == self.probe_channel {
            self.arrived.notify_one();
            return;
        }
        let channels = lock(&self.channels).clone();
        let Some(channels) = channels else { return };
        if channel == channels.sessions || Some(channel) == channels.users.as_deref() {
            sink.invalidate(payload::parse(payload));
        }
    }
}

/// The store's connections for writes.
struct StoreConnection(ConnectionSet);

impl StoreConnection {
    async fn notify(&self, channel: &str) -> Result<(), Error> {
        let notify = "SELECT pg_catalog.pg_notify($1, '')";
        self.query(notify, &[(&channel, Type::TEXT)])
            .await
            .map(drop)
    }

    /// Returns whether a connection to the same database holds this advisory lock.
    async fn is_locked(&self, key: i64) -> Result<bool, Error> {
        let test = "SELECT NOT pg_catalog.pg_try_advisory_xact_lock_shared($1)";
        let row = self.query(test, &[(&key, Type::INT8)]).await?;
        column(&row, 0)
    }

    async fn query(&self, sql: &str, values: &[(&(dyn ToSql + Sync), Type)]) -> Result<Row, Error> {
        let query = async {
            let connection = self.0.acquire().await?;
            let row = connection.query_typed_one(sql, values).await;
            let row = row.map_err(errors::statement)?;
            connection.release();
            Ok(row)
        };
        timeout(QUERY_TIMEOUT, query)
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

async fn with_timeout<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match timeout(QUERY_TIMEOUT, query).await {
        Ok(result) => result.map_err(errors::statement),
        Err(_) => Err(query_timed_out()),
    }
}

fn query_timed_out() -> Error {
    Error::from_kind(ErrorKind::Deadline).with_message("session feed query timed out")
}

/// Logs a warning if the connection to another host is not encrypted, as
/// [`PgSessionStore::check`](super::PgSessionStore::check) does for the pool.
async fn warn_if_unencrypted(client: &Client) -> Result<(), Error> {
    let query = "SELECT NOT ssl.ssl AND NOT coalesce(
                     pg_catalog.inet_client_addr() OPERATOR(pg_catalog.<<=) '127.0.0.0/8'::pg_catalog.inet
                     OR pg_catalog.inet_client_addr() OPERATOR(pg_catalog.=) '::1'::pg_catalog.inet, true)
                 FROM pg_catalog.pg_stat_ssl AS ssl
                 WHERE ssl.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";
    let rows = with_timeout(client.query_typed(query, &[])).await?;
    if let Some(row) = rows.first()
        && column(row, 0)?
    {
        tracing::warn!(
            target: "tower_user_session",
            event = "feed_unencrypted",
            "the session feed's connection to the database on another host is not encrypted"
        );
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for PgSessionFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSessionFeed").finish_non_exhaustive()
    }
}
