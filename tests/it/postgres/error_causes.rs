//! Errors name their cause: additions of the application to the tables, the pool, a read-only
//! database.

use std::{error::Error as _, time::Duration};

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, CurrentSession, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    session::Lifetime,
};

use crate::support::{Logs, PgSessions, cookie, database, number, pool, sessions, sql};

fn message(error: &Error) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    let cause = error.source().and_then(std::error::Error::source);
    let cause = cause.map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}: {cause}")
}

#[derive(Clone, Copy, Debug)]
enum Call {
    SignIn(i64),
    SignInTwice,
    Reauthenticate,
    SignOut,
    Revoke,
    RevokeOthers,
    RevokeEveryone,
}

/// The error of a call, for a user who is already signed in.
async fn fails(sessions: &PgSessions, call: Call, change: &str, database: &TestDatabase) -> Error {
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(sessions, ada.token());
    let client = database.client().await;
    client.batch_execute(change).await.unwrap();
    let outcome = match call {
        Call::SignIn(user) => sessions.sign_in_without_request(user).await.map(drop),
        Call::SignInTwice => sessions.sign_in_without_request(1).await.map(drop),
        Call::Reauthenticate => sessions.reauthenticate(1, &headers).await.map(drop),
        Call::SignOut => {
            let signed_out = sessions.sign_out(&headers).await;
            signed_out.ended().map(drop).map_err(Clone::clone)
        }
        Call::Revoke => sessions.revoke(&1, ada.session().id()).await.map(drop),
        Call::RevokeOthers => {
            let _other = sessions.sign_in_without_request(1).await.unwrap();
            let current = CurrentSession::new(ada.session());
            let others = sessions.revoke_others(&1, &current);
            others.await.map(drop)
        }
        Call::RevokeEveryone => sessions.revoke_everyone().await.map(drop),
    };
    outcome.expect_err(change)
}

/// Creates a trigger on the sessions table for this event, with this body.
fn trigger(event: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
         CREATE TRIGGER added BEFORE {event} ON sessions FOR EACH ROW EXECUTE FUNCTION added()"
    )
}

/// M16: one line per addition of the application to the tables: the change, the call, the kind of
/// its error, and what the error names.
#[tokio::test]
async fn constraints_and_triggers_of_the_application_are_named() {
    let suppress = |event| trigger(event, "RETURN NULL");
    let cases: &[(String, Call, ErrorKind, &str)] = &[
        (
            "CREATE UNIQUE INDEX one_a_user ON sessions (user_id)".to_owned(),
            Call::SignInTwice,
            ErrorKind::Statement,
            "one_a_user",
        ),
        (
            "CREATE TABLE audit (note text CONSTRAINT audit_token_digest_key UNIQUE);
             INSERT INTO audit VALUES ('x');"
                .to_owned()
                + &trigger("INSERT", "INSERT INTO audit VALUES ('x'); RETURN NEW"),
            Call::SignIn(1),
            ErrorKind::Statement,
            "audit_token_digest_key",
        ),
        (
            "CREATE TABLE tenants (id int PRIMARY KEY);
             ALTER TABLE sessions ADD COLUMN tenant int;
             ALTER TABLE sessions ALTER COLUMN tenant SET DEFAULT 7,
                 ADD CONSTRAINT of_a_tenant FOREIGN KEY (tenant) REFERENCES tenants"
                .to_owned(),
            Call::SignIn(1),
            ErrorKind::Statement,
            "of_a_tenant",
        ),
        (
            "CREATE TABLE members () INHERITS (users); INSERT INTO members (id, email) VALUES (9, 'nine')".to_owned(),
            Call::SignIn(9),
            ErrorKind::Statement,
            "sessions_user_id_fkey",
        ),
        (
            "ALTER TABLE sessions ADD CONSTRAINT short CHECK (expires_at < created_at)  NOT VALID".to_owned(),
            Call::SignIn(1),
            ErrorKind::Statement,
            "short",
        ),
        (suppress("INSERT"), Call::SignIn(1), ErrorKind::Statement, "trigger"),
        (suppress("UPDATE"), Call::Reauthenticate, ErrorKind::Statement, "trigger"),
        (suppress("DELETE"), Call::SignOut, ErrorKind::Statement, "trigger"),
        (suppress("DELETE"), Call::Revoke, ErrorKind::Statement, "trigger"),
        (suppress("DELETE"), Call::RevokeOthers, ErrorKind::Statement, "trigger"),
        (suppress("DELETE"), Call::RevokeEveryone, ErrorKind::Statement, "trigger"),
        ("SELECT".to_owned(), Call::SignIn(77), ErrorKind::UserNotAllowed, "cannot be signed in"),
        ("DELETE FROM sessions".to_owned(), Call::Reauthenticate, ErrorKind::SessionNotFound, "no live session"),
    ];
    for (change, call, kind, says) in cases {
        let database = database().await;
        let error = fails(&sessions(&database), *call, change, &database).await;
        assert_eq!(error.kind(), *kind, "{change}: {error:?}");
        assert!(
            message(&error).contains(says),
            "{change}: {}",
            message(&error)
        );
        assert!(!error.is_outcome_unknown(), "{change}: {error:?}");
    }
}

/// A session that another transaction deletes at the same time does not count as kept by a trigger.
#[tokio::test]
async fn session_that_another_transaction_deletes_is_no_error() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("DELETE FROM sessions", &[])
        .await
        .unwrap();
    let headers = cookie(&sessions, ada.token());
    let ending = tokio::spawn(async move {
        let signed_out = sessions.sign_out(&headers).await;
        signed_out.ended().map(drop).map_err(Clone::clone)
    });
    crate::support::until_waiting(&database, 1).await;
    transaction.commit().await.unwrap();
    ending.await.unwrap().unwrap();
}

/// M18: one line per SQLSTATE: whether a write that failed with it may have taken effect.
#[tokio::test]
async fn states_that_leave_the_outcome_unknown() {
    for (state, unknown) in [
        ("08P01", true),
        ("08006", true),
        ("08003", true),
        ("57P01", true),
        ("57P02", true),
        ("57P03", true),
        ("40003", true),
        ("57014", false),
        ("55P03", false),
        ("23505", false),
        ("22012", false),
        ("42501", false),
        ("53100", false),
        ("P0001", false),
        ("25006", false),
    ] {
        let database = database().await;
        let raise = trigger("DELETE", &format!("RAISE SQLSTATE '{state}'"));
        let error = fails(&sessions(&database), Call::SignOut, &raise, &database).await;
        assert_eq!(error.is_outcome_unknown(), unknown, "{state}: {error:?}");
    }
}

/// I03: no value of a row is in an error: one line per failure that the server describes with it.
#[tokio::test]
async fn values_of_rows_are_in_no_error() {
    for (body, state) in [
        ("PERFORM 'secret@example.com'::int", "22P02"),
        ("PERFORM 'secret@example.com'::timestamptz", "22007"),
        ("PERFORM to_date('secret@example.com', 'YYYY')", "22007"),
        ("PERFORM 'secret@example.com'::uuid", "22P02"),
        ("PERFORM 'secret@example.com'::json", "22P02"),
        (
            "INSERT INTO users (email) VALUES ('secret@example.com')",
            "23505",
        ),
    ] {
        let database = database().await;
        sql(
            &database,
            "UPDATE users SET email = 'secret@example.com' WHERE id = 2",
        )
        .await;
        let raise = trigger("DELETE", &format!("{body}; RETURN OLD"));
        let error = fails(&sessions(&database), Call::SignOut, &raise, &database).await;
        let text = format!("{} {error:?}", message(&error));
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains(state), "{text}");
    }
}

#[derive(Clone)]
struct WrongId;

impl PgUser for WrongId {
    type Id = i32;
    const COLUMNS: &'static str = "u.id";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// M10: a value that cannot be converted is not a lost connection, and nothing was sent.
#[tokio::test]
async fn conversion_error_is_not_a_lost_connection() {
    let database = database().await;
    for store in [
        PgSessionStore::<WrongId>::new(pool(&database, 2)),
        PgSessionStore::<WrongId>::new(pool(&database, 2)).with_transaction_pooling(),
    ] {
        let sessions = SessionService::new(store);
        let signed_in = sessions.sign_in_without_request(1).await.map(drop);
        let revoked = sessions.revoke_all(&1).await.map(drop);
        let listed = sessions.sessions_of(&1).await.map(drop);
        for outcome in [signed_in, revoked, listed] {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
            assert!(!error.is_outcome_unknown(), "{error:?}");
            assert!(
                message(&error).contains("PgUser::Id"),
                "{}",
                message(&error)
            );
        }
    }
}

fn with_deadline(pool: Pool, deadline: Duration) -> PgSessions {
    let service = SessionService::builder(PgSessionStore::new(pool));
    service.deadline(deadline).build().unwrap()
}

/// A pool without an available connection: nothing was sent.
#[tokio::test]
async fn an_exhausted_pool_is_reported_and_the_outcome_is_known() {
    let database = database().await;
    let ada = sessions(&database)
        .sign_in_without_request(1)
        .await
        .unwrap();
    let pool: Pool = pool(&database, 1);
    let lent = pool.get().await.unwrap();
    let sessions = with_deadline(pool, Duration::from_millis(400));
    let signed_in = sessions.sign_in_without_request(1).await.map(drop);
    let revoked = sessions.revoke_all(&1).await.map(drop);
    let headers = cookie(&sessions, ada.token());
    let signed_out = sessions.sign_out(&headers).await;
    let signed_out = signed_out.ended().map(drop).map_err(Clone::clone);
    for outcome in [signed_in, revoked, signed_out] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pool, "{error:?}");
        assert!(!error.is_outcome_unknown(), "{error:?}");
    }
    drop(lent);
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
}

/// A sign-in that times out while it waits for its turn has sent nothing.
#[tokio::test]
async fn waiting_for_a_turn_leaves_the_outcome_known() {
    let database = database().await;
    let pool: Pool = pool(&database, 4);
    let sessions = with_deadline(pool.clone(), Duration::from_millis(400));
    let mut client = pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let held = sessions
        .sign_in_without_request(1)
        .in_transaction(&transaction);
    let _held = held.await.unwrap();
    let sign_in = || async {
        sessions
            .sign_in_without_request(1)
            .await
            .map(drop)
            .unwrap_err()
    };
    let (first, second) = tokio::join!(sign_in(), sign_in());
    for error in [&first, &second] {
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error:?}");
    }
    assert!(!second.is_outcome_unknown(), "{second:?}");
    assert!(
        second
            .to_string()
            .contains("an earlier write of the same user")
    );
    transaction.rollback().await.unwrap();
}

/// M17: a primary that accepts no writes is not a replica, and the last-seen writer reports that it
/// cannot write.
#[tokio::test]
async fn read_only_primary_is_not_in_recovery() {
    let logs = Logs::capture();
    let database = database().await;
    let ada = sessions(&database)
        .sign_in_without_request(1)
        .await
        .unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() - interval '1 hour'",
    )
    .await;
    let read_only = format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name()
    );
    sql(&database, &read_only).await;
    let lifetime = Lifetime::default();
    let store = PgSessionStore::new(pool(&database, 2)).with_lifetime(lifetime);
    let sessions: PgSessions = SessionService::new(store);
    let headers = cookie(&sessions, ada.token());
    let signed_in = sessions.sign_in_without_request(1).await.map(drop);
    let revoked = sessions.revoke_all(&1).await.map(drop);
    let confirmed = sessions.reauthenticate(1, &headers).await.map(drop);
    let signed_out = sessions.sign_out(&headers).await;
    let signed_out = signed_out.ended().map(drop).map_err(Clone::clone);
    let everyone = sessions.revoke_everyone().await.map(drop);
    for outcome in [signed_in, revoked, confirmed, signed_out, everyone] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
        assert!(!error.is_outcome_unknown(), "{error:?}");
    }
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    sessions.close().await;
    let events = logs.events();
    let not_recorded = |event: &String| event.contains("failed to record the last use of sessions");
    assert!(events.iter().any(not_recorded), "{events:?}");
}
