//! The feed of sessions that end: `LISTEN`, heartbeats on the same connection, and proofs through the store's pool.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
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
        errors, payload, same_database,
    },
};

/// No query of the feed may take longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A notification of the store must arrive within this time. It is below the
/// [default deadline](crate::service::DEFAULT_DEADLINE), so that subscribing fails with the reason.
const ARRIVAL: Duration = Duration::from_millis(1_500);

/// The version of `0002_announce_sessions.sql` whose triggers this feed understands.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// The feed that [`PgSessionStore::feed`](super::PgSessionStore::feed) makes: one connection that listens.
///
/// # Heartbeats
///
/// A heartbeat is a query on the feed's own connection. PostgreSQL sends the notifications that are pending for a
/// connection before it reports the end of a query. When the query has returned, the notifications of every transaction
/// that had been committed when it was sent have arrived. No other process is involved, so that the work of the server
/// grows linearly with the number of processes. The query also verifies that the triggers are in place.
///
/// # Proof of the database
///
/// A feed on another database than the pool's would be connected and hear nothing. Therefore each new connection of the
/// feed is proved: the store sends a notification through its pool, which must arrive on the feed's connection. A feed
/// behind a transaction pooler fails this. Every 10 to 30 seconds the store tests through its pool that the feed's
/// connection holds an advisory lock, whose key is random. A feed that fails disconnects, and so does one that has had
/// no proof for 40 seconds.
///
/// # Cost
///
/// A connection for each process, four queries in a lease, and one proof every 20 seconds.
///
/// # Trust
///
/// Every role that may connect to the database can send notifications on the feed's channels, and listen to them. A
/// forged announcement makes the service query the store and has no other effect. A payload that the feed does not
/// understand counts as "any session may have changed". Announcements contain ids of sessions and hashes of users' keys,
/// and neither tokens nor digests.
pub struct PgSessionFeed {
    connector: PgConnector,
    store: StoreConnection,
    announced: String,
    table: String,
}

/// Where sessions and users are announced.
#[derive(Clone, PartialEq)]
struct Channels {
    sessions: String,
    users: Option<String>,
}

impl PgSessionFeed {
    pub(super) fn new(
        connector: PgConnector,
        writes: ConnectionSet,
        announced: String,
        table: String,
    ) -> Self {
        Self {
            connector,
            store: StoreConnection(writes),
            announced,
            table,
        }
    }

    async fn subscribe(
        &self,
        client: &Client,
        listener: &Listener,
        hearing: &FeedSink,
    ) -> Result<(), Error> {
        warn_of_clear_text(client).await?;
        let table: (&(dyn ToSql + Sync), Type) = (&self.table, Type::TEXT);
        let rows = patiently(client.query_typed(&self.announced, &[table])).await?;
        let channels = Channels::read(&rows)?;
        let announces = if channels.users.is_some() {
            FeedScope::SessionsAndUsers
        } else {
            tracing::info!(
                "changes of users are not announced: the re-check interval bounds how long they go unnoticed"
            );
            FeedScope::Sessions
        };
        let listen = [
            Some(&channels.sessions),
            channels.users.as_ref(),
            Some(&listener.proof),
        ];
        let listen: String = listen
            .into_iter()
            .flatten()
            .flat_map(|channel| ["LISTEN ", channel, "; "])
            .collect();
        *lock(&listener.channels) = Some(channels.clone());
        // The lock is released when the connection is closed.
        let subscribe = format!(
            "{listen}SELECT pg_catalog.pg_advisory_lock('{}'::pg_catalog.int8)",
            listener.lock
        );
        patiently(client.batch_execute(&subscribe))
            .await
            .map_err(|error| {
                error.with_message(
                    "LISTEN failed: the feed needs a direct connection to a primary, not a transaction pooler",
                )
            })?;
        hearing.subscribed(announces);
        self.prove_arrival(listener).await?;
        tokio::try_join!(
            self.beat(client, &channels, hearing),
            same_database::prove_again_and_again(|| self.store.is_locked(listener.lock))
        )
        .map(|((), ())| ())
    }

    /// Sends heartbeats. Each is complete up to the moment at which it was sent.
    async fn beat(
        &self,
        client: &Client,
        channels: &Channels,
        hearing: &FeedSink,
    ) -> Result<(), Error> {
        // Prepared, because planning takes the server several times as long as running it.
        let heartbeat = client.prepare_typed(&self.announced, &[Type::TEXT]);
        let heartbeat = patiently(heartbeat).await?;
        loop {
            let sent = Instant::now();
            let rows = patiently(client.query(&heartbeat, &[&self.table])).await?;
            if Channels::read(&rows)? != *channels {
                return Err(Error::from_kind(ErrorKind::Schema).with_message(
                    "the sessions table or its triggers were replaced: the feed subscribes again",
                ));
            }
            hearing.heartbeat_received(sent);
            hearing.next_heartbeat().await;
        }
    }

    /// Proves that a notification of the store arrives.
    async fn prove_arrival(&self, listener: &Listener) -> Result<(), Error> {
        self.store.notify(&listener.proof).await?;
        timeout(ARRIVAL, listener.arrived.notified())
            .await
            .map_err(|_| {
                same_database::elsewhere(
                    "a notification of the store did not arrive at its feed: the feed is connected to another \
                     database than the pool, or through a transaction pooler",
                )
            })
    }
}

impl SessionFeed for PgSessionFeed {
    async fn listen(&self, hearing: &FeedSink) -> Error {
        let (client, connection) = match timeout(PATIENCE, self.connector.open()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return errors::connecting(error),
            Err(_) => return Error::from_kind(ErrorKind::Deadline),
        };
        let listener = match Listener::new() {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        let listening = pin!(listener.listen(connection, hearing));
        tokio::select! {
            error = listening => error,
            Err(error) = self.subscribe(&client, &listener, hearing) => error,
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
        let needs = format!(
            "schema version {SCHEMA_VERSION} of the triggers, each of them ENABLE ALWAYS: see \
             Migrate::notify_on_revocation"
        );
        Err(Error::new(ErrorKind::Schema, needs).with_message(
            "the triggers that announce ended sessions are missing, disabled or of another version",
        ))
    }
}

/// One connection's subscription.
struct Listener {
    channels: Mutex<Option<Channels>>,
    /// A channel that no other process knows.
    proof: String,
    arrived: Notify,
    /// The key of an advisory lock that no other process knows.
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
            proof: format!("tower_user_session_proof_{:016x}", random()?),
            arrived: Notify::new(),
            lock: random()?.cast_signed(),
        })
    }

    async fn listen(&self, mut connection: Box<dyn Messages>, hearing: &FeedSink) -> Error {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    self.receive(notification.channel(), notification.payload(), hearing);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return errors::connecting(error),
                None => return Error::from_kind(ErrorKind::Connection),
            }
        }
    }

    fn receive(&self, channel: &str, payload: &str, hearing: &FeedSink) {
        if channel == self.proof {
            self.arrived.notify_one();
            return;
        }
        let channels = lock(&self.channels).clone();
        let Some(channels) = channels else { return };
        if channel == channels.sessions || Some(channel) == channels.users.as_deref() {
            hearing.invalidate(payload::read(payload));
        }
    }
}

/// The connections of the store, which its writes use.
struct StoreConnection(ConnectionSet);

impl StoreConnection {
    async fn notify(&self, channel: &str) -> Result<(), Error> {
        let notify = "SELECT pg_catalog.pg_notify($1, '')";
        self.query(notify, &[(&channel, Type::TEXT)])
            .await
            .map(drop)
    }

    /// Whether a connection to the same database holds this advisory lock.
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
            connection.keep();
            Ok(row)
        };
        timeout(PATIENCE, query)
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

async fn patiently<T>(
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match timeout(PATIENCE, query).await {
        Ok(result) => result.map_err(errors::statement),
        Err(_) => {
            Err(Error::from_kind(ErrorKind::Deadline).with_message("the session feed timed out"))
        }
    }
}

/// As [`PgSessionStore::check`](super::PgSessionStore::check) does for the pool.
async fn warn_of_clear_text(client: &Client) -> Result<(), Error> {
    let query = "SELECT NOT ssl.ssl AND NOT coalesce(
                     pg_catalog.inet_client_addr() OPERATOR(pg_catalog.<<=) '127.0.0.0/8'::pg_catalog.inet
                     OR pg_catalog.inet_client_addr() OPERATOR(pg_catalog.=) '::1'::pg_catalog.inet, true)
                 FROM pg_catalog.pg_stat_ssl AS ssl
                 WHERE ssl.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";
    let rows = patiently(client.query_typed(query, &[])).await?;
    if let Some(row) = rows.first()
        && column(row, 0)?
    {
        tracing::warn!(
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
