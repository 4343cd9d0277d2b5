//! The transaction with local settings of the guide `row_level_security`.

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tower_user_session::tokio_postgres::{self, error::SqlState};

use self::begin_as::begin_as;
use crate::support::{pgbouncer::PgBouncer, pool};

#[path = "../../../src/guide/row_level_security/begin_as.rs"]
mod begin_as;

/// The table and the policy of the guide, without its foreign keys.
const NOTES: &str = "
    CREATE TABLE notes (user_id bigint NOT NULL, org_id bigint NOT NULL, text text NOT NULL);
    INSERT INTO notes VALUES (1, 7, 'ada 7'), (1, 8, 'ada 8'), (2, 7, 'eve 7');
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON notes USING (
        user_id = nullif(current_setting('app.user_id', true), '')::bigint
        AND org_id = nullif(current_setting('app.active_org_id', true), '')::bigint
    );";
const READ: &str = "SELECT coalesce(string_agg(text, ', ' ORDER BY text), '') FROM notes";

/// Each line is a user, an organization, and the notes that are visible.
const CASES: &[(i64, Option<&str>, &str)] = &[
    (1, Some("7"), "ada 7"),
    (1, Some("8"), "ada 8"),
    (2, Some("7"), "eve 7"),
    (2, Some("8"), ""),
    (1, None, ""),
    (3, Some("7"), ""),
];

/// A database with notes, and a role to which the policy applies.
async fn notes() -> (TestDatabase, String) {
    let database = TestDatabase::create(NOTES).await;
    let role = format!("reader_{}", database.name());
    let grant = format!("CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE ON notes TO {role}");
    database.client().await.batch_execute(&grant).await.unwrap();
    (database, role)
}

/// Reads the notes with a transaction of the guide.
async fn read(
    pool: &Pool,
    role: &str,
    (user, org, _): (i64, Option<&str>, &str),
    commit: bool,
) -> Result<String, tokio_postgres::Error> {
    let mut client = pool.get().await.unwrap();
    let org = [("active_org_id", org.map(str::to_owned))];
    let transaction = begin_as(&mut client, user, &org).await?;
    transaction
        .batch_execute(&format!("SET LOCAL ROLE {role}"))
        .await?;
    let row = transaction.query_typed(READ, &[]).await?;
    if commit {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(row[0].get(0))
}

/// Reads the notes in a transaction without a user.
async fn read_without_user(pool: &Pool, role: &str) -> Result<String, tokio_postgres::Error> {
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!("SET LOCAL ROLE {role}"))
        .await?;
    let row = transaction.query_typed(READ, &[]).await?;
    transaction.commit().await?;
    Ok(row[0].get(0))
}

/// A transaction sees the rows of its user and its organization. Afterwards the connection has no
/// user: the settings are empty strings there, and no longer null.
#[tokio::test]
async fn each_transaction_sees_the_rows_of_its_user() {
    let (database, role) = notes().await;
    // One connection, which had the settings before in all cases but the first.
    let pool = pool(&database, 1);
    assert_eq!(read_without_user(&pool, &role).await.unwrap(), "");
    for case in CASES {
        for commit in [true, false] {
            let seen = read(&pool, &role, *case, commit).await.unwrap();
            assert_eq!(seen, case.2, "{case:?}");
            let without = read_without_user(&pool, &role).await.unwrap();
            assert_eq!(without, "", "after {case:?}");
        }
    }
    let settings =
        "SELECT current_setting('app.user_id', true), current_setting('app.active_org_id', true)";
    let client = pool.get().await.unwrap();
    let row = client.query_one(settings, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (Some(""), Some("")));
}

/// The policy also limits what a transaction writes.
#[tokio::test]
async fn a_transaction_writes_no_rows_of_another_user() {
    let (database, role) = notes().await;
    let mut client = database.client().await;
    for (statement, refused) in [
        ("INSERT INTO notes VALUES (1, 7, 'x')", false),
        ("INSERT INTO notes VALUES (2, 7, 'x')", true),
        ("INSERT INTO notes VALUES (1, 8, 'x')", true),
        ("UPDATE notes SET user_id = 2", true),
    ] {
        let org = [("active_org_id", Some("7".to_owned()))];
        let transaction = begin_as(&mut client, 1, &org).await.unwrap();
        let set = format!("SET LOCAL ROLE {role}");
        transaction.batch_execute(&set).await.unwrap();
        let written = transaction.batch_execute(statement).await;
        let code = written.err().and_then(|error| error.code().cloned());
        let expected = refused.then_some(SqlState::INSUFFICIENT_PRIVILEGE);
        assert_eq!(code, expected, "{statement}");
    }
}

/// F13: behind a transaction pooler with two server connections, no transaction sees the rows of a
/// user who used the server connection before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_lends_no_connection_with_a_user() {
    let name = "postgres::row_level_security::a_pooler_lends_no_connection_with_a_user";
    let (database, role) = notes().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let pool = bouncer.pool(8);
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (pool, role) = (pool.clone(), role.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..30 {
                let case = CASES[(number + round) % CASES.len()];
                let seen = read(&pool, &role, case, round % 3 != 0).await.unwrap();
                assert_eq!(seen, case.2, "{case:?}");
                assert_eq!(read_without_user(&pool, &role).await.unwrap(), "");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
