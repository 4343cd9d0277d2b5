//! Prints which sessions end or change, and which users change, as the feed announces them:
//!
//! ```sh
//! DATABASE_URL='postgresql://…' cargo run -p example-watch
//! ```
//!
//! It listens on the channels that `migrations/0002_announce_sessions.sql` documents, and reads no
//! table. Any role that may connect can run it. The connection does not use TLS.

use std::{env, future::poll_fn, pin::pin, time::SystemTime};

use tower_user_session::{
    BoxError,
    tokio_postgres::{AsyncMessage, Config, NoTls, Notification},
};

/// The channels of all triggers of the crate in this database.
const CHANNELS: &str = "
    SELECT DISTINCT CASE proname
        WHEN 'tower_user_session_announce' THEN 'tower_user_session_' || tgrelid::oid
        ELSE 'tower_user_session_users_' || tgrelid::oid
    END, tgrelid::regclass::text
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE proname IN ('tower_user_session_announce', 'tower_user_session_announce_user')";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let url = env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL")?;
    let config: Config = url.parse()?;
    let (client, mut connection) = config.connect(NoTls).await?;
    let listen = async {
        let channels = client.query(CHANNELS, &[]).await?;
        if channels.is_empty() {
            return Err("no triggers: run Migrate::notify_on_revocation".into());
        }
        for row in &channels {
            let (channel, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            client.batch_execute(&format!("LISTEN {channel}")).await?;
            print(&format!("watching {table} ({channel})"));
        }
        // The connection is lost if the client is dropped.
        std::future::pending::<Result<(), BoxError>>().await
    };
    let mut listen = pin!(listen);
    loop {
        let message = tokio::select! {
            biased;
            message = poll_fn(|cx| connection.poll_message(cx)) => message,
            ended = &mut listen => return ended,
        };
        match message {
            Some(Ok(AsyncMessage::Notification(notification))) => report(&notification),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the connection was closed".into()),
        }
    }
}

/// Prints one line for each id: `ended <session>`, `changed <session>`, `user <hash>`.
fn report(notification: &Notification) {
    let mut words = notification.payload().split(' ');
    let what = match words.next() {
        Some("users") => "user",
        Some(what) => what,
        None => return,
    };
    let ids: Vec<_> = words.collect();
    if ids.is_empty() {
        return print(what);
    }
    for id in ids {
        print(&format!("{what} {}", readable(id)));
    }
}

/// Returns an id in the spelling of the tables and the log.
fn readable(id: &str) -> String {
    let parts = [
        id.get(..8),
        id.get(8..12),
        id.get(12..16),
        id.get(16..20),
        id.get(20..32),
    ];
    let parts: Option<Vec<_>> = parts.into_iter().collect();
    parts.map_or(id.to_owned(), |parts| parts.join("-"))
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn print(line: &str) {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    println!("{:.3} {line}", since_1970.unwrap_or_default().as_secs_f64());
}
