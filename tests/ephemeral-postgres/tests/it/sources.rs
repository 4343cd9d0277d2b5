//! The source of the server, and the error if there is none.

use ephemeral_postgres::{Server, Source, TestDatabase, skip};
use tokio_postgres::NoTls;

use crate::child::{self, forcing};

#[test]
fn every_source_behaves() {
    let sources = Source::available();
    for (name, found) in [
        (
            "installed",
            sources
                .iter()
                .any(|source| matches!(source, Source::Installed(_))),
        ),
        (
            "bundled",
            sources
                .iter()
                .any(|source| matches!(source, Source::Bundled(_))),
        ),
    ] {
        if !found {
            skip(
                "every_source_behaves",
                &format!("no {name} PostgreSQL is available"),
            );
        }
    }
    // The first is the one that this process uses.
    for source in sources.iter().skip(1) {
        let output = child::running("behavior::", "")
            .env("EPHEMERAL_POSTGRES", forcing(source))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{source}:\n{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!said.contains(" 0 passed"), "{said}");
    }
}

/// The output of a child process that starts a server, with these variables.
fn looking(role: &str, variables: &[(&str, &str)]) -> String {
    let mut child = child::running("sources::looks", role);
    let output = child
        .arg("--nocapture")
        .env_remove("EPHEMERAL_POSTGRES")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn looks() {
    match child::role().as_deref() {
        Some("for_examples") => println!("{:?}", Server::for_examples()),
        Some("start_private") => println!("{:?}", Server::start_private(&[])),
        Some("for_tests") => println!("{:?}", Server::for_tests()),
        _ => {}
    }
}

#[test]
fn a_forced_source_is_used() {
    for source in Source::available() {
        let (name, forced) = match source {
            Source::Installed(_) => ("installed", "Installed("),
            _ => ("bundled", "Bundled("),
        };
        for name in [name, forcing(&source).to_str().unwrap()] {
            let said = looking(
                "for_examples",
                &[("EPHEMERAL_POSTGRES", name), ("DATABASE_URL", "nonsense")],
            );
            assert!(said.contains(&format!("source: {forced}")), "{said}");
        }
    }
}

#[test]
fn an_unusable_source_is_a_clear_error() {
    for role in ["for_examples", "start_private"] {
        let said = looking(role, &[("EPHEMERAL_POSTGRES", "/no/such/folder")]);
        for part in [
            "EPHEMERAL_POSTGRES=/no/such/folder",
            "/no/such/folder/initdb",
            "not found",
            "apt-get install postgresql",
            "brew install postgresql@17",
        ] {
            assert!(said.contains(part), "{part:?} is missing from: {said}");
        }
    }
}

#[test]
fn a_setting_that_does_not_exist_is_a_clear_error() {
    let error = Server::start_private(&[("no_such_setting", "1")]).unwrap_err();
    let said = format!("{error:?}");
    assert!(
        said.contains("unrecognized configuration parameter \"no_such_setting\""),
        "{said}"
    );
}

#[test]
fn each_variable_is_for_its_own_purpose() {
    let url = "postgresql://someone:secret@nowhere.invalid/db";
    let said = looking(
        "for_examples",
        &[("DATABASE_URL", url), ("TEST_DATABASE_URL", "nonsense")],
    );
    assert!(
        said.contains("source: Url") && said.contains("nowhere.invalid"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
    let said = looking(
        "for_tests",
        &[("DATABASE_URL", "nonsense"), ("TEST_DATABASE_URL", url)],
    );
    assert!(
        said.contains("source: Url") && said.contains("nowhere.invalid"),
        "{said}"
    );
    let said = looking("for_examples", &[("DATABASE_URL", "nonsense")]);
    assert!(
        said.contains("DATABASE_URL is not a PostgreSQL connection string"),
        "{said}"
    );
    let said = looking(
        "start_private",
        &[("DATABASE_URL", url), ("TEST_DATABASE_URL", url)],
    );
    assert!(
        !said.contains("source: Url") && said.contains("source: "),
        "{said}"
    );
}

#[tokio::test]
async fn databases_on_a_server_from_a_variable_are_dropped() {
    let server = Server::start_private(&[]).unwrap();
    let key_value = format!(
        "host={} user=postgres",
        server.directory().unwrap().display()
    );
    for url in [server.url(), &key_value] {
        let mut child = child::running("sources::creates_databases", "");
        let output = child
            .env_remove("EPHEMERAL_POSTGRES")
            .env("TEST_DATABASE_URL", url)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let (client, connection) = server.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let query = "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database";
    let left: Vec<String> = client.query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(left, ["postgres", "template0", "template1"]);
}

#[tokio::test]
async fn creates_databases() {
    if child::role().is_none() {
        return;
    }
    let setup = "CREATE TABLE t (n int)";
    let databases = tokio::join!(TestDatabase::create(setup), TestDatabase::create(setup));
    assert_eq!(*Server::for_tests().source(), Source::Url);
    for database in [databases.0, databases.1] {
        let (client, connection) = database
            .url()
            .parse::<tokio_postgres::Config>()
            .unwrap()
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let row = client
            .query_one("SELECT current_database()::text, count(*) FROM t", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), database.name());
    }
}

#[test]
fn a_skipped_test_says_so_once() {
    // The harness captures what the child prints, and shows nothing of it, because the child
    // succeeds.
    let output = child::running("sources::skips", "").output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        said.matches("SKIPPED flying: no wings\n").count(),
        1,
        "{said}"
    );
}

#[test]
fn skips() {
    if child::role().is_some() {
        skip("flying", "no wings");
        skip("flying", "no wings");
    }
}
