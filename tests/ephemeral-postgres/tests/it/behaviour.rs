//! With whichever server is found; `sources` runs this module again with each of them.

use ephemeral_postgres::{Server, StopMode, TestDatabase};
use tokio_postgres::{Client, Config, NoTls};

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(client: &Client, query: &str) -> i32 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_private_server_answers() {
    let server = Server::start_private(&[("work_mem", "1234kB")]).unwrap();
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT 1 + 1").await, 2);
    let row = client.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "1234kB");
    assert!(
        server.log().contains("ready to accept connections"),
        "{}",
        server.log()
    );
    assert!(server.bin_dir().unwrap().join("postgres").exists());
    assert!(server.directory().unwrap().join("data").exists());
    println!("{server:?}");
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
    let second = server.pid().unwrap();
    assert_ne!(first, second);
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT n FROM kept").await, 7);
    client.batch_execute("UPDATE kept SET n = 8").await.unwrap();

    server.stop(StopMode::Immediate).unwrap();
    assert_eq!(server.pid(), None);
    assert!(server.config().connect(NoTls).await.is_err());
    server.restart().unwrap();
    let client = connect(&server.config()).await;
    assert_eq!(number(&client, "SELECT n FROM kept").await, 8);
}

#[tokio::test]
async fn databases_are_isolated() {
    let setup = "CREATE TABLE t (n int); INSERT INTO t VALUES (1)";
    let (a, b) = (
        TestDatabase::create(setup).await,
        TestDatabase::create(setup).await,
    );
    assert_ne!(a.name(), b.name());
    let (in_a, in_b) = (a.client().await, b.client().await);
    in_a.batch_execute("UPDATE t SET n = 2").await.unwrap();
    assert_eq!(number(&in_a, "SELECT n FROM t").await, 2);
    assert_eq!(number(&in_b, "SELECT n FROM t").await, 1);
    let through_url = connect(&a.url().parse().unwrap()).await;
    assert_eq!(number(&through_url, "SELECT n FROM t").await, 2);
}
