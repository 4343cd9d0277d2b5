//! The query plan that the server uses for a lookup.

use std::time::SystemTime;

use ephemeral_postgres::{Server, Source, TestDatabase, skip};
use tower_user_session::{
    PgSessionStore, SessionService,
    session::{SessionId, TokenDigest},
    store::{SessionLookup, SessionUse},
};

use crate::support::{USERS, User, database, number, pool, sessions, sql};

const FILL: &str = "INSERT INTO sessions (token_digest, user_id, expires_at)
    SELECT sha256(n::text::bytea), 1 + n % 2, now() + interval '1 day'
    FROM generate_series($1::int, $2::int) AS n";

/// On a new table, and on one that grew a thousandfold without `ANALYZE` under a plan from when it
/// was tiny, for one digest and for many: an index scan, never a scan of the whole table. There it
/// is one generic plan with parameters, and it is not JIT-compiled.
#[tokio::test]
async fn a_lookup_never_reads_a_whole_table() {
    let name = "postgres::plans::a_lookup_never_reads_a_whole_table";
    let server = tokio::task::spawn_blocking(|| {
        Server::start_private(&[
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_verbose", "on"),
            ("autovacuum", "off"),
            ("jit", "on"),
            // If all plans were kept, each query would be logged with its plan.
            ("log_statement", "none"),
            ("log_min_duration_statement", "-1"),
        ])
    });
    let server = match server.await.unwrap() {
        Ok(server) if matches!(server.source(), Source::Installed(_)) => server,
        Ok(_) => return skip(name, "the bundled PostgreSQL has no auto_explain"),
        Err(error) => return skip(name, &format!("no PostgreSQL with auto_explain: {error}")),
    };
    let database = TestDatabase::create_on(&server, USERS).await.unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    let client = database.client().await;
    // On connections opened from now on, each plan is expensive enough to be compiled.
    let compile = format!("ALTER DATABASE {} SET jit_above_cost = 0", database.name());
    client.batch_execute(&compile).await.unwrap();
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool(&database, 2)));
    client
        .execute("DELETE FROM users WHERE id > 2", &[])
        .await
        .unwrap();

    let ask = async |wanted: u8| {
        let digests: Vec<_> = (0..wanted)
            .map(|n| TokenDigest::from_bytes([n; 32]))
            .collect();
        for _ in 0..7 {
            let answers = sessions.store().find(&digests).await.unwrap();
            assert_eq!(answers.len(), usize::from(wanted));
        }
    };
    let mut filled = 0;
    for rows in [0, 50, 200_000] {
        if rows > filled {
            client.execute(FILL, &[&(filled + 1), &rows]).await.unwrap();
            filled = rows;
        }
        for wanted in [1, 2, 8, 128] {
            ask(wanted).await;
        }
        if rows == 50 {
            client
                .batch_execute("ANALYZE sessions; ANALYZE users")
                .await
                .unwrap();
            ask(8).await;
        }
    }
    sessions.close().await;
    let prepared = server.log();

    // Planned each time without restrictions: the planner sees the current size of the sessions
    // table. The users table is one page.
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_transaction_pooling();
    for wanted in [1_u8, 2, 8, 128] {
        let digests: Vec<_> = (0..wanted)
            .map(|n| TokenDigest::from_bytes([n; 32]))
            .collect();
        assert_eq!(
            store.find(&digests).await.unwrap().len(),
            usize::from(wanted)
        );
    }
    store.close().await;
    let log = server.log();
    let unnamed = plans(&log[prepared.len()..]);
    assert_eq!(unnamed.len(), 4);
    for plan in unnamed {
        let index = "Index Scan using sessions_token_digest_key";
        assert!(plan.contains(index), "{plan}");
        assert!(!plan.contains("Seq Scan on sessions"), "{plan}");
    }

    let plans = plans(&prepared);
    assert!(
        plans.len() >= 7 * 12,
        "auto_explain logged {} lookups",
        plans.len()
    );
    for plan in plans {
        assert!(
            plan.contains("Index Scan using sessions_token_digest_key"),
            "{plan}"
        );
        assert!(!plan.contains("Seq Scan"), "{plan}");
        assert!(
            plan.contains("unnest($1)"),
            "the plan is for one execution: {plan}"
        );
        assert!(!plan.contains("JIT:"), "{plan}");
    }
}

/// Pages have free space for last-seen updates: rows stay in their pages, and no index is written.
#[tokio::test]
async fn last_seen_updates_stay_in_their_pages() {
    let database = database().await;
    let sessions = sessions(&database);
    let idle = "ALTER TABLE sessions ALTER last_seen_at SET DEFAULT now() - interval '1 hour'";
    sql(&database, idle).await;
    let client = database.client().await;
    client.execute(FILL, &[&1, &1_000]).await.unwrap();
    let places = async || -> Vec<(SessionId, i32)> {
        let places = "SELECT id, (ctid::text::point)[0]::int FROM sessions ORDER BY token_digest";
        let rows = client.query(places, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let before = places().await;
    // Two or three of each page.
    let every_twentieth = "SELECT id FROM sessions WHERE (ctid::text::point)[1]::int % 20 = 1";
    let rows = client.query(every_twentieth, &[]).await.unwrap();
    let used: Vec<_> = rows
        .iter()
        .map(|row| SessionUse::new(row.get(0), SystemTime::now()))
        .collect();
    assert!(used.len() > 40, "{}", used.len());
    sessions.store().touch(&used).await.unwrap();
    let touched =
        "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '30 minutes'";
    let touched = number(&database, touched).await;
    assert_eq!(usize::try_from(touched).unwrap(), used.len());
    let after = places().await;
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert_eq!(moved.count(), 0);
}

/// The plans of lookups in the server's log.
fn plans(log: &str) -> Vec<&str> {
    log.split("Query Text: ")
        .filter(|plan| plan.contains("AS asked (asked_digest)"))
        .collect()
}
