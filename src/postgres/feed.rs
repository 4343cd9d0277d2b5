//! The feed of ended sessions: `LISTEN`, and a heartbeat that comes back as a notification.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Notification, Row, Socket,
    tls::{MakeTlsConnect, TlsConnect},
    types::{ToSql, Type},
};

use super::failure;
use crate::{Announcement, Error, ErrorKind, Hearing, SessionFeed, SessionId};

/// Longer than this nothing on the feed's connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The feed that [`PgSessionStore::feed`](super::PgSessionStore::feed) makes: one connection that
/// listens.
///
/// # Cost
///
/// A connection a process, and four small statements in a lease. PostgreSQL wakes every process that
/// listens in the database for every heartbeat.
///
/// # Trust
///
/// Whoever may connect to the database may announce anything. That costs this crate questions, and
/// nothing else: what is announced is never believed, only asked about again. A payload that cannot be
/// read counts as "anything may have changed".
pub struct PgSessionFeed<T> {
    config: Config,
    tls: T,
    announced: String,
    table: String,
}

impl<T> PgSessionFeed<T> {
    pub(super) const fn new(config: Config, tls: T, announced: String, table: String) -> Self {
        Self {
            config,
            tls,
            announced,
            table,
        }
    }

    /// The channel on which sessions are announced, and whether changes of users are.
    fn channel(asked: Result<Vec<Row>, tokio_postgres::Error>) -> Result<(String, bool), Error> {
        let rows = asked.map_err(failure::statement)?;
        let row = rows.first().ok_or(Error::bare(ErrorKind::Row))?;
        let read = |error| Error::new(ErrorKind::Row, error);
        if row.try_get(1).map_err(read)? {
            Ok((row.try_get(0).map_err(read)?, row.try_get(2).map_err(read)?))
        } else {
            Err(Error::bare(ErrorKind::Schema).saying(
                "the triggers that announce ended sessions are not on the sessions' table: see \
                 Migrate::announce_ended_sessions",
            ))
        }
    }

    /// A heartbeat, which is sent only where it is about something: the triggers stand, and on the table
    /// whose channel is listened to.
    fn beat(&self) -> String {
        format!(
            "SELECT announced.*, CASE \
                 WHEN announced.are_all AND announced.channel OPERATOR(pg_catalog.=) $2 \
                 THEN pg_catalog.pg_notify($3, $4) \
             END \
             FROM ({}\n) AS announced (channel, are_all, users)",
            self.announced
        )
    }

    async fn speak(
        &self,
        client: &Client,
        heartbeat: &Heartbeat,
        channels: &Mutex<Option<String>>,
        hearing: &Hearing,
    ) -> Result<(), Error> {
        let table: (&(dyn ToSql + Sync), Type) = (&self.table, Type::TEXT);
        let asked = client.query_typed(&self.announced, &[table]).await;
        let (channel, users) = Self::channel(asked)?;
        if !users {
            tracing::info!(
                "changes of users are not announced: a cache notices them when a session is looked up again"
            );
        }
        let listen = format!("LISTEN {channel}; LISTEN {}", heartbeat.channel);
        *lock(channels) = Some(channel.clone());
        client.batch_execute(&listen).await.map_err(|error| {
            failure::statement(error)
                .saying("the database cannot LISTEN, or not on this connection")
        })?;
        hearing.connected();
        // Prepared, because to plan it takes the server several times as long as to run it.
        let beat = self.beat();
        let beat = client
            .prepare_typed(&beat, &[const { Type::TEXT }; 4])
            .await;
        let beat = beat.map_err(failure::statement)?;
        loop {
            let payload = heartbeat.begin();
            let values: [&(dyn ToSql + Sync); 4] =
                [&self.table, &channel, &heartbeat.channel, &payload];
            let asked = client.query(&beat, &values).await;
            if Self::channel(asked)?.0 != channel {
                return Err(Error::bare(ErrorKind::Schema)
                    .saying("another table of sessions has taken the place of this one"));
            }
            hearing.heartbeat_due().await;
        }
    }
}

impl<T> SessionFeed for PgSessionFeed<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    async fn hear(&self, hearing: &Hearing) -> Error {
        let connecting = timeout(PATIENCE, self.config.connect(self.tls.clone())).await;
        let (client, connection) = match connecting {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return failure::connecting(error),
            Err(_) => return Error::bare(ErrorKind::Deadline),
        };
        let heartbeat = match Heartbeat::new() {
            Ok(heartbeat) => heartbeat,
            Err(error) => return error,
        };
        let channels = Mutex::new(None);
        let notified = |notification: &Notification| {
            if notification.channel() == heartbeat.channel {
                if let Some(sent) = heartbeat.came_back(notification.payload()) {
                    hearing.proved(sent);
                }
            } else if lock(&channels).as_deref() == Some(notification.channel()) {
                hearing.announced(read(notification.payload()));
            }
        };
        let listening = pin!(listen(connection, notified));
        let speaking = self.speak(&client, &heartbeat, &channels, hearing);
        tokio::select! {
            error = listening => error,
            Err(error) = patiently(speaking, &heartbeat) => error,
        }
    }
}

/// Ends only with an error: the speaker's, or that nothing has come back for too long.
async fn patiently(
    speaking: impl Future<Output = Result<(), Error>>,
    heartbeat: &Heartbeat,
) -> Result<(), Error> {
    let mut speaking = pin!(speaking);
    loop {
        if let Ok(ended) = timeout(PATIENCE, speaking.as_mut()).await {
            return ended;
        }
        if heartbeat
            .waits_since()
            .is_some_and(|since| since.elapsed() >= PATIENCE)
        {
            return Err(Error::bare(ErrorKind::Deadline)
                .saying("the heartbeat of the feed of ended sessions did not come back"));
        }
    }
}

async fn listen<S, T>(mut connection: Connection<S, T>, notified: impl Fn(&Notification)) -> Error
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => notified(&notification),
            Some(Ok(_)) => {}
            Some(Err(error)) => return failure::connecting(error),
            None => return Error::bare(ErrorKind::Connection),
        }
    }
}

/// One heartbeat at a time, on a channel that nobody else knows.
struct Heartbeat {
    channel: String,
    state: Mutex<Beats>,
}

struct Beats {
    count: u64,
    /// Until it has come back. Before the first, since when there is a connection.
    sent: Option<Instant>,
}

impl Heartbeat {
    fn new() -> Result<Self, Error> {
        let random = SysRng
            .try_next_u64()
            .map_err(|error| Error::new(ErrorKind::Random, error))?;
        Ok(Self {
            channel: format!("tower_user_session_heartbeat_{random:016x}"),
            state: Mutex::new(Beats {
                count: 0,
                sent: Some(Instant::now()),
            }),
        })
    }

    fn begin(&self) -> String {
        let mut beats = lock(&self.state);
        beats.count += 1;
        beats.sent = Some(Instant::now());
        beats.count.to_string()
    }

    fn came_back(&self, payload: &str) -> Option<Instant> {
        let mut beats = lock(&self.state);
        if payload != beats.count.to_string() {
            return None;
        }
        beats.sent.take()
    }

    fn waits_since(&self) -> Option<Instant> {
        lock(&self.state).sent
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ended <id> …`, `changed <id> …` or `everything`, with ids of 32 hexadecimal digits. What is none of
/// these may mean anything, and so it means everything.
fn read(payload: &str) -> Announcement {
    let ids = payload
        .strip_prefix("ended ")
        .or_else(|| payload.strip_prefix("changed "));
    let sessions = ids.and_then(|ids| ids.split(' ').map(id).collect());
    sessions.map_or(Announcement::Everything, Announcement::Sessions)
}

fn id(text: &str) -> Option<SessionId> {
    (text.len() == 32).then_some(())?;
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    Some(SessionId::from_bytes(uuid.into_bytes()))
}

impl<T> fmt::Debug for PgSessionFeed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSessionFeed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_sessions_or_means_everything() {
        let one = "0123456789abcdef0123456789abcdef";
        let ids = |text: &str| match read(text) {
            Announcement::Sessions(ids) => ids.len(),
            _ => 0,
        };
        assert_eq!(ids(&format!("ended {one}")), 1);
        assert_eq!(ids(&format!("changed {one} {one}")), 2);
        for strange in [
            "",
            "everything",
            "ended",
            "ended ",
            "began 0123456789abcdef0123456789abcdef",
            "ended 0123456789abcdef0123456789abcde",
            "ended 0123456789abcdef0123456789abcdef ",
            "ended 01234567-89ab-cdef-0123-456789abcdef",
            "ended 0123456789abcdef0123456789abcdeg",
            "ended \u{1d7d8}123456789abcdef0123456789ab",
        ] {
            assert_eq!(read(strange), Announcement::Everything, "{strange}");
        }
        assert_eq!(read(&"x".repeat(8_000)), Announcement::Everything);
    }
}
