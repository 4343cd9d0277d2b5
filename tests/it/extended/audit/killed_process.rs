//! A process of the operating system that is killed after its transaction has committed and before
//! it has received the response: this test binary again, behind a proxy that drops the response.

use std::{
    io::{BufRead, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    PgSessionStore, SessionService, postgres::PgConnector, tokio_postgres::NoTls,
};

use crate::support::{
    history::workload::Sessions,
    proxy::{Line, Proxy},
};

/// Names the variable with the operation and the address of the proxy.
const DATABASE: &str = "AUDIT_VICTIM";
const USER: i64 = 10_000;

pub struct Victim {
    child: Child,
    /// The child ends when this closes.
    _told: ChildStdin,
}

impl Victim {
    /// Starts a process that sends its operation to the database.
    pub async fn start(database: &TestDatabase, operation: &str) -> Self {
        let proxy = Proxy::before(database).await;
        let config = proxy.config();
        let database = format!(
            "{operation};host=127.0.0.1 port={} user={} dbname={}",
            config.get_ports()[0],
            config.get_user().unwrap(),
            config.get_dbname().unwrap()
        );
        let starting = tokio::task::spawn_blocking(move || {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "extended::audit::victim",
                    "--exact",
                    "--ignored",
                    "--nocapture",
                ])
                .env(DATABASE, database)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let told = child.stdin.take().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().ends_with("ready")));
            (child, told)
        });
        let (child, mut told) = starting.await.unwrap();
        // From now on the responses to COMMIT are dropped.
        proxy.set(Line::UnansweredCommit);
        told.write_all(b"go\n").unwrap();
        Self { child, _told: told }
    }

    /// Kills the process, which still waits for the response.
    pub async fn kill(mut self) {
        let kill = tokio::task::spawn_blocking(move || {
            assert_eq!(self.child.try_wait().unwrap(), None, "it got a response");
            self.child.kill().unwrap();
            self.child.wait().unwrap()
        });
        assert!(!kill.await.unwrap().success());
    }
}

/// Runs the process that is killed; returns at once in a process that no test started as such.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub async fn live() {
    let Ok(told) = std::env::var(DATABASE) else {
        return;
    };
    let (operation, config) = told.split_once(';').unwrap();
    let manager = PgConnector::new(config.parse().unwrap(), NoTls).manager();
    let pool = Pool::builder(manager).max_size(2).build().unwrap();
    let store = PgSessionStore::new(pool);
    let builder = SessionService::builder(store).deadline(Duration::from_secs(60));
    let sessions: Sessions = builder.build().unwrap();
    let last = match operation {
        "revoke" => sessions
            .sessions_of(&USER)
            .await
            .unwrap()
            .first()
            .map(|session| session.id),
        _ => None,
    };
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match last {
        Some(id) => drop(sessions.revoke(&USER, id).await),
        None => drop(sessions.sign_in_without_request(USER).await),
    }
    // The response was dropped and the connection is closed: wait for the end.
    std::io::stdin().read_line(&mut line).unwrap();
}
