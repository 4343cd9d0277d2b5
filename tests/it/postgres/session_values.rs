//! Values of session columns: constraints, errors, and that nothing logs them.

use std::error::Error as _;

use tower_user_session::{
    Error, ErrorKind, PgSessionStore, SessionService, SignedIn, tokio_postgres::types::ToSql,
};

use crate::support::{
    Logs, cookie, current,
    organizations::{Member, member_store, members, organizations},
    secrets::SESSION_VALUE,
    sql,
};

/// A foreign key to another table works both ways: the deletion of the row sets the column to null.
#[tokio::test]
async fn a_deleted_row_sets_the_column_to_null() {
    let database = organizations().await;
    let sessions = members(&database);
    let signed_in = sessions
        .sign_in_without_request(1)
        .set("active_org_id", 7_i64)
        .await
        .unwrap();
    let user = async || sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user().await, Some(Member::of(1, 7)));
    sql(&database, "DELETE FROM orgs WHERE id = 7").await;
    assert_eq!(user().await, Some(Member::new(1)));
}

/// Does one of the three writes with a value that must fail.
async fn write<T: ToSql + Send + Sync + 'static>(
    sessions: &SessionService<PgSessionStore<Member>>,
    signed_in: &SignedIn,
    (way, column, value): (usize, &'static str, T),
) -> Result<(), Error> {
    let headers = cookie(sessions, signed_in.token());
    match way {
        0 => sessions
            .sign_in(1, &headers)
            .set(column, value)
            .await
            .map(drop),
        1 => sessions
            .reauthenticate(1, &headers)
            .set(column, value)
            .await
            .map(drop),
        2 => {
            sessions
                .update(&current(signed_in))
                .set(column, value)
                .await
        }
        3 => sessions.revoke_where(&1, column, value).await.map(drop),
        _ => sessions
            .revoke_everyone_where(column, value)
            .await
            .map(drop),
    }
}

/// A secret of the application, which no text may contain.
const SECRET: &str = SESSION_VALUE;
const SECRET_NUMBER: i64 = 987_654_321_987;

/// A name, the result of a write, the kind of its error, and a part of its text.
type Unsuitable = (&'static str, Result<(), Error>, ErrorKind, &'static str);

/// Writes values that cannot be stored.
async fn unsuitable(
    sessions: &SessionService<PgSessionStore<Member>>,
    signed_in: &SignedIn,
    way: usize,
) -> [Unsuitable; 7] {
    let four = vec![SECRET.to_owned(); 4];
    [
        (
            "unknown",
            write(sessions, signed_in, (way, "org", SECRET)).await,
            ErrorKind::Configuration,
            "\"org\"",
        ),
        (
            "own",
            write(sessions, signed_in, (way, "user_id", 2_i64)).await,
            ErrorKind::Configuration,
            "\"user_id\"",
        ),
        (
            "quoted",
            write(sessions, signed_in, (way, "factors\"", 1)).await,
            ErrorKind::Configuration,
            "factors",
        ),
        (
            "text for a number",
            write(sessions, signed_in, (way, "active_org_id", SECRET)).await,
            ErrorKind::Schema,
            "int8",
        ),
        (
            "number for a list",
            write(sessions, signed_in, (way, "factors", SECRET_NUMBER)).await,
            ErrorKind::Schema,
            "_text",
        ),
        (
            "no such row",
            write(sessions, signed_in, (way, "active_org_id", SECRET_NUMBER)).await,
            ErrorKind::Statement,
            "foreign key",
        ),
        (
            "check",
            write(sessions, signed_in, (way, "factors", four)).await,
            ErrorKind::Statement,
            "check constraint",
        ),
    ]
}

/// A write fails clearly and changes nothing if the column is unknown, the value has another type,
/// or a constraint rejects it. Neither the error nor any event, of the driver too, contains a value.
#[tokio::test]
async fn a_value_that_cannot_be_stored_changes_nothing() {
    let database = organizations().await;
    for pooling in [false, true] {
        let store = member_store(&database);
        let store = if pooling {
            store.with_transaction_pooling()
        } else {
            store
        };
        let sessions = SessionService::new(store);
        let signed_in = sessions
            .sign_in_without_request(1)
            .set("active_org_id", 7_i64)
            .await
            .unwrap();
        // The driver logs through this.
        let _ = tracing_log::LogTracer::init();
        let logs = Logs::capture();
        let row = "SELECT string_agg(s::text, ' ' ORDER BY id) FROM sessions AS s";
        let rows = async || -> String {
            database
                .client()
                .await
                .query_one(row, &[])
                .await
                .unwrap()
                .get(0)
        };
        let before = rows().await;
        for way in 0..5 {
            for (name, result, kind, says) in unsuitable(&sessions, &signed_in, way).await {
                let Err(error) = result else {
                    // A revocation compares only.
                    let compares = way >= 3 && kind == ErrorKind::Statement;
                    assert!(compares, "{name}, way {way}");
                    continue;
                };
                let source = error.source().map(ToString::to_string);
                let text = format!("{error}: {source:?} {error:?}");
                assert_eq!(error.kind(), kind, "{name}, way {way}: {text}");
                assert!(text.contains(says), "{name}, way {way}: {text}");
                assert!(!error.is_outcome_unknown(), "{name}, way {way}");
                for secret in [SECRET, "987654321987"] {
                    assert!(!text.contains(secret), "{text}");
                }
            }
            assert_eq!(rows().await, before, "way {way}");
        }
        sessions
            .update(&current(&signed_in))
            .set("factors", vec![SECRET])
            .await
            .unwrap();
        let refused = sessions
            .sign_in_without_request(1)
            .if_unchanged("u.email", SECRET)
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::UserNotAllowed);
        let (log, debug) = (
            logs.text(),
            format!(
                "{:?}",
                sessions
                    .update(&current(&signed_in))
                    .set("factors", vec![SECRET])
            ),
        );
        assert!(
            log.contains("executing statement") || pooling,
            "the driver logs nothing"
        );
        for secret in [SECRET, "987654321987"] {
            assert!(!log.contains(secret) && !debug.contains(secret), "{secret}");
        }
        sessions.revoke_everyone().await.unwrap();
    }
}
