//! The logs of the server and the application, searched for tokens.

use std::fmt::Write as _;

use ephemeral_postgres::{Server, TestDatabase};
use http::HeaderMap;
use tower_user_session::{PgSessionStore, SessionService, session::SessionToken};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Logs, USERS, User, cookie, database, pool, recorded_logs};

#[derive(Clone, Default)]
struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        recorded_logs::note(bytes);
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Each spelling of some bytes.
fn spellings(bytes: &[u8]) -> [String; 3] {
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    [format!("{bytes:?}"), hex.to_uppercase(), hex]
}

fn raw(token: &SessionToken) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(token.expose())
        .unwrap()
}

/// B06, I03, I04: with all statements, parameters and events logged, no token is in the server's
/// log, tables, statement statistics or write-ahead log. Neither a token nor a digest is in the
/// application's log.
#[tokio::test]
async fn no_token_is_logged_or_stored() {
    let server = tokio::task::spawn_blocking(|| {
        Server::start_private(&[
            ("log_statement", "all"),
            ("log_min_duration_statement", "0"),
            ("log_parameter_max_length", "-1"),
            ("log_parameter_max_length_on_error", "-1"),
        ])
    });
    let server = server.await.unwrap().unwrap();
    let database = TestDatabase::create_on(&server, USERS).await.unwrap();
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(written.clone())
        .finish();
    // `tokio-postgres` logs through this.
    let _ = tracing_log::LogTracer::init();
    let logging = tracing::subscriber::set_default(subscriber);

    let store = PgSessionStore::<User>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    let sessions = SessionService::new(store);
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let signed_in = sessions.sign_in_without_request(1).await.unwrap();
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
        let headers: HeaderMap = cookie(&sessions, signed_in.token());
        let confirmed = sessions.reauthenticate(1, &headers).await.unwrap();
        let again = sessions
            .sign_in(1, &cookie(&sessions, confirmed.token()))
            .await
            .unwrap();
        sessions.sessions_of(&1).await.unwrap();
        tracing::trace!(?signed_in, ?again, ?sessions, "all of it");
        tokens.extend([
            raw(signed_in.token()),
            raw(confirmed.token()),
            raw(again.token()),
        ]);
    }
    let last = SessionToken::generate().unwrap();
    assert!(sessions.user(&last).await.unwrap().is_none());
    tokens.push(raw(&last));
    sessions.close().await;
    drop(logging);

    let client = database.client().await;
    let dump: String = client
        .query_one(
            "SELECT (SELECT string_agg(s::text, ' ') FROM sessions AS s) || (SELECT string_agg(a::text, ' ')
             FROM pg_stat_activity AS a)",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let wal = std::fs::read_dir(server.directory().unwrap().join("data/pg_wal")).unwrap();
    let wal: Vec<u8> = wal
        .flatten()
        .filter(|file| file.path().is_file())
        .flat_map(|file| std::fs::read(file.path()).unwrap())
        .collect();
    let server_log = server.log();
    // Later versions of PostgreSQL write a capital letter.
    assert!(
        server_log.contains("AS asked (asked_digest)") && server_log.contains("arameters: $1 =")
    );
    let application = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(application.contains("executing statement") || application.contains("preparing query"));

    let wal = (&*wal, &*server_log);
    search(&tokens, &dump, &application, wal);
}

/// Searches all logs and files, and checks that the search can find what it looks for.
fn search(tokens: &[Vec<u8>], dump: &str, application: &str, (wal, server_log): (&[u8], &str)) {
    for token in tokens {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let text = engine.encode(token);
        let digest = SessionToken::parse(text.as_bytes()).unwrap().digest();
        let found = |haystack: &str, bytes: &[u8]| {
            spellings(bytes)
                .iter()
                .any(|spelling| haystack.contains(spelling))
                || haystack.contains(&engine.encode(bytes))
        };
        for (place, haystack) in [
            ("server's log", server_log),
            ("tables", dump),
            ("application's log", application),
        ] {
            assert!(!found(haystack, token), "a token is in the {place}");
        }
        assert!(
            !found(application, digest.as_bytes()),
            "a digest is in the application's log"
        );
        assert!(
            !memmem(wal, token) && !memmem(wal, text.as_bytes()),
            "a token is in the WAL"
        );
    }
    // The search works: it finds the digests where they are expected.
    let digest = SessionToken::parse(
        base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            &tokens[0],
        )
        .as_bytes(),
    )
    .unwrap()
    .digest();
    assert!(server_log.contains(&spellings(digest.as_bytes())[2]));
    assert!(memmem(wal, digest.as_bytes()));
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// I01: the driver logs the parameters of each statement at the level `debug`. A condition of a
/// sign-in may be a password hash.
#[tokio::test]
async fn no_condition_of_a_sign_in_is_logged() {
    let database = database().await;
    let store = || PgSessionStore::<User>::new(pool(&database, 2));
    let _ = tracing_log::LogTracer::init();
    for (store, logs_parameters) in [(store(), true), (store().with_transaction_pooling(), false)] {
        let sessions = SessionService::new(store);
        let logs = Logs::capture();
        for role in ["member", "top-secret-hash"] {
            let sign_in = sessions.sign_in_without_request(1);
            let signed_in = sign_in.if_unchanged("u.role", role.to_owned()).await;
            assert_eq!(signed_in.is_ok(), role == "member", "{role}");
        }
        let log = logs.text();
        assert!(
            log.contains("PrivateValue") || !logs_parameters,
            "the driver logged no parameter"
        );
        assert!(!log.contains("top-secret-hash"), "{log}");
    }
}
