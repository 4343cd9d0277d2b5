//! Databases whose encoding cannot store every character.

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use tower_user_session::{PgSessionStore, SessionService, tokio_postgres::NoTls};

use crate::support::{PgSessions, USERS, User};

/// One line per encoding: its name, a `User-Agent`, and what the list of sessions shows.
const ENCODINGS: &[(&str, &str, Option<&str>)] = &[
    ("UTF8", "Phone \u{1f4f1}", Some("Phone \u{1f4f1}")),
    ("SQL_ASCII", "Phone \u{1f4f1}", Some("Phone \u{1f4f1}")),
    ("LATIN1", "Phone \u{1f4f1}", None),
    ("LATIN1", "Téléphone", Some("Téléphone")),
    ("LATIN1", "Phone", Some("Phone")),
    ("WIN1251", "Phone \u{1f4f1}", None),
    ("EUC_JP", "Phone \u{1f4f1}", None),
];

/// M15: signing in works for each `User-Agent`, and the list of sessions is complete.
#[tokio::test]
async fn user_agent_that_the_encoding_cannot_store_is_left_out() {
    let server = TestDatabase::create("SELECT").await;
    let admin = server.client().await;
    for (number, (encoding, user_agent, shown)) in ENCODINGS.iter().enumerate() {
        let name = format!("{}_{number}", server.name());
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        admin.batch_execute(&create).await.unwrap();
        let mut config = server.config();
        config.dbname(&name);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(USERS).await.unwrap();
        let pool = Pool::builder(Manager::new(config, NoTls))
            .max_size(2)
            .build()
            .unwrap();
        PgSessionStore::<User>::new(pool.clone())
            .migrate()
            .await
            .unwrap();
        for pooling in [false, true] {
            let store = PgSessionStore::new(pool.clone());
            let sessions: PgSessions = SessionService::new(if pooling {
                store.with_transaction_pooling()
            } else {
                store
            });
            sessions.store().check().await.unwrap();
            let header = HeaderValue::from_bytes(user_agent.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(USER_AGENT, header)]);
            let ada = sessions.sign_in(1, &headers).await.unwrap();
            // In the application's transaction, which an error would abort.
            let mut lent = pool.get().await.unwrap();
            let transaction = lent.transaction().await.unwrap();
            let _ = sessions
                .sign_in(1, &headers)
                .in_transaction(&transaction)
                .await
                .unwrap();
            transaction.commit().await.unwrap();
            drop(lent);
            let listed = sessions.sessions_of(&1).await.unwrap();
            assert_eq!(listed.len(), 2, "{encoding}");
            for session in listed {
                assert_eq!(
                    session.user_agent.as_deref(),
                    *shown,
                    "{encoding}: {user_agent}"
                );
            }
            assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
            assert_eq!(sessions.revoke_all(&1).await.unwrap(), 2);
            sessions.close().await;
        }
        pool.close();
        drop(client);
        connection.await.unwrap().unwrap();
        admin
            .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await
            .unwrap();
    }
}

/// M15: bytes that another program wrote and that are not UTF-8 hide neither their session nor the
/// others.
#[tokio::test]
async fn unreadable_user_agent_hides_no_session() {
    let server = TestDatabase::create("SELECT").await;
    let admin = server.client().await;
    let name = format!("{}_ascii", server.name());
    let create =
        format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    admin.batch_execute(&create).await.unwrap();
    let mut config = server.config();
    config.dbname(&name);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(USERS).await.unwrap();
    let pool = Pool::builder(Manager::new(config, NoTls))
        .max_size(2)
        .build()
        .unwrap();
    let store = PgSessionStore::new(pool.clone());
    store.migrate().await.unwrap();
    let sessions: PgSessions = SessionService::new(store);
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    client
        .batch_execute("UPDATE sessions SET user_agent = E'T\\xe9l\\xe9phone'")
        .await
        .unwrap();
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    let listed = sessions.sessions_of(&1).await.unwrap();
    assert_eq!(listed.len(), 2);
    let shown = listed
        .iter()
        .find_map(|session| session.user_agent.as_deref());
    assert_eq!(shown, Some("T\u{fffd}l\u{fffd}phone"));
    sessions.close().await;
    pool.close();
    drop(client);
    connection.await.unwrap().unwrap();
    admin
        .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await
        .unwrap();
}

/// M15: an IPv4-mapped IPv6 address is stored as IPv4.
#[tokio::test]
async fn mapped_address_is_stored_as_ipv4() {
    let database = crate::support::database().await;
    let sessions = crate::support::sessions(&database);
    for (given, stored) in [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::1", "::1"),
    ] {
        let given: std::net::IpAddr = given.parse().unwrap();
        let _ = sessions.sign_in_without_request(1).ip(given).await.unwrap();
        let listed = sessions.sessions_of(&1).await.unwrap();
        assert_eq!(listed[0].ip, Some(stored.parse().unwrap()));
        sessions.revoke_all(&1).await.unwrap();
    }
}
