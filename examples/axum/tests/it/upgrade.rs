//! A rolling upgrade: the build before the last migration and this one over one database.
//!
//! ```sh
//! cargo test -p example-axum --test it upgrade -- --ignored --nocapture
//! ```

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use ephemeral_postgres::TestDatabase;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    process::Process,
    support::{ADA, Browser},
};

const CLIENTS: usize = 8;

/// Q07: processes of both versions serve the same sessions, before and after the migration, in both
/// directions. No request fails.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds the version before the last migration"]
async fn a_rolling_upgrade_and_its_reversal_fail_no_request() {
    let before = build_before_the_last_migration();
    let after = PathBuf::from(env!("CARGO_BIN_EXE_example-axum"));
    let database = TestDatabase::create("").await;
    let mut processes = Vec::new();
    for _ in 0..2 {
        processes.push(Process::start_program(&before, &database.url()).await);
    }
    let mut browser = Browser::at(processes[0].address);
    browser.post("/sign-up", ADA).await;
    browser.post("/sign-in", ADA).await;

    let addresses = Arc::new(Mutex::new(Vec::new()));
    let serve = |processes: &[Process]| {
        *addresses.lock().unwrap() = processes.iter().map(|process| process.address).collect();
    };
    serve(&processes);
    let (answered, failed) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (addresses, cookie) = (Arc::clone(&addresses), browser.cookie.clone().unwrap());
        let (answered, failed) = (Arc::clone(&answered), Arc::clone(&failed));
        clients.spawn(async move {
            let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
            for round in number.. {
                let address = {
                    let addresses = addresses.lock().unwrap();
                    addresses[round % addresses.len()]
                };
                let request = Request::get(format!("http://{address}/api/me"));
                let request = request.header(header::COOKIE, &cookie);
                let sent = client.request(request.body(Full::default()).unwrap()).await;
                let Ok(response) = sent else {
                    // A load balancer sends a request to another process if this one does not
                    // accept it.
                    assert!(!addresses.lock().unwrap().contains(&address));
                    continue;
                };
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                if status != StatusCode::OK || !body.windows(4).any(|window| window == b"ada@") {
                    failed.lock().unwrap().push((address, status));
                }
                answered.fetch_add(1, SeqCst);
                sleep(Duration::from_millis(2)).await;
            }
        });
    }

    // Forwards, and back onto the new schema.
    for (place, program) in [(0, &after), (1, &after), (0, &before), (1, &before)] {
        serve_some(&answered).await;
        let next = Process::start_program(program, &database.url()).await;
        let mut old = std::mem::replace(&mut processes[place], next);

        serve(&processes);
        // A sign-in in one version is valid in the other one, and so is a sign-out.
        let [mut first, mut second] = [0, 1].map(|place| Browser::at(processes[place].address));
        first.post("/sign-in", ADA).await;
        second.cookie.clone_from(&first.cookie);
        assert_eq!(second.get("/api/me").await.status, StatusCode::OK);
        let ended = second.cookie.clone();
        second.post("/sign-out", "").await;
        first.cookie = ended;
        assert_eq!(first.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
        serve_some(&answered).await;
        old.terminate();
        old.exit().await;
    }
    serve_some(&answered).await;
    clients.abort_all();
    let failed = failed.lock().unwrap();
    println!(
        "{} requests answered, {} failed",
        answered.load(SeqCst),
        failed.len()
    );
    assert_eq!(failed[..], []);
}

async fn serve_some(answered: &AtomicUsize) {
    let more = answered.load(SeqCst) + 500;
    while answered.load(SeqCst) < more {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Builds the example of the commit before the one that last changed a migration.
#[expect(clippy::print_stdout, reason = "a build takes minutes")]
fn build_before_the_last_migration() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap();
    let run = |program: &str, arguments: &[&str], folder: &Path| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let changed = run(
        "git",
        &["log", "-1", "--format=%H", "--", "migrations"],
        &root,
    );
    let before = run("git", &["rev-parse", &format!("{changed}^")], &root);
    let checkout = root.join("target/upgrade");
    if !checkout.exists() {
        let path = checkout.to_str().unwrap();
        run(
            "git",
            &["clone", "--quiet", "--no-checkout", ".", path],
            &root,
        );
    }
    run("git", &["fetch", "--quiet", "origin", &before], &checkout);
    run("git", &["checkout", "--quiet", &before], &checkout);
    println!("building the version before {changed}");
    run(
        "cargo",
        &["build", "--quiet", "--package", "example-axum"],
        &checkout,
    );
    checkout.join("target/debug/example-axum")
}
