//! A connection that records the notifications of the triggers.

use std::{collections::BTreeSet, future::poll_fn};

use ephemeral_postgres::TestDatabase;
use tokio::sync::mpsc;
use tower_user_session::{
    SignedIn,
    session::SessionId,
    tokio_postgres::{AsyncMessage, Client, NoTls, Notification},
};

use super::{
    database::database,
    users::{PgSessions, sessions},
};

/// A connection that listens to a table's channel.
pub struct Feed {
    client: Client,
    pub channel: String,
    /// The channel of the users table that the sessions reference.
    pub users: String,
    received: mpsc::UnboundedReceiver<Notification>,
    barrier: u32,
}

impl Feed {
    pub async fn of(database: &TestDatabase, table: &str) -> Self {
        let (client, mut connection) = database.config().connect(NoTls).await.unwrap();
        let (send, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = send.send(notification);
                }
            }
        });
        let oid = format!("SELECT '{table}'::regclass::oid");
        let oid: u32 = client.query_one(&oid, &[]).await.unwrap().get(0);
        let users = "SELECT confrelid FROM pg_constraint
            WHERE conrelid = $1 AND contype = 'f' ORDER BY oid LIMIT 1";
        let users: u32 = client.query_one(users, &[&oid]).await.unwrap().get(0);
        let channel = format!("tower_user_session_{oid}");
        let users = format!("tower_user_session_users_{users}");
        let listen = format!("LISTEN {channel}; LISTEN {users}; LISTEN barrier");
        client.batch_execute(&listen).await.unwrap();
        Self {
            client,
            channel,
            users,
            received,
            barrier: 0,
        }
    }

    /// Returns the payloads since the last call. Notifications arrive in the order of the commits,
    /// so a notification of this connection follows all of them.
    pub async fn received(&mut self) -> Vec<String> {
        self.barrier += 1;
        let barrier = format!("NOTIFY barrier, '{}'", self.barrier);
        self.client.batch_execute(&barrier).await.unwrap();
        let mut payloads = Vec::new();
        loop {
            let notification = self.received.recv().await.unwrap();
            if notification.channel() == "barrier" {
                assert_eq!(notification.payload(), self.barrier.to_string());
                return payloads;
            }
            let of_users = notification.payload().starts_with("users ");
            let expected = if of_users { &self.users } else { &self.channel };
            let everything = notification.payload() == "everything";
            assert!(everything || notification.channel() == expected);
            payloads.push(notification.payload().to_owned());
        }
    }

    pub async fn expect_none(&mut self, what: &str) {
        assert_eq!(self.received().await, [""; 0], "{what}");
    }

    /// Expects one notification of this kind, for these sessions in any order.
    pub async fn one(&mut self, kind: &str, sessions: &[SessionId]) {
        self.names(kind, sessions.iter().map(name)).await;
    }

    /// Expects one notification of the users with these keys, in any order.
    pub async fn users(&mut self, keys: &[&str]) {
        let mut hashes = Vec::new();
        for key in keys {
            let hash = "SELECT lpad(to_hex(hashtextextended($1, 0)), 16, '0')";
            let row = self.client.query_one(hash, &[key]).await.unwrap();
            hashes.push(row.get::<_, String>(0));
        }
        self.names("users", hashes.into_iter()).await;
    }

    async fn names(&mut self, kind: &str, names: impl Iterator<Item = String>) {
        let received = self.received().await;
        let [payload] = &received[..] else {
            panic!("{received:?}");
        };
        let mut words = payload.split(' ');
        assert_eq!(words.next(), Some(kind));
        let words: Vec<_> = words.collect();
        let expected: BTreeSet<_> = names.collect();
        assert_eq!(words.len(), expected.len(), "{payload}");
        let announced: BTreeSet<_> = words.into_iter().map(str::to_owned).collect();
        assert_eq!(announced, expected);
    }
}

/// The id as it stands in a payload.
pub fn name(id: &SessionId) -> String {
    id.to_string().replace('-', "")
}

pub fn id(signed_in: &SignedIn) -> SessionId {
    signed_in.session().id()
}

pub async fn announced_sessions() -> (TestDatabase, PgSessions, Feed) {
    let database = database().await;
    let sessions = sessions(&database);
    let migrate = sessions.store().migrate().notify_on_revocation();
    migrate.await.unwrap();
    let feed = Feed::of(&database, "sessions").await;
    (database, sessions, feed)
}

pub async fn announced_users() -> (TestDatabase, PgSessions, Feed) {
    let (database, sessions, feed) = announced_sessions().await;
    let migrate = sessions.store().migrate().notify_on_user_change();
    migrate.await.unwrap();
    (database, sessions, feed)
}
