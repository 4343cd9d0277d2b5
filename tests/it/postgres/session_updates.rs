//! Updates of session columns, and revocations by their values: which sessions they change.

use std::{future::IntoFuture as _, time::Duration};

use tower_user_session::ErrorKind;

use crate::support::{
    ROWS, cookie, current, number,
    organizations::{Member, members, organizations, set_factor, signed_in},
    sign_out, until_waiting,
};

/// What happened to a session before an update: a name, statements, and whether the session is
/// still live.
const STATES: &[(&str, &str, bool)] = &[
    ("live", "", true),
    (
        "in no organization",
        "UPDATE sessions SET active_org_id = NULL",
        true,
    ),
    (
        "almost idle",
        "UPDATE sessions SET last_seen_at = now() - interval '59 minutes'",
        true,
    ),
    ("ended", "DELETE FROM sessions", false),
    ("truncated", "TRUNCATE sessions", false),
    ("expired", "UPDATE sessions SET expires_at = now()", false),
    (
        "idle",
        "UPDATE sessions SET last_seen_at = now() - interval '60 minutes'",
        false,
    ),
    (
        "beyond the store's limit",
        "UPDATE sessions SET created_at = now() - interval '10 hours'",
        false,
    ),
    (
        "of a disabled user",
        "UPDATE users SET disabled_at = now()",
        false,
    ),
    (
        "in a suspended organization",
        "UPDATE orgs SET suspended_at = now()",
        false,
    ),
    ("of a deleted user", "DELETE FROM users WHERE id = 1", false),
];

/// P02: an update changes a live session only. It changes no row of another session, and neither
/// the token nor a time of this session.
#[tokio::test]
async fn an_update_changes_a_live_session_only() {
    let database = organizations().await;
    let sessions = members(&database);
    let row = "SELECT coalesce((SELECT string_agg((to_jsonb(s) - 'factors')::text, ' ' ORDER BY id) FROM sessions AS s), '')
        || (SELECT count(*) FROM sessions WHERE factors IS NOT NULL)";
    let client = database.client().await;
    let rows = async || -> String { client.query_one(row, &[]).await.unwrap().get(0) };
    let undo = "DELETE FROM sessions; UPDATE users SET disabled_at = NULL; UPDATE orgs SET suspended_at = NULL";
    for &(name, statement, live) in STATES {
        client.batch_execute(undo).await.unwrap();
        let signed_in = signed_in(&sessions).await;
        let _ = sessions.sign_in_without_request(1).await.unwrap();
        let _ = sessions.sign_in_without_request(2).await.unwrap();
        client.batch_execute(statement).await.unwrap();
        let before = rows().await;
        let updated = set_factor(&sessions, &signed_in, "code").await;
        let user = sessions.user(signed_in.token()).await.unwrap();
        assert_eq!(user.is_some(), live, "{name}");
        let expected = before.strip_suffix('0').unwrap().to_owned() + if live { "1" } else { "0" };
        assert_eq!(rows().await, expected, "{name}");
        match updated {
            Ok(()) => assert_eq!(user.unwrap().factors.unwrap(), ["code"], "{name}"),
            Err(error) => assert_eq!(
                (error.kind(), live),
                (ErrorKind::SessionNotFound, false),
                "{name}"
            ),
        }
    }
}

/// An update without a value changes nothing and sends nothing.
#[tokio::test]
async fn an_update_without_a_value_does_nothing() {
    let database = organizations().await;
    let sessions = members(&database);
    let signed_in = signed_in(&sessions).await;
    sessions.update(&current(&signed_in)).await.unwrap();
    assert_eq!(
        sessions.user(signed_in.token()).await.unwrap(),
        Some(Member::of(1, 7))
    );
}

/// What another transaction does to a session while an update waits for it: a statement, how the
/// transaction ends, and whether the update finds the session.
const IN_TRANSACTION: &[(&str, &str, bool)] = &[
    ("DELETE FROM sessions", "COMMIT", false),
    ("DELETE FROM sessions", "ROLLBACK", true),
    ("DELETE FROM users WHERE id = 1", "COMMIT", false),
    ("DELETE FROM users WHERE id = 1", "ROLLBACK", true),
    ("UPDATE sessions SET expires_at = now()", "COMMIT", false),
    (
        "UPDATE sessions SET token_digest = decode(repeat('00', 32), 'hex')",
        "COMMIT",
        true,
    ),
    ("UPDATE sessions SET active_org_id = 8", "COMMIT", true),
];

/// P02: an update that waits for another transaction sees what that transaction did.
#[tokio::test]
async fn an_update_waits_for_a_concurrent_end() {
    for &(statement, end, updates) in IN_TRANSACTION {
        let database = organizations().await;
        let sessions = members(&database);
        let signed_in = signed_in(&sessions).await;
        let client = database.client().await;
        client
            .batch_execute(&format!("BEGIN; {statement}"))
            .await
            .unwrap();
        let update = set_factor(&sessions, &signed_in, "code");
        let ((), updated) = tokio::join!(
            async {
                until_waiting(&database, 1).await;
                client.batch_execute(end).await.unwrap();
            },
            update
        );
        assert_eq!(
            updated.map_err(|error| error.kind()),
            if updates {
                Ok(())
            } else {
                Err(ErrorKind::SessionNotFound)
            },
            "{statement}; {end}"
        );
        let with_factor = "SELECT count(*) FROM sessions WHERE factors IS NOT NULL";
        assert_eq!(
            number(&database, with_factor).await,
            i64::from(updates),
            "{statement}; {end}"
        );
    }
}

/// P02: after a revocation or a sign-out, a session stays ended, whichever order a concurrent update
/// took. A re-authentication and an update that run together both take effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_concurrent_update_revives_nothing() {
    let database = organizations().await;
    let sessions = members(&database);
    let mut took_effect = [0, 0];
    for n in 0..60_u64 {
        let signed_in = signed_in(&sessions).await;
        // Each order occurs, and in between they overlap.
        let pauses = [(0, 4_000), (4_000, 0), (0, 0), (n * 20, 0), (0, n * 20)];
        let (before_update, before_end) = pauses[usize::try_from(n % 5).unwrap()];
        let pause = |micros| tokio::time::sleep(Duration::from_micros(micros));
        let update = async {
            pause(before_update).await;
            set_factor(&sessions, &signed_in, "code").await
        };
        let headers = cookie(&sessions, signed_in.token());
        if n % 3 == 2 {
            let (updated, rotated) =
                tokio::join!(update, sessions.reauthenticate(1, &headers).into_future());
            updated.unwrap();
            let user = sessions
                .user(rotated.unwrap().token())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (user.org_id, user.factors),
                (Some(7), Some(vec!["code".to_owned()]))
            );
            continue;
        }
        let (updated, ended) = tokio::join!(update, async {
            pause(before_end).await;
            if n % 3 == 0 {
                sessions.revoke(&1, signed_in.session().id()).await
            } else {
                sign_out(&sessions, signed_in.token()).await
            }
        });
        assert!(ended.unwrap());
        took_effect[usize::from(updated.is_ok())] += 1;
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
        let rows = format!(
            "SELECT count(*) FROM sessions WHERE id = '{}'",
            signed_in.session().id()
        );
        assert_eq!(number(&database, &rows).await, 0);
    }
    assert!(
        took_effect.iter().all(|count| *count > 0),
        "only one order occurred: {took_effect:?}"
    );
}

/// A trigger that suppresses the write makes it fail, and not look like an ended session.
#[tokio::test]
async fn a_suppressed_update_fails() {
    let database = organizations().await;
    let sessions = members(&database);
    let signed_in = signed_in(&sessions).await;
    let trigger = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()";
    database
        .client()
        .await
        .batch_execute(trigger)
        .await
        .unwrap();
    let headers = cookie(&sessions, signed_in.token());
    for error in [
        set_factor(&sessions, &signed_in, "code").await.unwrap_err(),
        sessions
            .reauthenticate(1, &headers)
            .set("factors", vec!["code"])
            .await
            .unwrap_err(),
        sessions
            .revoke_where(&1, "active_org_id", 7_i64)
            .await
            .unwrap_err(),
        sessions
            .revoke_everyone_where("active_org_id", 7_i64)
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Statement);
        assert!(error.to_string().contains("suppressed"), "{error}");
    }
    assert_eq!(
        sessions
            .revoke_where(&1, "active_org_id", 8_i64)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        sessions.user(signed_in.token()).await.unwrap(),
        Some(Member::of(1, 7))
    );
}

/// Re-authentication keeps the values that it does not set.
#[tokio::test]
async fn a_re_authentication_keeps_values() {
    let database = organizations().await;
    let sessions = members(&database);
    let signed_in = signed_in(&sessions).await;
    let headers = cookie(&sessions, signed_in.token());
    let factors = vec!["password".to_owned(), "code".to_owned()];
    let rotate = sessions.reauthenticate(1, &headers);
    let rotated = rotate.set("factors", factors.clone()).await.unwrap();
    let expected = Member {
        factors: Some(factors),
        ..Member::of(1, 7)
    };
    assert_eq!(
        sessions.user(rotated.token()).await.unwrap(),
        Some(expected.clone())
    );
    let headers = cookie(&sessions, rotated.token());
    let again = sessions.reauthenticate(1, &headers).await.unwrap();
    assert_eq!(sessions.user(again.token()).await.unwrap(), Some(expected));
    assert_eq!(sessions.user(rotated.token()).await.unwrap(), None);
}

/// `revoke_where` ends the sessions of this user with this value and no others.
/// `revoke_everyone_where` ends those of every user.
#[tokio::test]
async fn a_revocation_by_value_ends_those_sessions_only() {
    let database = organizations().await;
    let sessions = members(&database);
    let sign_in = async |user: i64, org: Option<i64>| {
        sessions
            .sign_in_without_request(user)
            .set("active_org_id", org)
            .await
            .unwrap()
    };
    let mut all = Vec::new();
    for user in [1, 2] {
        for org in [Some(7), Some(7), Some(8), None] {
            all.push((user, org, sign_in(user, org).await));
        }
    }
    let live = async |dead: &dyn Fn(i64, Option<i64>) -> bool| {
        for (user, org, signed_in) in &all {
            let found = sessions.user(signed_in.token()).await.unwrap();
            assert_eq!(found.is_none(), dead(*user, *org), "user {user} in {org:?}");
        }
    };
    assert_eq!(
        sessions
            .revoke_where(&1, "active_org_id", 7_i64)
            .await
            .unwrap(),
        2
    );
    live(&|user, org| user == 1 && org == Some(7)).await;
    assert_eq!(
        sessions
            .revoke_where(&1, "active_org_id", 7_i64)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        sessions
            .revoke_everyone_where("active_org_id", 8_i64)
            .await
            .unwrap(),
        2
    );
    live(&|user, org| user == 1 && org == Some(7) || org == Some(8)).await;
    assert_eq!(
        sessions
            .revoke_everyone_where("active_org_id", None::<i64>)
            .await
            .unwrap(),
        0
    );
    assert_eq!(number(&database, ROWS).await, 4);
}

/// A revocation by value waits for the sign-ins of this user that have begun, and ends them too.
#[tokio::test]
async fn a_revocation_by_value_ends_concurrent_sign_ins() {
    for everyone in [false, true] {
        let database = organizations().await;
        let sessions = members(&database);
        let mut client = database.client().await;
        let transaction = client.transaction().await.unwrap();
        let sign_in = sessions
            .sign_in_without_request(1)
            .set("active_org_id", 7_i64);
        let signed_in = sign_in.in_transaction(&transaction).await.unwrap();
        let ((), revoked) = tokio::join!(
            async {
                until_waiting(&database, 1).await;
                transaction.commit().await.unwrap();
            },
            async {
                if everyone {
                    sessions.revoke_everyone_where("active_org_id", 7_i64).await
                } else {
                    sessions.revoke_where(&1, "active_org_id", 7_i64).await
                }
            }
        );
        assert_eq!(revoked.unwrap(), 1, "everyone: {everyone}");
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    }
}
