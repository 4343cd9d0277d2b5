//! The content of the rows of `migrations/optional/audit_sessions.sql`.

use tower_user_session::tokio_postgres::IsolationLevel;

use crate::support::{
    audit::{assert_exactly_once, events, install},
    database, number,
    organizations::{members, organizations},
    sessions, sql,
};

/// P05: the row of an expired session has the time of its limit, and other rows the time of the
/// transaction.
#[tokio::test]
async fn expired_sessions_are_dated_with_their_limit() {
    let hours_ago = |hours: i32| format!("now() - interval '{hours} hours'");
    // The idle limit of the trail, the changed columns, and how many hours ago the session ended.
    for (idle, expires, last_seen, event, ended) in [
        ("", 5, 0, "expired", 5),
        ("", -5, 3, "ended", 0),
        ("1 hour", 5, 0, "expired", 5),
        ("1 hour", -5, 3, "expired", 2),
        ("1 hour", -5, 0, "ended", 0),
        ("1 hour", 1, 9, "expired", 8),
    ] {
        for end in ["DELETE FROM sessions", "TRUNCATE sessions"] {
            let database = database().await;
            install(&database, &[("audit_idle_timeout", idle)]).await;
            let _ = sessions(&database)
                .sign_in_without_request(1)
                .await
                .unwrap();
            let change = format!(
                "BEGIN; UPDATE sessions SET expires_at = {}, last_seen_at = {}; {end}; COMMIT",
                hours_ago(expires),
                hours_ago(last_seen)
            );
            let client = database.client().await;
            client.batch_execute(&change).await.unwrap();
            let query =
                "SELECT event, round(extract(epoch FROM recorded_at - happened_at) / 3600)::bigint
                FROM sessions_audit WHERE event <> 'began'";
            let row = client.query_one(query, &[]).await.unwrap();
            let case = format!("{idle}, {expires}, {last_seen}, {end}");
            assert_eq!(
                (row.get(0), row.get(1)),
                (event, i64::from(ended)),
                "{case}"
            );
        }
    }
}

/// P05: a row names the reason and the actor of its own transaction, the client's role and the chosen
/// columns.
#[tokio::test]
async fn rows_name_the_reason_the_actor_and_the_chosen_columns() {
    let database = organizations().await;
    // Names that the function uses, and one that needs quotes.
    let columns = r#"ALTER TABLE sessions ADD COLUMN reason text, ADD COLUMN s int,
        ADD COLUMN "Odd ""%s'" int DEFAULT 5"#;
    sql(&database, columns).await;
    let chosen = r#"active_org_id, reason, s, "Odd ""%s''""#;
    install(&database, &[("audit_columns", chosen)]).await;
    let sessions = members(&database);
    let signed_in = sessions.sign_in_without_request(1);
    let signed_in = signed_in.set("active_org_id", 7_i64).await.unwrap();

    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let set = "SET LOCAL tower_user_session.reason = 'stolen';
        SET LOCAL tower_user_session.actor = 'support'";
    transaction.batch_execute(set).await.unwrap();
    let revoked = sessions.revoke_all_in_transaction(&transaction, &1).await;
    assert_eq!(revoked.unwrap(), 1);
    transaction.commit().await.unwrap();
    // The settings are now empty and not null.
    let delete = "INSERT INTO sessions (token_digest, user_id, expires_at, s)
        VALUES (sha256('x'), 2, now() + interval '1 day', 3)";
    client.batch_execute(delete).await.unwrap();

    let rows = "SELECT event, user_id, columns::text, reason, actor, database_role = session_user
        FROM sessions_audit ORDER BY id";
    let rows = client.query(rows, &[]).await.unwrap();
    let rows: Vec<(_, _, _, _, _)> = rows
        .iter()
        .map(|row| {
            assert!(row.get::<_, bool>(5));
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
        })
        .collect();
    let [org, s] = [("active_org_id", "7"), ("s", "3")].map(|(name, value)| {
        let odd = r#""Odd \"%s'": "5""#;
        if name < "s" {
            format!(r#"{{{odd}, "{name}": "{value}"}}"#)
        } else {
            format!(r#"{{"{name}": "{value}", {odd}}}"#)
        }
    });
    assert_eq!(
        rows,
        [
            ("began", "1", &*org, None, None),
            ("ended", "1", &*org, Some("stolen"), Some("support")),
            ("began", "2", &*s, None, None),
        ]
    );
    let id = signed_in.session().id().to_string();
    let of_session = format!("SELECT count(*) FROM sessions_audit WHERE session_id = '{id}'");
    assert_eq!(number(&database, &of_session).await, 2);
}

/// P05: a transaction above READ COMMITTED can have a snapshot that lacks sessions. Its TRUNCATE is
/// rejected, and its DELETE records what it deletes.
#[tokio::test]
async fn truncate_needs_a_snapshot_of_all_sessions() {
    for (level, allowed) in [
        (IsolationLevel::ReadCommitted, true),
        (IsolationLevel::RepeatableRead, false),
        (IsolationLevel::Serializable, false),
    ] {
        let database = database().await;
        install(&database, &[]).await;
        let mut client = database.client().await;
        let transaction = client.build_transaction().isolation_level(level);
        let transaction = transaction.start().await.unwrap();
        transaction.batch_execute("SELECT 1").await.unwrap();
        let _ = sessions(&database)
            .sign_in_without_request(1)
            .await
            .unwrap();
        let truncated = transaction.batch_execute("TRUNCATE sessions").await;
        assert_eq!(truncated.is_ok(), allowed, "{level:?}");
        if allowed {
            transaction.commit().await.unwrap();
            assert_eq!(events(&database).await, ["began", "ended"]);
        } else {
            drop(transaction);
        }
        assert_exactly_once(&database, &format!("{level:?}")).await;
    }
}
