//! What `migrations/optional/audit_sessions.sql` records.

use std::process::Command;

use ephemeral_postgres::{TestDatabase, skip};
use tower_user_session::{SessionService, SignedIn, session::SessionLimit};

use crate::support::{
    audit::{AUDIT, assert_exactly_once, events, install},
    cookie, current,
    organizations::{PgMembers, member_store, members, organizations},
    psql, sql,
};

/// A database with a trail and two sessions of user 1. The organization of the first is 7.
struct Scene {
    database: TestDatabase,
    sessions: PgMembers,
    first: SignedIn,
    second: SignedIn,
}

/// A statement, or a call of the service.
enum Change {
    Sql(&'static str),
    SignOut,
    SignInOver,
    SignInBeyondTheLimit,
    Revoke,
    RevokeOthers,
    RevokeAll,
    RevokeEveryone,
    RevokeWhere,
    RevokeEveryoneWhere,
    DeleteExpired,
    SignOutAfterTheLimit,
    Reauthenticate,
    Update,
    Psql,
}
use Change::Sql;

/// Each line is a way in which sessions end or change: its name, what it does, and the events of the
/// trail after the two that begin the sessions.
const CHANGES: &[(&str, Change, &[&str])] = &[
    ("sign-out", Change::SignOut, &["ended"]),
    (
        "sign-in over a session",
        Change::SignInOver,
        &["ended", "began"],
    ),
    (
        "limit of sessions",
        Change::SignInBeyondTheLimit,
        &["began", "ended", "ended"],
    ),
    ("revoke", Change::Revoke, &["ended"]),
    ("revoke others", Change::RevokeOthers, &["ended"]),
    ("revoke all", Change::RevokeAll, &["ended", "ended"]),
    (
        "revoke everyone",
        Change::RevokeEveryone,
        &["ended", "ended"],
    ),
    ("revoke by column", Change::RevokeWhere, &["ended"]),
    (
        "revoke everyone by column",
        Change::RevokeEveryoneWhere,
        &["ended"],
    ),
    (
        "deletion after the limit",
        Change::DeleteExpired,
        &["expired", "expired"],
    ),
    (
        "sign-out after the limit",
        Change::SignOutAfterTheLimit,
        &["expired"],
    ),
    ("re-authentication", Change::Reauthenticate, &["rotated"]),
    ("update", Change::Update, &[]),
    ("psql", Change::Psql, &["ended", "ended"]),
    (
        "function",
        Sql("SELECT sessions_revoke_all(1)"),
        &["ended", "ended"],
    ),
    ("DELETE", Sql("DELETE FROM sessions"), &["ended", "ended"]),
    (
        "DELETE of no session",
        Sql("DELETE FROM sessions WHERE user_id = 99"),
        &[],
    ),
    (
        "two DELETEs in one statement",
        Sql("WITH a AS (DELETE FROM sessions WHERE active_org_id = 7),
                  b AS (DELETE FROM sessions WHERE active_org_id IS NULL)
             SELECT"),
        &["ended", "ended"],
    ),
    (
        "cascade",
        Sql("DELETE FROM users WHERE id = 1"),
        &["ended", "ended"],
    ),
    ("cascade of a column", Sql("DELETE FROM orgs"), &[]),
    ("TRUNCATE", Sql("TRUNCATE sessions"), &["ended", "ended"]),
    (
        "TRUNCATE that cascades",
        Sql("TRUNCATE users CASCADE"),
        &["ended", "ended"],
    ),
    (
        "TRUNCATE after the limit",
        Sql("UPDATE sessions SET expires_at = created_at; TRUNCATE sessions"),
        &["expired", "expired"],
    ),
    (
        "idle limit",
        Sql("UPDATE sessions SET last_seen_at = now() - interval '2 hours'; DELETE FROM sessions"),
        &["expired", "expired"],
    ),
    (
        "triggers of a replica",
        Sql("SET session_replication_role = replica; DELETE FROM sessions"),
        &["ended", "ended"],
    ),
    (
        "begin and end in one transaction",
        Sql("BEGIN;
             INSERT INTO sessions (token_digest, user_id, expires_at)
                 VALUES (sha256('x'), 2, now() + interval '1 day');
             DELETE FROM sessions WHERE user_id = 2;
             COMMIT"),
        &["began", "ended"],
    ),
    (
        "COPY",
        Sql(
            "CREATE TABLE copied AS SELECT * FROM sessions; TRUNCATE sessions;
             UPDATE copied SET id = gen_random_uuid();
             INSERT INTO sessions SELECT * FROM copied",
        ),
        &["ended", "ended", "began", "began"],
    ),
    (
        "use",
        Sql("UPDATE sessions SET last_seen_at = now() + interval '1 minute'"),
        &[],
    ),
    (
        "other columns",
        Sql("UPDATE sessions SET authenticated_at = now(), remembered = true, user_agent = 'x'"),
        &[],
    ),
    (
        "new key of a user",
        Sql("UPDATE users SET id = 9 WHERE id = 1"),
        &["reassigned", "reassigned"],
    ),
    (
        "new digest and new user",
        Sql("UPDATE sessions SET user_id = 2, token_digest = sha256('x') WHERE active_org_id = 7"),
        &["rotated", "reassigned"],
    ),
    (
        "new id",
        Sql("UPDATE sessions SET id = gen_random_uuid() WHERE active_org_id = 7"),
        &["ended", "began"],
    ),
    (
        "a key of another type",
        Sql("DELETE FROM sessions WHERE active_org_id = 7;
             ALTER TABLE sessions DROP CONSTRAINT sessions_user_id_fkey;
             ALTER TABLE sessions ALTER user_id TYPE text;
             DELETE FROM sessions"),
        &["ended", "ended"],
    ),
    (
        "rollback",
        Sql("BEGIN; DELETE FROM sessions; ROLLBACK"),
        &[],
    ),
    (
        "rollback to a savepoint",
        Sql("BEGIN; SAVEPOINT s; TRUNCATE sessions; ROLLBACK TO s; COMMIT"),
        &[],
    ),
];

/// P05: each way in which a session begins, changes or ends adds exactly the rows that are
/// documented.
#[tokio::test]
async fn every_begin_and_end_is_recorded_once() {
    for (name, change, expected) in CHANGES {
        let scene = scene().await;
        apply(change, &scene).await;
        let recorded = events(&scene.database).await;
        assert_eq!(recorded[..2], ["began", "began"], "{name}");
        assert_eq!(recorded[2..], **expected, "{name}");
        assert_exactly_once(&scene.database, name).await;
    }
}

/// The examples have a copy, because they can be copied out of the repository.
#[test]
fn the_copy_of_the_examples_is_the_script() {
    let copy = include_str!("../../../examples/application/src/audit_sessions.sql");
    assert_eq!(copy, AUDIT);
}

async fn scene() -> Scene {
    let database = organizations().await;
    install(&database, &[("audit_idle_timeout", "1 hour")]).await;
    let sessions = members(&database);
    let first = sessions.sign_in_without_request(1);
    Scene {
        first: first.set("active_org_id", 7_i64).await.unwrap(),
        second: sessions.sign_in_without_request(1).await.unwrap(),
        database,
        sessions,
    }
}

async fn apply(change: &Change, scene: &Scene) {
    let Scene {
        database,
        sessions,
        first,
        second,
    } = scene;
    let headers = cookie(sessions, first.token());
    match change {
        Sql(statements) => {
            let client = database.client().await;
            client.batch_execute(statements).await.unwrap();
        }
        Change::SignOut => {
            assert!(sessions.sign_out(&headers).await.ended().unwrap());
        }
        Change::SignInOver => drop(sessions.sign_in(2, &headers).await.unwrap()),
        Change::SignInBeyondTheLimit => {
            let limit = SessionLimit::end_oldest(1).unwrap();
            let sessions = SessionService::new(member_store(database).with_session_limit(limit));
            drop(sessions.sign_in_without_request(1).await.unwrap());
        }
        Change::Revoke => {
            assert!(sessions.revoke(&1, first.session().id()).await.unwrap());
        }
        Change::RevokeOthers => {
            let kept = current(second);
            assert_eq!(sessions.revoke_others(&1, &kept).await.unwrap(), 1);
        }
        Change::RevokeAll => assert_eq!(sessions.revoke_all(&1).await.unwrap(), 2),
        Change::RevokeEveryone => assert_eq!(sessions.revoke_everyone().await.unwrap(), 2),
        Change::RevokeWhere => {
            let revoke = sessions.revoke_where(&1, "active_org_id", 7_i64);
            assert_eq!(revoke.await.unwrap(), 1);
        }
        Change::RevokeEveryoneWhere => {
            let revoke = sessions.revoke_everyone_where("active_org_id", 7_i64);
            assert_eq!(revoke.await.unwrap(), 1);
        }
        Change::DeleteExpired => {
            expire(database).await;
            assert_eq!(sessions.delete_expired().await.unwrap(), 2);
        }
        Change::SignOutAfterTheLimit => {
            expire(database).await;
            drop(sessions.sign_out(&headers).await);
        }
        Change::Reauthenticate => drop(sessions.reauthenticate(1, &headers).await.unwrap()),
        Change::Update => {
            let update = sessions.update(&current(first)).set("active_org_id", 8_i64);
            update.await.unwrap();
        }
        Change::Psql => with_psql(database, "DELETE FROM sessions").await,
    }
}

async fn with_psql(database: &TestDatabase, statement: &str) {
    let Some(psql) = psql().await else {
        skip(
            "postgres::audit::every_begin_and_end_is_recorded_once",
            "there is no psql here",
        );
        sql(database, statement).await;
        return;
    };
    let url = database.url();
    let run = Command::new(psql)
        .args(["-X", "-d", &url, "-c", statement])
        .output();
    assert!(run.unwrap().status.success());
}

async fn expire(database: &TestDatabase) {
    let expire = "UPDATE sessions SET expires_at = created_at + interval '1 microsecond'";
    sql(database, expire).await;
}
