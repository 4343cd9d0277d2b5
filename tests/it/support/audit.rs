//! The audit trail of `migrations/optional/audit_sessions.sql`.

use ephemeral_postgres::TestDatabase;

use super::database::number;

pub const AUDIT: &str = include_str!("../../../migrations/optional/audit_sessions.sql");

/// The number of sessions whose rows in the trail are not exactly one for the beginning and, if the
/// session is gone, exactly one for the end.
const WRONG: &str = "
    SELECT count(*)
    FROM (
        SELECT session_id,
               count(*) FILTER (WHERE event = 'began') AS begins,
               count(*) FILTER (WHERE event IN ('ended', 'expired')) AS ends
        FROM sessions_audit GROUP BY session_id
    ) AS a
    FULL JOIN sessions AS s ON s.id = a.session_id
    WHERE a.begins IS DISTINCT FROM 1
       OR a.ends IS DISTINCT FROM CASE WHEN s.id IS NULL THEN 1 ELSE 0 END";

/// Installs the trail, with these settings.
pub async fn install(database: &TestDatabase, settings: &[(&str, &str)]) {
    let client = database.client().await;
    for (name, value) in settings {
        let set = format!("SET tower_user_session.{name} = '{value}'");
        client.batch_execute(&set).await.unwrap();
    }
    client.batch_execute(AUDIT).await.unwrap();
}

/// The events of the trail, in the order of writing.
pub async fn events(database: &TestDatabase) -> Vec<String> {
    let client = database.client().await;
    let events = "SELECT event FROM sessions_audit ORDER BY id";
    let rows = client.query(events, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Each session has one row for its beginning, and each session that is gone one for its end.
pub async fn assert_exactly_once(database: &TestDatabase, case: &str) {
    assert_eq!(number(database, WRONG).await, 0, "{case}");
}
