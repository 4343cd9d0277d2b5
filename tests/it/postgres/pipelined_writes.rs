//! Failures of sign-ins and revocations, whose changes are sent together with `COMMIT`.

use std::{future::IntoFuture as _, time::Duration};

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tokio::time::{sleep, timeout};
use tower_user_session::{
    BoxError, CurrentSession, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    postgres::SignInConditions,
    session::{SessionLimit, TokenDigest},
    store::{InsertOutcome, NewSession, SessionStore as _},
};

use crate::support::{
    PATIENCE, PgSessions, ROWS, User, cookie, database, number,
    pgbouncer::PgBouncer,
    pool,
    proxy::{Line, Proxy},
    sessions, sql, until_number, until_waiting,
};

const DEADLINE: Duration = Duration::from_millis(1_500);

/// The number of transactions of other connections that are open, and of those that hold locks of
/// users.
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity AS a
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND (state IN ('active', 'idle in transaction', 'idle in transaction (aborted)') OR EXISTS (
          SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory'))";

/// A service that ends the oldest session at the second sign-in of a user.
fn limited(pool: Pool, pooling: bool) -> PgSessions {
    let mut store =
        PgSessionStore::<User>::new(pool).with_session_limit(SessionLimit::end_oldest(1).unwrap());
    if pooling {
        store = store.with_transaction_pooling();
    }
    let builder = SessionService::builder(store).deadline(DEADLINE);
    builder.build().unwrap()
}

/// All sessions, as text.
async fn rows(database: &TestDatabase) -> Vec<String> {
    let rows = "SELECT s::text FROM sessions AS s ORDER BY s.id";
    let rows = database.client().await.query(rows, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn trigger(kind: &str, event: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
         CREATE {kind} ON sessions {event} FOR EACH ROW EXECUTE FUNCTION added()"
    )
}

fn before(event: &str, body: &str) -> String {
    trigger(&format!("TRIGGER added BEFORE {event}"), "", body)
}

fn at_commit(event: &str) -> String {
    let kind = format!("CONSTRAINT TRIGGER added AFTER {event}");
    trigger(
        &kind,
        "DEFERRABLE INITIALLY DEFERRED",
        "RAISE EXCEPTION 'late'",
    )
}

#[derive(Clone, Copy, Debug)]
enum SignIn {
    /// With the session's cookie, so that it would be replaced.
    WithCookie,
    WithoutCookie,
    /// With a condition that the user no longer meets.
    Outdated,
    /// With the digest of the session that exists.
    SameDigest,
}

/// Reasons to reject a sign-in, one line each: the change of the database, the sign-in, and the
/// kind of its error; `None` is a duplicate digest.
fn rejections() -> Vec<(String, SignIn, Option<ErrorKind>)> {
    let unchanged = || "SELECT".to_owned();
    let disabled = || "UPDATE users SET disabled_at = now()".to_owned();
    let check =
        || "ALTER TABLE sessions ADD CHECK (created_at < '2000-01-01') NOT VALID".to_owned();
    vec![
        (
            unchanged(),
            SignIn::Outdated,
            Some(ErrorKind::UserNotAllowed),
        ),
        (unchanged(), SignIn::SameDigest, None),
        (
            disabled(),
            SignIn::WithoutCookie,
            Some(ErrorKind::UserNotAllowed),
        ),
        (
            disabled(),
            SignIn::WithCookie,
            Some(ErrorKind::UserNotAllowed),
        ),
        (check(), SignIn::WithoutCookie, Some(ErrorKind::Statement)),
        (check(), SignIn::WithCookie, Some(ErrorKind::Statement)),
        // Suppressed without an error.
        (
            before("INSERT", "RETURN NULL"),
            SignIn::WithoutCookie,
            Some(ErrorKind::Statement),
        ),
        (
            before("INSERT", "RETURN NULL"),
            SignIn::WithCookie,
            Some(ErrorKind::Statement),
        ),
        // The statement times out between the other ones, as the server or the client decides.
        (
            before("INSERT", "RAISE SQLSTATE '57014'"),
            SignIn::WithCookie,
            Some(ErrorKind::Deadline),
        ),
        (
            before("INSERT", "PERFORM pg_sleep(2); RETURN NEW"),
            SignIn::WithCookie,
            Some(ErrorKind::Deadline),
        ),
        // The session is inserted, the oldest one cannot be ended, and `COMMIT` reports success.
        (
            before("DELETE", "RAISE EXCEPTION 'kept'"),
            SignIn::WithoutCookie,
            Some(ErrorKind::Statement),
        ),
        (
            before("DELETE", "RAISE EXCEPTION 'kept'"),
            SignIn::WithCookie,
            Some(ErrorKind::Statement),
        ),
        // `COMMIT` itself fails.
        (
            at_commit("INSERT"),
            SignIn::WithoutCookie,
            Some(ErrorKind::Statement),
        ),
        (
            at_commit("DELETE"),
            SignIn::WithoutCookie,
            Some(ErrorKind::Statement),
        ),
    ]
}

/// F29: a sign-in that is rejected changes nothing, whatever the reason: the session that it would
/// have ended is still there, and the outcome is known.
#[tokio::test]
async fn a_rejected_sign_in_changes_nothing() {
    let name = "postgres::pipelined_writes::a_rejected_sign_in_changes_nothing";
    for way in ["prepared", "unnamed", "pgbouncer"] {
        for (change, sign_in, kind) in rejections() {
            let case = format!("{way}, {sign_in:?}: {change}");
            let database = database().await;
            let bouncer = match way {
                "pgbouncer" => match PgBouncer::before(name, &database, "").await {
                    Some(bouncer) => Some(bouncer),
                    None => return,
                },
                _ => None,
            };
            let pool = match &bouncer {
                Some(bouncer) => bouncer.pool(4),
                None => pool(&database, 4),
            };
            let sessions = limited(pool, way != "prepared");
            let ada = sessions.sign_in_without_request(1).await.unwrap();
            let client = database.client().await;
            client.batch_execute(&change).await.unwrap();
            let kept = rows(&database).await;
            let headers = cookie(&sessions, ada.token());
            let outcome = match sign_in {
                SignIn::WithCookie => sessions.sign_in(1, &headers).await.map(drop),
                SignIn::WithoutCookie => sessions.sign_in_without_request(1).await.map(drop),
                SignIn::Outdated => {
                    let sign_in = sessions.sign_in_without_request(1);
                    sign_in.if_unchanged("u.email", "old").await.map(drop)
                }
                SignIn::SameDigest => {
                    duplicate(&sessions, ada.token().digest()).await;
                    Ok(())
                }
            };
            assert_eq!(
                outcome.as_ref().err().map(Error::kind),
                kind,
                "{case}: {outcome:?}"
            );
            if let Err(error) = outcome {
                let by_client = change.contains("pg_sleep");
                assert_eq!(error.is_outcome_unknown(), by_client, "{case}: {error:?}");
            }
            until_number(&database, OPEN, 0).await;
            assert_eq!(rows(&database).await, kept, "{case}");
            // The connections are usable.
            assert!(sessions.sessions_of(&1).await.is_ok(), "{case}");
            assert!(
                sessions.sign_in_without_request(77).await.is_err(),
                "{case}"
            );
        }
    }
}

async fn duplicate(sessions: &PgSessions, digest: TokenDigest) {
    let condition = SignInConditions::default();
    let new = NewSession::new(digest, &1, &condition, Duration::from_secs(60));
    let outcome = sessions.store().insert(new).await.unwrap();
    assert!(
        matches!(outcome, InsertOutcome::DuplicateDigest),
        "{outcome:?}"
    );
}

/// F29: in a transaction of the application, a sign-in that is rejected without an error changes
/// nothing, and the application may commit.
#[tokio::test]
async fn a_rejected_sign_in_changes_nothing_in_the_applications_transaction() {
    let database = database().await;
    let sessions = limited(pool(&database, 4), false);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let kept = rows(&database).await;
    let mut client = sessions.store().pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let error = sessions
        .sign_in(1, &cookie(&sessions, ada.token()))
        .if_unchanged("u.email", "old")
        .in_transaction(&transaction)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UserNotAllowed);
    transaction.commit().await.unwrap();
    assert_eq!(rows(&database).await, kept);
}

#[derive(Clone)]
struct SmallId;

impl PgUser for SmallId {
    type Id = i32;
    const COLUMNS: &'static str = "u.id";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// F29: the driver cannot convert a value of one of the statements, and does not send it. The others
/// are rolled back.
#[tokio::test]
async fn a_statement_that_cannot_be_sent_commits_nothing() {
    let users = "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1)";
    let database = TestDatabase::create(users).await;
    let store = || {
        PgSessionStore::<SmallId>::new(pool(&database, 4))
            .with_session_limit(SessionLimit::end_oldest(1).unwrap())
    };
    store().migrate().await.unwrap();
    // `insert.sql` compares the key with the user's, `end_oldest.sql` with the session's.
    sql(
        &database,
        "ALTER TABLE sessions ALTER COLUMN user_id TYPE bigint",
    )
    .await;
    let sessions = SessionService::new(store());
    for _ in 0..2 {
        let error = sessions.sign_in_without_request(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
        assert!(!error.is_outcome_unknown(), "{error:?}");
        assert_eq!(number(&database, ROWS).await, 0);
    }
}

/// F29: a revocation that fails for one session ends none.
#[tokio::test]
async fn a_failed_revocation_ends_no_session() {
    let suppressed = before(
        "DELETE",
        "IF OLD.remembered THEN RETURN NULL; END IF; RETURN OLD",
    );
    let raised = before(
        "DELETE",
        "IF OLD.remembered THEN RAISE EXCEPTION 'kept'; END IF; RETURN OLD",
    );
    let slow = before("DELETE", "PERFORM pg_sleep(2); RETURN OLD");
    for pooling in [false, true] {
        for (change, kind) in [
            (&suppressed, ErrorKind::Statement),
            (&raised, ErrorKind::Statement),
            (&at_commit("DELETE"), ErrorKind::Statement),
            (&slow, ErrorKind::Deadline),
        ] {
            let database = database().await;
            let mut store = PgSessionStore::<User>::new(pool(&database, 4));
            if pooling {
                store = store.with_transaction_pooling();
            }
            let builder = SessionService::builder(store).deadline(DEADLINE);
            let sessions = builder.build().unwrap();
            let mut live = Vec::new();
            for remembered in [false, true, false] {
                let sign_in = sessions.sign_in_without_request(1);
                live.push(sign_in.remember(remembered).await.unwrap());
            }
            let client = database.client().await;
            client.batch_execute(change).await.unwrap();
            let kept = rows(&database).await;
            let current = CurrentSession::new(live[0].session());
            for all in [true, false] {
                let case = format!("pooling {pooling}, all {all}: {change}");
                let ended = if all {
                    sessions.revoke_all(&1).await
                } else {
                    sessions.revoke_others(&1, &current).await
                };
                let error = ended.unwrap_err();
                assert_eq!(error.kind(), kind, "{case}: {error:?}");
                let by_client = change.contains("pg_sleep");
                assert_eq!(error.is_outcome_unknown(), by_client, "{case}: {error:?}");
                until_number(&database, OPEN, 0).await;
                assert_eq!(rows(&database).await, kept, "{case}");
            }
            // If the application commits after the error, the server rolls back.
            let mut client = sessions.store().pool().get().await.unwrap();
            let transaction = client.transaction().await.unwrap();
            if kind == ErrorKind::Statement && !change.contains("late") {
                let ended = sessions.revoke_all_in_transaction(&transaction, &1).await;
                assert_eq!(ended.unwrap_err().kind(), kind);
                transaction.commit().await.unwrap();
                assert_eq!(rows(&database).await, kept, "pooling {pooling}: {change}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Write {
    SignIn,
    RevokeAll,
}

const WRITES: [Write; 2] = [Write::SignIn, Write::RevokeAll];

async fn write(sessions: &PgSessions, write: Write) -> Result<(), Error> {
    match write {
        Write::SignIn => sessions.sign_in_without_request(1).await.map(drop),
        Write::RevokeAll => sessions.revoke_all(&1).await.map(drop),
    }
}

/// F25, F29: if the connection is lost after `COMMIT` was sent, the outcome is unknown, and the
/// write is not repeated. It has taken effect or not, and is atomic.
#[tokio::test]
async fn a_lost_commit_leaves_the_outcome_unknown() {
    for write in WRITES {
        for (line, committed) in [(Line::UnansweredCommit, true), (Line::LostCommit, false)] {
            let case = format!("{write:?}, {line:?}");
            let database = database().await;
            let proxy = Proxy::before(&database).await;
            let sessions = limited(proxy.pool(4), false);
            let ada = sessions.sign_in_without_request(1).await.unwrap();
            let kept = rows(&database).await;
            proxy.set(line);
            let error = self::write(&sessions, write).await.unwrap_err();
            // The server has received it, and may still execute it.
            until_number(&database, OPEN, 0).await;
            assert!(error.is_outcome_unknown(), "{case}: {error:?}");
            assert_eq!(error.kind(), ErrorKind::Connection, "{case}");
            let ended = self::sessions(&database).user(ada.token()).await.unwrap();
            assert_eq!(ended.is_none(), committed, "{case}");
            if !committed {
                assert_eq!(rows(&database).await, kept, "{case}");
            }
            let left = match write {
                Write::SignIn => 1,
                Write::RevokeAll => i64::from(!committed),
            };
            assert_eq!(number(&database, ROWS).await, left, "{case}");
        }
    }
}

/// F04, F25: a connection that is lost before `COMMIT` was sent, idle or while it waits for the
/// lock, is replaced, and the write is repeated once.
#[tokio::test]
async fn a_connection_lost_before_the_commit_is_replaced() {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query NOT LIKE '%mine%'";
    for write in WRITES {
        let database = database().await;
        let sessions = limited(pool(&database, 4), false);
        self::write(&sessions, Write::SignIn).await.unwrap();
        self::write(&sessions, Write::RevokeAll).await.unwrap();
        assert!(number(&database, kill).await >= 1);
        self::write(&sessions, write).await.unwrap();

        let mut client = database.client().await;
        let transaction = client.transaction().await.unwrap();
        let other = self::sessions(&database);
        let held = other
            .sign_in_without_request(1)
            .in_transaction(&transaction);
        let _held = held.await.unwrap();
        let mine = "SELECT 'mine'";
        transaction.query_one(mine, &[]).await.unwrap();
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move { self::write(&sessions, write).await }
        });
        until_waiting(&database, 1).await;
        assert!(number(&database, kill).await >= 1);
        transaction.commit().await.unwrap();
        waiting.await.unwrap().unwrap();
    }
}

/// D18, F29: the user's lock is held from the first round trip to the commit.
#[tokio::test]
async fn the_lock_is_held_until_the_commit() {
    let locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted";
    let delay = Duration::from_millis(400);
    for write in WRITES {
        let database = database().await;
        let proxy = Proxy::before(&database).await;
        let sessions = limited(proxy.pool(4), false);
        // Prepares the statements.
        self::write(&sessions, Write::SignIn).await.unwrap();
        self::write(&sessions, Write::RevokeAll).await.unwrap();
        proxy.set(Line::Delayed(delay));
        let writing = tokio::spawn(async move { self::write(&sessions, write).await });
        until_number(&database, locks, 1).await;
        sleep(delay / 4).await;
        assert_eq!(number(&database, locks).await, 1, "{write:?}");
        writing.await.unwrap().unwrap();
        until_number(&database, locks, 0).await;
    }
}

/// F29: a caller that is dropped at any time leaves no transaction open and no lock held, and its
/// write has taken effect or not: with a limit of one session, there is one at any time.
#[tokio::test]
async fn a_dropped_caller_leaves_no_transaction_open() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    // The server ends an idle transaction at the deadline. The test does not wait that long.
    let store = PgSessionStore::<User>::new(proxy.pool(4))
        .with_session_limit(SessionLimit::end_oldest(1).unwrap());
    let builder = SessionService::builder(store).deadline(3 * PATIENCE);
    let sessions = builder.build().unwrap();
    proxy.set(Line::Delayed(Duration::from_millis(20)));
    let mut dropped = 0;
    for step in 0..16 {
        // Opens a connection and prepares the statements. The next sign-in takes 40 ms.
        let live = sessions.sign_in_without_request(1).await.unwrap();
        let limit = Duration::from_millis(step * 3);
        let headers = cookie(&sessions, live.token());
        let signed_in = timeout(limit, sessions.sign_in(1, &headers).into_future()).await;
        dropped += usize::from(signed_in.is_err());
        until_number(&database, OPEN, 0).await;
        assert_eq!(number(&database, ROWS).await, 1, "dropped after {limit:?}");
    }
    assert!(dropped >= 8, "{dropped} were dropped");
}
