//! The default server; `sources` runs this module again with each of the others.

use std::future::poll_fn;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use ephemeral_postgres::{Server, StopMode, TestDatabase};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use crate::child;

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(client: &Client, query: &str) -> i32 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_private_server_answers_with_its_settings() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = [
        ("work_mem", "1234kB"),
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
    ];
    let server = Server::start_private(&settings).unwrap();
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT 1 + 1").await, 2);
    let row = client.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "1234kB");

    let client = connect(&server.url().parse().unwrap()).await;
    assert_eq!(number(&client, "SELECT 2 + 2").await, 4);
    let client = connect(Config::new().host("127.0.0.1").port(port).user("postgres")).await;
    assert_eq!(number(&client, "SELECT 3 + 3").await, 6);

    assert!(
        server.log().contains("ready to accept connections"),
        "{}",
        server.log()
    );
    assert!(server.bin_dir().unwrap().join("postgres").exists());
    assert!(server.directory().unwrap().join("data").exists());
    let directory = server.directory().unwrap().to_path_buf();
    let started = Instant::now();
    drop(server);
    assert!(!directory.exists());
    assert_eq!(child::processes_naming(&directory), [""; 0]);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn restart_keeps_the_data() {
    let server = Server::start_private(&[]).unwrap();
    let client = connect(&server.config()).await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS n")
        .await
        .unwrap();
    let first = server.pid().unwrap();
    server.restart().unwrap();
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert_ne!(server.pid().unwrap(), first);
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT n FROM kept").await, 7);

    // Data that was committed just before a crash is kept, too.
    client.batch_execute("UPDATE kept SET n = 8").await.unwrap();
    server.stop(StopMode::Immediate).unwrap();
    assert_eq!(server.pid(), None);
    server.stop(StopMode::Fast).unwrap();
    assert!(server.config().connect(NoTls).await.is_err());
    server.restart().unwrap();
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT n FROM kept").await, 8);
}

#[tokio::test]
async fn restarts_after_its_process_was_killed() {
    let server = Server::start_private(&[]).unwrap();
    let client = connect(&server.config()).await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS n")
        .await
        .unwrap();
    let asleep = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    child::signal("KILL", server.pid().unwrap().into());
    server.restart().unwrap();
    assert!(asleep.await.unwrap().is_err());
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT n FROM kept").await, 7);
}

#[tokio::test]
async fn the_server_of_all_tests_cannot_be_stopped() {
    let server = tokio::task::spawn_blocking(Server::for_tests)
        .await
        .unwrap();
    assert!(server.stop(StopMode::Fast).is_err());
    assert!(server.restart().is_err());
    assert_eq!(
        number(&connect(&server.config()).await, "SELECT 1").await,
        1
    );
}

#[tokio::test]
async fn databases_are_isolated() {
    let setup = "CREATE TABLE t (n int); INSERT INTO t VALUES (1)";
    let (a, b) = tokio::join!(TestDatabase::create(setup), TestDatabase::create(setup));
    assert_ne!(a.name(), b.name());
    let (in_a, in_b) = (a.client().await, b.client().await);
    in_a.batch_execute("UPDATE t SET n = 2").await.unwrap();
    assert_eq!(number(&in_a, "SELECT n FROM t").await, 2);
    assert_eq!(number(&in_b, "SELECT n FROM t").await, 1);
    let through_url = connect(&a.url().parse().unwrap()).await;
    assert_eq!(number(&through_url, "SELECT n FROM t").await, 2);
}

#[tokio::test]
async fn many_databases_at_once() {
    let setup = "CREATE TABLE once (n int); INSERT INTO once VALUES (1)";
    let tests = (0..16)
        .map(|_| tokio::spawn(TestDatabase::create(setup)))
        .collect::<Vec<_>>();
    for test in tests {
        let database = test.await.unwrap();
        assert_eq!(
            number(&database.client().await, "SELECT n FROM once").await,
            1
        );
    }
}

#[tokio::test]
async fn a_setup_that_fails_says_so() {
    let server = Server::start_private(&[]).unwrap();
    let error = TestDatabase::create_on(&server, "CREATE TABLE t (n nonsense)")
        .await
        .unwrap_err();
    assert!(
        format!("{error:?}").contains("type \"nonsense\" does not exist"),
        "{error:?}"
    );
}

#[tokio::test]
async fn notifications_arrive_and_stay_inside_their_database() {
    let (here, elsewhere) = tokio::join!(TestDatabase::create(""), TestDatabase::create(""));
    let (listener, mut connection) = here.config().connect(NoTls).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    listener.batch_execute("LISTEN c").await.unwrap();
    elsewhere
        .client()
        .await
        .batch_execute("NOTIFY c, 'from elsewhere'")
        .await
        .unwrap();
    here.client()
        .await
        .batch_execute("NOTIFY c, 'from here'")
        .await
        .unwrap();
    assert_eq!(heard.recv().await.unwrap(), "from here");
}

/// The documented limits of the bundled server.
#[tokio::test]
async fn timers_and_contrib_modules_are_missing_from_the_bundled_server_only() {
    let database = TestDatabase::create("").await;
    let client = database.client().await;
    client
        .batch_execute("SET statement_timeout = 50")
        .await
        .unwrap();
    let slept = client.batch_execute("SELECT pg_sleep(0.3)").await;
    assert_eq!(slept.is_ok(), Server::for_tests().is_bundled(), "{slept:?}");

    let query =
        "SELECT count(*)::int FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
    let has_statistics = number(&client, query).await == 1;
    if has_statistics && Server::for_tests().directory().is_some() {
        client
            .batch_execute("CREATE EXTENSION pg_stat_statements")
            .await
            .unwrap();
        let query = "SELECT count(*)::int FROM pg_stat_statements";
        assert!(number(&client, query).await > 0);
    }
    assert!(!(has_statistics && Server::for_tests().is_bundled()));
}

#[tokio::test]
async fn a_replica_follows_and_can_be_promoted() {
    let primary = Server::start_private(&[]).unwrap();
    let database = TestDatabase::create_on(&primary, "CREATE TABLE things (n int)").await;
    let database = database.unwrap();
    if !primary.bin_dir().unwrap().join("pg_basebackup").is_file() {
        // As with the bundled one.
        return assert!(Server::replica_of(&primary, &[]).is_err());
    }
    let replica = Server::replica_of(&primary, &[("work_mem", "1234kB")]).unwrap();
    let client = database.client().await;
    client
        .execute("INSERT INTO things VALUES (5)", &[])
        .await
        .unwrap();
    let follower = connect(replica.config().dbname(database.name())).await;
    let row = follower.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "1234kB");
    let deadline = Instant::now() + Duration::from_secs(10);
    while follower
        .query_opt("SELECT n FROM things", &[])
        .await
        .unwrap()
        .is_none()
    {
        assert!(Instant::now() < deadline, "it does not follow");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let insert = "INSERT INTO things VALUES (6)";
    assert!(follower.execute(insert, &[]).await.is_err());
    assert!(primary.promote().is_err());

    primary.stop(StopMode::Immediate).unwrap();
    replica.promote().unwrap();
    assert_eq!(follower.execute(insert, &[]).await.unwrap(), 1);
    assert_eq!(
        number(&follower, "SELECT sum(n)::int FROM things").await,
        11
    );

    let folder = replica.directory().unwrap().to_owned();
    drop(replica);
    assert!(!folder.exists());
}
