//! The statements of `docs/operating.md` run as they are written, and do what the page says.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use tower_user_session::{Error, SignedIn, session::SessionId};

use crate::support::{
    PgSessions, database, number,
    proxy::{Line, Proxy},
    psql, sessions, sql,
};

const PAGE: &str = include_str!("../../../docs/operating.md");

/// Returns the statement that begins with this text.
fn statement(start: &str) -> String {
    let blocks = PAGE.split("```sql\n").skip(1);
    let mut found = blocks
        .filter_map(|block| block.split_once("```"))
        .map(|(block, _)| block.trim_start())
        .filter(|block| block.starts_with(start));
    let statement = found
        .next()
        .unwrap_or_else(|| panic!("no {start} on the page"));
    assert!(found.next().is_none(), "two statements begin with {start}");
    statement.to_owned()
}

async fn sign_in(sessions: &PgSessions, user: i64, ip: &str) -> SignedIn {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    sessions.sign_in_without_request(user).ip(ip).await.unwrap()
}

/// Returns the users whose session is still live, in this order.
async fn live(sessions: &PgSessions, signed_in: &[SignedIn]) -> Vec<bool> {
    let mut live = Vec::new();
    for signed_in in signed_in {
        live.push(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    live
}

/// Q04: each statement that ends sessions ends those that the page says, and no others.
#[tokio::test]
async fn each_statement_ends_the_documented_sessions() {
    let many = "DELETE FROM sessions WHERE ip";
    let all = "SELECT sessions_revoke_everyone()";
    let of_user = "SELECT sessions_revoke_all";
    let disable = "UPDATE users SET disabled_at";
    let expired = "DELETE FROM sessions WHERE id IN";
    let truncate = "TRUNCATE sessions";
    let forget = "UPDATE sessions SET ip";
    for (start, left) in [
        (of_user, [false, false, true, true]),
        (disable, [false, false, true, true]),
        (many, [true, false, true, false]),
        (all, [false; 4]),
        (truncate, [false; 4]),
        (expired, [false, true, true, true]),
        (forget, [true; 4]),
    ] {
        let database = database().await;
        let sessions = sessions(&database);
        let signed_in = [
            sign_in(&sessions, 1, "192.0.2.1").await,
            sign_in(&sessions, 1, "203.0.113.9").await,
            sign_in(&sessions, 2, "192.0.2.1").await,
            sign_in(&sessions, 2, "203.0.113.200").await,
        ];
        if start == expired {
            let age = format!(
                "UPDATE sessions SET last_seen_at = now() - interval '15 days' WHERE id = '{}'",
                signed_in[0].session().id()
            );
            sql(&database, &age).await;
        }
        let client = database.client().await;
        client.batch_execute(&statement(start)).await.unwrap();
        assert_eq!(live(&sessions, &signed_in).await, left, "{start}");
        if start == disable {
            assert!(sessions.sign_in_without_request(1).await.is_err());
        }
    }
}

/// Q04: the lists and counts on the page contain the live sessions of users who may sign in.
#[tokio::test]
async fn the_lists_contain_the_live_sessions() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sign_in(&sessions, 1, "192.0.2.1").await;
    let expired = sign_in(&sessions, 1, "192.0.2.2").await;
    let idle = sign_in(&sessions, 1, "192.0.2.3").await;
    let eve = sign_in(&sessions, 2, "192.0.2.4").await;
    let disabled = "UPDATE users SET disabled_at = now() WHERE id = 2";
    sql(&database, disabled).await;
    for (column, time, signed_in) in [
        ("expires_at", "now()", &expired),
        ("last_seen_at", "now() - interval '14 days'", &idle),
    ] {
        let id = signed_in.session().id();
        sql(
            &database,
            &format!("UPDATE sessions SET {column} = {time} WHERE id = '{id}'"),
        )
        .await;
    }
    let client = database.client().await;
    let of = async |query: &str, column: &str| -> Vec<SessionId> {
        let rows = client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(column)).collect()
    };
    let ids = |all: &[&SignedIn]| -> Vec<_> { all.iter().map(|s| s.session().id()).collect() };
    let list = of(&statement("SELECT u.email"), "id").await;
    assert_eq!(list, ids(&[&ada]));
    assert_eq!(live(&sessions, &[ada]).await, [true]);

    let count = client
        .query_one(&statement("SELECT count(*)"), &[])
        .await
        .unwrap();
    assert_eq!((count.get::<_, i64>(0), count.get::<_, i64>(1)), (1, 1));

    // The function checks the limits only.
    let mut all = of("SELECT * FROM live_sessions('14 days')", "id").await;
    all.sort();
    let mut expected = ids(&[&eve]);
    expected.extend(list);
    expected.sort();
    assert_eq!(all, expected);
    let without_idle = "SELECT * FROM live_sessions(NULL)";
    assert_eq!(of(without_idle, "id").await.len(), 3);
    let shortened = "SELECT * FROM live_sessions(NULL, '0 s')";
    assert_eq!(of(shortened, "id").await, []);
    let columns = client.prepare(without_idle).await.unwrap();
    let mut names = columns
        .columns()
        .iter()
        .map(|column| column.name().to_owned());
    assert!(names.all(|name| name != "token_digest"));

    let access = of(&statement("SELECT id, created_at"), "id").await;
    assert_eq!(access.len(), 3);
}

/// Q04: a leaked token leads to its session, and is in no statement.
#[tokio::test]
async fn a_leaked_token_leads_to_its_session() {
    const TEST: &str = "operation::runbook::a_leaked_token_leads_to_its_session";
    let Some(psql) = psql().await else {
        return ephemeral_postgres::skip(TEST, "psql is missing");
    };
    if Command::new("basenc").arg("--version").output().is_err() {
        return ephemeral_postgres::skip(TEST, "basenc is missing");
    }
    let command = PAGE.lines().map(str::trim);
    let command = { command }.find(|line| line.starts_with("read -r token"));
    let database = database().await;
    let sessions = sessions(&database);
    for _ in 0..20 {
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let token = ada.token().expose();
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", command.unwrap()]).stdin(Stdio::piped());
        let mut shell = shell.stdout(Stdio::piped()).spawn().unwrap();
        writeln!(shell.stdin.take().unwrap(), "{token}").unwrap();
        let digest = shell.wait_with_output().unwrap().stdout;
        let digest = std::str::from_utf8(&digest[..64]).unwrap();
        let find = statement("SELECT s.id, s.user_id").replace(&"0".repeat(64), digest);
        let mut find_in_psql = Command::new(&psql);
        let found = find_in_psql.args(["-qAtc", &find]).arg(database.url());
        let found = String::from_utf8(found.output().unwrap().stdout).unwrap();
        assert_eq!(found, format!("{}|1\n", ada.session().id()));
    }
}

/// Q04: a dump without the sessions' rows restores a table without sessions, on which the
/// application works.
#[tokio::test]
async fn a_dump_without_sessions_restores_no_session() {
    let Some(psql) = psql().await else {
        return ephemeral_postgres::skip(
            "a_dump_without_sessions_restores_no_session",
            "psql is missing",
        );
    };
    let pg_dump = psql.with_file_name("pg_dump");
    let from = database().await;
    let before = sessions(&from);
    let ada = before.sign_in_without_request(1).await.unwrap();
    let command = PAGE
        .lines()
        .find_map(|line| line.trim().strip_prefix("pg_dump "))
        .unwrap();
    let file = std::env::temp_dir().join(format!("{}.sql", from.name()));
    let command = command.replace("app.sql", file.to_str().unwrap());
    let to = ephemeral_postgres::TestDatabase::create("").await;
    let run = |mut command: Command| {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let mut dump = Command::new(pg_dump);
    dump.args(command.split(' ')).arg(from.url());
    run(dump);
    let mut restore = Command::new(psql);
    restore
        .args(["-v", "ON_ERROR_STOP=1", "-q", "-f"])
        .arg(&file)
        .arg(to.url());
    run(restore);
    std::fs::remove_file(file).unwrap();

    assert_eq!(number(&to, "SELECT count(*) FROM sessions").await, 0);
    assert_eq!(number(&to, "SELECT count(*) FROM users").await, 2);
    let after = sessions(&to);
    after.store().check().await.unwrap();
    assert_eq!(after.user(ada.token()).await.unwrap(), None);
    let again = after.sign_in_without_request(1).await.unwrap();
    assert!(after.user(again.token()).await.unwrap().is_some());
}

/// Q04: a ping succeeds while lookups do, and fails at the deadline otherwise. It shares queries
/// with lookups.
#[tokio::test]
async fn a_ping_tells_whether_lookups_succeed() -> Result<(), Error> {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let store = tower_user_session::PgSessionStore::new(proxy.pool(4));
    let deadline = Duration::from_millis(300);
    let builder = tower_user_session::SessionService::builder(store).deadline(deadline);
    let sessions: PgSessions = builder.build()?;
    let logs = crate::support::Logs::capture();
    sessions.ping().await?;
    let before = sessions.metrics().statements;
    let mut pings = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let sessions = sessions.clone();
        pings.spawn(async move { sessions.ping().await });
    }
    pings.join_all().await;
    assert!(sessions.metrics().statements - before < 10);
    for line in [Line::Cut, Line::Silent] {
        proxy.set(line);
        let start = std::time::Instant::now();
        assert!(sessions.ping().await.is_err(), "{line:?}");
        assert!(start.elapsed() < 2 * deadline, "{line:?}");
        proxy.set(Line::Open);
        while sessions.ping().await.is_err() {}
    }
    let events = logs.events();
    let quiet = |event: &String| !event.contains("WARN") && !event.contains("ERROR");
    assert!(events.iter().all(quiet), "{events:#?}");
    Ok(())
}
