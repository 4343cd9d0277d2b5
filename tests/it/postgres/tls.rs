//! Connections to the database: encrypted to other hosts, and only to a server that proves its
//! identity.
//!
//! The other host is `db.example`, with `hostaddr` leading to this machine.

use std::{
    error::Error as _,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::Request;
use rcgen::KeyPair;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};
use tower_user_session::{
    Error, ErrorKind, LoadUserLayer, PgSessionStore, SessionService, postgres::PgPoolBuilder,
    rejection::Rejection, service::DEFAULT_DEADLINE, session::SessionToken,
};

use crate::support::{
    Logs, PATIENCE, PgSessions, User,
    caching::until_cached,
    cookie, database, number, pool,
    tls_server::{Listening, authority, recorder, signed},
    who,
};

/// What a client that requires TLS sends first, and nothing else until it is accepted.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Whether these bytes are a startup message.
fn tells_the_user(said: &[u8]) -> bool {
    const WORDS: &[u8] = b"user\0postgres\0";
    said.windows(WORDS.len()).any(|part| part == WORDS)
}

fn store(builder: PgPoolBuilder) -> PgSessionStore<User> {
    PgSessionStore::new(builder.max_size(2).build().unwrap())
}

/// The texts of the error and its sources.
fn told(error: &Error) -> String {
    let mut told = format!("{error:?} {error:#?} {error}");
    let mut next = error.source();
    while let Some(source) = next {
        let _ = write!(told, ": {source} {source:?}");
        next = source.source();
    }
    told
}

async fn kind_for(builder: PgPoolBuilder) -> ErrorKind {
    let store = store(builder);
    let kind = store.check().await.unwrap_err().kind();
    // A lookup has its own connections, with the same result.
    let sessions = SessionService::new(store);
    let token = SessionToken::generate().unwrap();
    assert_eq!(sessions.user(&token).await.unwrap_err().kind(), kind);
    kind
}

/// F20: a server without TLS, or with a wrong or expired certificate, is an error, and receives
/// nothing in clear text. With the right certificate every connection is encrypted.
#[tokio::test]
async fn only_a_server_with_a_valid_certificate_is_used() {
    let test = "postgres::tls::only_a_server_with_a_valid_certificate_is_used";
    let Some(listening) = Listening::start(test).await else {
        return;
    };
    let (port, said) = recorder(listening.port).await;
    let ours = authority("ours");
    let builder = |options: &str| {
        let url = listening.elsewhere(port, options);
        PgPoolBuilder::from_url(&url)
            .unwrap()
            .root_certificates(ours.pem())
    };

    // None: for each connection string, and even if another of its hosts is on this machine.
    let name = listening.database.name();
    let several = format!(
        "host=db.example,localhost hostaddr=127.0.0.1,127.0.0.1 port={port} user=postgres dbname={name}"
    );
    for refused in [
        builder(""),
        builder("&sslmode=prefer"),
        builder("&sslmode=require"),
        PgPoolBuilder::from_url(&several)
            .unwrap()
            .root_certificates(ours.pem()),
    ] {
        assert_eq!(kind_for(refused).await, ErrorKind::Tls);
        let said = std::mem::take(&mut *said.lock().unwrap());
        assert!(said.len() >= SSL_REQUEST.len());
        assert!(
            said.chunks(SSL_REQUEST.len())
                .all(|part| part == SSL_REQUEST)
        );
    }

    let theirs = authority("theirs");
    listening.write("root.crt", &ours.pem());
    for (certificate, why) in [
        (
            signed(&ours, &["db.example"], "server", 2020),
            "it has expired",
        ),
        (
            signed(&ours, &["other.example", "127.0.0.1"], "db.example", 4000),
            "it is another's",
        ),
        (
            signed(&theirs, &["db.example"], "server", 4000),
            "its authority is unknown",
        ),
    ] {
        listening.present(certificate).await;
        assert_eq!(kind_for(builder("")).await, ErrorKind::Tls, "{why}");
        assert_eq!(
            kind_for(builder("&sslmode=prefer")).await,
            ErrorKind::Tls,
            "{why}"
        );
    }

    listening
        .present(signed(&ours, &["db.example"], "server", 4000))
        .await;
    let store = store(builder(""));
    store.migrate().await.unwrap();
    let check = store.check().await.unwrap();
    assert_eq!(check.encrypted(), Some(true));
    assert_eq!(check.wait_timeout(), Some(Duration::from_secs(2)));
    assert_eq!(check.create_timeout(), Some(Duration::from_secs(3)));
    let sessions = SessionService::new(store);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    let encrypted = "SELECT count(*), count(*) FILTER (WHERE ssl)
        FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
        WHERE application_name = 'tower-user-session'";
    let client = listening.database.client().await;
    let row = client.query_one(encrypted, &[]).await.unwrap();
    // Two for lookups, two for writes and one of the pool, with which the check compared them.
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (5, 5));

    let direct = builder("&sslnegotiation=direct");
    let version: i32 = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get(0);
    if version >= 170_000 {
        assert!(self::store(direct).check().await.is_ok());
    }
    assert!(!tells_the_user(&said.lock().unwrap()));
}

/// L03: a clear-text connection to another host needs an explicit setting, and is logged. On this
/// machine it needs none.
#[tokio::test]
async fn an_unencrypted_connection_needs_an_explicit_setting() {
    let test = "postgres::tls::an_unencrypted_connection_needs_an_explicit_setting";
    let Some(listening) = Listening::start(test).await else {
        return;
    };
    let (port, said) = recorder(listening.port).await;
    let url = listening.elsewhere(port, "&sslmode=disable");
    let builder = || PgPoolBuilder::from_url(&url).unwrap();
    let error = builder().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(said.lock().unwrap().is_empty());

    let logs = Logs::capture();
    let store = store(builder().insecure_clear_text());
    assert!(logs.text().contains("WARN") && logs.text().contains("clear text"));
    drop(logs);
    assert_eq!(store.check().await.unwrap().encrypted(), Some(false));
    assert!(tells_the_user(&said.lock().unwrap()));

    // On this machine, also if the server has an untrusted certificate.
    for certificate in [false, true] {
        if certificate {
            let theirs = authority("theirs");
            listening.write("root.crt", &theirs.pem());
            listening
                .present(signed(&theirs, &["db.example"], "server", 4000))
                .await;
        }
        let name = listening.database.name();
        let socket = listening.server.directory().unwrap().display();
        for url in [
            format!("postgres://postgres@127.0.0.1:{}/{name}", listening.port),
            format!(
                "host={socket} port={} user=postgres dbname={name}",
                listening.port
            ),
        ] {
            let logs = Logs::capture();
            let store = self::store(PgPoolBuilder::from_url(&url).unwrap());
            let check = store.check().await.unwrap();
            assert_ne!(check.encrypted(), Some(true));
            assert!(!logs.text().contains("WARN"), "{}", logs.text());
        }
    }
}

/// F19: a wrong password has its own error kind, unlike a missing server, is a 503 for clients, and
/// is not printed. With the right one, the password is bound to the channel. A client certificate
/// works too.
#[tokio::test]
async fn a_wrong_password_has_its_own_error_kind_and_is_not_printed() {
    let test = "postgres::tls::a_wrong_password_has_its_own_error_kind_and_is_not_printed";
    let Some(listening) = Listening::start(test).await else {
        return;
    };
    let ours = authority("ours");
    listening.write("root.crt", &ours.pem());
    listening
        .present(signed(&ours, &["db.example"], "server", 4000))
        .await;
    listening
        .run(
            "CREATE ROLE certified SUPERUSER LOGIN;
             CREATE ROLE app SUPERUSER LOGIN PASSWORD 'correct horse'",
        )
        .await;
    let loopback = "127.0.0.1/32";
    listening
        .let_in(&format!(
            "hostssl all app {loopback} scram-sha-256\nhostssl all certified {loopback} cert\nhostssl all postgres {loopback} trust"
        ))
        .await;
    let name = listening.database.name();
    let builder = |login: &str, options: &str| {
        let port = listening.port;
        let url =
            format!("postgres://{login}@db.example:{port}/{name}?hostaddr=127.0.0.1{options}");
        PgPoolBuilder::from_url(&url)
            .unwrap()
            .root_certificates(ours.pem())
    };

    let _ = tracing_log::LogTracer::init();
    let logs = Logs::capture();
    let wrong = builder("app:battery%20staple", "");
    let mut all = format!("{wrong:?} {wrong:#?}");
    let pool = wrong.max_size(2).build().unwrap();
    let sessions: PgSessions = SessionService::new(PgSessionStore::new(pool.clone()));
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    let mut request = Request::new(String::new());
    *request.headers_mut() = cookie(&sessions, &SessionToken::generate().unwrap());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    let rejection = response.extensions().get::<Rejection>().unwrap();
    let sign_in = sessions.sign_in_without_request(1).await.unwrap_err();
    let check = sessions.store().check().await.unwrap_err();
    for error in [rejection.error().unwrap(), &sign_in, &check] {
        assert_eq!(error.kind(), ErrorKind::Authentication);
        all += &told(error);
    }
    let _ = write!(all, "{pool:?} {sessions:?} {response:?} {}", logs.text());
    assert!(all.contains("password authentication failed"), "{all}");
    for secret in ["battery", "staple"] {
        assert!(!all.contains(secret), "{all}");
    }
    // Bytes, as a list would show them.
    assert!(!all.contains("98, 97, 116"), "{all}");
    drop(logs);

    let bound = builder("app:correct%20horse", "&channel_binding=require");
    assert!(store(bound).check().await.is_ok());
    // Without a password, without a line in `pg_hba.conf`, and if the server skips its own part of
    // the authentication.
    for (login, options, kind) in [
        ("app", "", ErrorKind::Configuration),
        ("nobody:x", "", ErrorKind::Authentication),
        (
            "postgres",
            "&channel_binding=require",
            ErrorKind::Authentication,
        ),
        (
            "app:correct%20horse",
            "&target_session_attrs=read-write&options=-c%20default_transaction_read_only=on",
            ErrorKind::Recovery,
        ),
    ] {
        assert_eq!(
            kind_for(builder(login, options)).await,
            kind,
            "{login} {options}"
        );
    }

    let certified = builder("certified", "");
    assert_eq!(kind_for(certified).await, ErrorKind::Authentication);
    let (chain, key) = signed(&ours, &[], "certified", 4000);
    let certified = builder("certified", "").client_certificate(chain, key.as_str());
    assert!(!format!("{certified:?}").contains(&key[30..60]));
    assert!(store(certified).check().await.is_ok());
}

/// F02, F06: a host that accepts the connection and never responds is an error within the deadline,
/// for all callers. A host that refuses it is an error at once.
#[tokio::test]
async fn every_wait_has_a_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let builder = || PgPoolBuilder::from_url(&format!("postgres://postgres@127.0.0.1:{port}/app"));
    let store = PgSessionStore::<User>::new(builder().unwrap().max_size(1).build().unwrap());
    let start = Instant::now();
    let (first, second) = tokio::join!(store.check(), store.check());
    let took = start.elapsed();
    for outcome in [first, second] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Deadline);
    }
    assert!(
        took >= DEFAULT_DEADLINE && took < 3 * DEFAULT_DEADLINE,
        "{took:?}"
    );

    drop(silent);
    let start = Instant::now();
    assert_eq!(kind_for(builder().unwrap()).await, ErrorKind::Connection);
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Unusable settings are rejected before the first connection.
#[test]
fn unusable_certificates_are_rejected() {
    let builder = || PgPoolBuilder::from_url("postgres://postgres@db.example/app").unwrap();
    let ours = authority("ours");
    let (chain, key) = signed(&ours, &["client"], "client", 4000);
    let broken = ours.pem().replacen("MII", "AAA", 1);
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    for refused in [
        builder().root_certificates(""),
        builder().root_certificates(key.as_str()),
        builder().root_certificates(broken),
        builder().client_certificate("", key.as_str()),
        builder().client_certificate(chain.as_str(), "no key"),
        builder().client_certificate(chain.as_str(), other_key.as_str()),
        builder().max_size(0),
    ] {
        let error = refused.root_certificates(ours.pem()).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let told = told(&error);
        assert!(
            !told.contains(&key[30..60]) && !told.contains(&other_key[30..60]),
            "{told}"
        );
    }
    let usable = builder().client_certificate(chain, key);
    assert!(usable.root_certificates(ours.pem()).build().is_ok());
}

/// A pool that the application built without timeouts is reported.
#[tokio::test]
async fn a_pool_without_timeouts_is_reported() {
    let database = database().await;
    let logs = Logs::capture();
    let store = PgSessionStore::<User>::new(pool(&database, 1));
    let check = store.check().await.unwrap();
    assert_eq!((check.wait_timeout(), check.create_timeout()), (None, None));
    assert!(
        logs.events()
            .iter()
            .any(|line| line.contains("WARN") && line.contains("wait for"))
    );
}

/// N07: the feed connects as the pool does, with its TLS and with a rotating password. After a
/// rotation both reconnect without help.
#[tokio::test]
async fn a_feed_connects_as_the_pool_does_after_the_password_was_rotated() {
    let test = "postgres::tls::a_feed_connects_as_the_pool_does_after_the_password_was_rotated";
    let Some(listening) = Listening::start(test).await else {
        return;
    };
    let ours = authority("ours");
    listening.write("root.crt", &ours.pem());
    listening
        .present(signed(&ours, &["db.example"], "server", 4000))
        .await;
    let store = PgSessionStore::<User>::new(pool(&listening.database, 1));
    store.migrate().notify_on_user_change().await.unwrap();
    let role = "CREATE ROLE app SUPERUSER LOGIN PASSWORD 'first'";
    listening.run(role).await;
    listening
        .let_in("hostssl all app 127.0.0.1/32 scram-sha-256")
        .await;
    let (name, port) = (listening.database.name(), listening.port);
    let url = format!("postgres://app@db.example:{port}/{name}?hostaddr=127.0.0.1");
    let password = Arc::new(Mutex::new("first".to_owned()));
    let current = Arc::clone(&password);
    let (pool, connector) = PgPoolBuilder::from_url(&url)
        .unwrap()
        .root_certificates(ours.pem())
        .password(move || {
            let password = current.lock().unwrap().clone();
            async move { Ok::<_, std::io::Error>(password) }
        })
        .max_size(2)
        .build_with_connector()
        .unwrap();
    let sessions: PgSessions = SessionService::new(PgSessionStore::new(pool));
    let feed = sessions.store().feed_with(&connector);
    sessions.enable_cache(feed, 10).await.unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    until_cached(&sessions, ada.token()).await;

    listening.run("ALTER ROLE app PASSWORD 'second'").await;
    "second".clone_into(&mut password.lock().unwrap());
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE usename = 'app' AND pid <> pg_backend_pid()";
    listening.run(end).await;
    let patience = Instant::now() + PATIENCE;
    while !matches!(sessions.user(ada.token()).await, Ok(Some(_))) {
        assert!(Instant::now() < patience, "the pool does not reconnect");
    }
    until_cached(&sessions, ada.token()).await;
    // Both are encrypted.
    let clear = "SELECT count(*) FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)
        WHERE a.usename = 'app' AND NOT s.ssl";
    assert_eq!(number(&listening.database, clear).await, 0);
}
