//! The application process and its protocol: a command with a token on one line, and an answer on
//! one line.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use http::{HeaderMap, Request, Response, header::SET_COOKIE};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, RequireUserLayer, SessionService,
    session::{Lifetime, SessionToken},
    tokio_postgres::{Config, NoTls},
};

use super::{CACHED, PLAIN};
use crate::support::{PATIENCE, PgSessions, User, cookie, recorded_logs};

/// Names the variable that has the database's address.
const DATABASE: &str = "WRONG_CLOCK_DATABASE";
/// Prefix of each answer; the test harness prints other lines.
const MARK: &str = "CLOCK ";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The library that intercepts the process's reads of its clock.
pub fn libfaketime() -> Option<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
    // Debian has a directory for each architecture.
    let own = std::fs::read_dir("/usr/lib").ok();
    folders.extend(
        own.into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    let library = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    folders
        .into_iter()
        .map(library)
        .find(|library| library.exists())
}

pub struct OtherProcess {
    child: Child,
    pipes: Mutex<(ChildStdin, mpsc::Receiver<String>)>,
    /// Names the variable with the clock's offset.
    clock: PathBuf,
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.clock);
    }
}

impl OtherProcess {
    pub(super) fn start(library: &Path, database: &TestDatabase) -> Self {
        let name = format!("wrong-clock-{}", std::process::id());
        let clock = std::env::temp_dir().join(name);
        std::fs::write(&clock, "+0").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["extended::wrong_clock::the_application", "--exact"])
            .args(["--ignored", "--nocapture"])
            .env(DATABASE, database.url())
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            // The library reads the file at each call.
            .env("FAKETIME_NO_CACHE", "1")
            // An old name and a new one.
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env_remove("FAKETIME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = child.stdin.take().unwrap();
        let said = answers(child.stdout.take().unwrap());
        assert_eq!(said.recv_timeout(PATIENCE).unwrap(), "ready");
        Self {
            child,
            pipes: Mutex::new((told, said)),
            clock,
        }
    }

    /// Sets the offset of the process's clock in seconds, and checks that it took effect.
    pub(super) fn turn(&self, offset: i64) {
        self.turn_quietly(offset);
        let its: i64 = self.ask("clock").parse().unwrap();
        let wrong = its - now();
        assert!((wrong - offset).abs() <= 5, "{wrong} instead of {offset}");
    }

    pub(super) fn turn_quietly(&self, offset: i64) {
        let new = self.clock.with_extension("new");
        std::fs::write(&new, format!("{offset:+}")).unwrap();
        std::fs::rename(new, &self.clock).unwrap();
    }

    pub(super) fn ask(&self, question: &str) -> String {
        tokio::task::block_in_place(|| {
            let (told, said) = &mut *self.pipes.lock().unwrap();
            told.write_all(format!("{question}\n").as_bytes()).unwrap();
            let answer = said.recv_timeout(PATIENCE);
            answer.unwrap_or_else(|error| panic!("{question}: {error}"))
        })
    }
}

/// Reads the answers in a thread of its own, so that the wait for one of them has a limit.
fn answers(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some((_, said)) = line.split_once(MARK)
                && sender.send(said.to_owned()).is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// Runs the application.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub async fn live() -> Option<()> {
    let config: Config = std::env::var(DATABASE).ok()?.parse().unwrap();
    recorded_logs::begin();
    let (plain, cached) = (service(&config), service(&config));
    let feed = cached.store().feed(config, NoTls);
    cached.enable_cache(feed, 1_000).await.unwrap();
    println!("{MARK}ready");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (word, token) = line.split_once(' ').unwrap_or((&line, ""));
        let token = SessionToken::parse(token.as_bytes());
        let answer = match (word, token) {
            ("clock", _) => now().to_string(),
            ("sign_in", _) => sign_in(&plain).await,
            ("clean_up", _) => plain.delete_expired().await.unwrap().to_string(),
            (PLAIN, Some(token)) => user(&plain, &token).await,
            (CACHED, Some(token)) => user(&cached, &token).await,
            ("proof", Some(token)) => proof(&plain, &token).await,
            ("kept", Some(token)) => kept(&cached, &token).await,
            ("from_memory", Some(token)) => from_memory(&cached, &token).await,
            ("until_over", Some(token)) => {
                while user(&cached, &token).await == "found" {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                "over".to_owned()
            }
            _ => "what?".to_owned(),
        };
        println!("{MARK}{answer}");
    }
    Some(())
}

fn service(config: &Config) -> PgSessions {
    let pool = Pool::builder(Manager::new(config.clone(), NoTls)).max_size(2);
    let lifetime = Lifetime::absolute(10 * HOUR).unwrap().with_idle(HOUR);
    let store = PgSessionStore::new(pool.build().unwrap()).with_lifetime(lifetime.unwrap());
    SessionService::new(store)
}

/// The token, the session's id, and the cookie's lifetime.
async fn sign_in(sessions: &PgSessions) -> String {
    let signed_in = sessions
        .sign_in_without_request(1)
        .remember(true)
        .await
        .unwrap();
    let mut headers = HeaderMap::new();
    signed_in.write_to(&mut headers);
    let cookie = headers[SET_COOKIE].to_str().unwrap();
    assert!(!cookie.to_ascii_lowercase().contains("expires"), "{cookie}");
    let max_age = cookie.split("Max-Age=").nth(1).unwrap_or("none");
    format!(
        "{} {} {}",
        signed_in.token().expose(),
        signed_in.session().id(),
        max_age.split(';').next().unwrap(),
    )
}

async fn user(sessions: &PgSessions, token: &SessionToken) -> String {
    match sessions.user(token).await {
        Ok(Some(_)) => "found".to_owned(),
        Ok(None) => "absent".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// The status of a route that requires an authentication within the last five minutes.
async fn proof(sessions: &PgSessions, token: &SessionToken) -> String {
    let guard = RequireUserLayer::<User>::new().max_auth_age(HOUR / 12);
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(guard)
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let mut request = Request::new(());
    *request.headers_mut() = cookie(sessions, token);
    let response = service.oneshot(request).await.unwrap();
    response.status().as_u16().to_string()
}

/// Looks the token up until it is answered from the cache.
async fn kept(sessions: &PgSessions, token: &SessionToken) -> String {
    for _ in 0..2_000 {
        let before = sessions.metrics().from_cache;
        let user = user(sessions, token).await;
        if user != "found" {
            return user;
        }
        if sessions.metrics().from_cache > before {
            return "kept".to_owned();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    "never kept".to_owned()
}

/// How many of a hundred results came from the cache, and how many statements were sent.
async fn from_memory(sessions: &PgSessions, token: &SessionToken) -> String {
    let before = sessions.metrics();
    for _ in 0..100 {
        assert_eq!(user(sessions, token).await, "found");
    }
    let after = sessions.metrics();
    let (hits, asked) = (
        after.from_cache - before.from_cache,
        after.statements - before.statements,
    );
    format!("{hits} {asked}")
}
