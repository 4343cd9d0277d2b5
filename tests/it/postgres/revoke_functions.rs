//! Revocations in a transaction of the application: the crate's calls, and the SQL functions for
//! other clients. Both keep the same promises.

use ephemeral_postgres::TestDatabase;
use tokio::task::JoinHandle;
use tower_user_session::{
    ErrorKind, SignedIn,
    tokio_postgres::{self, Client, NoTls, Transaction, error::SqlState},
};

use crate::support::{PgSessions, User, current, database, number, sessions, sql, until_waiting};

/// A revocation of the application. In a function's text, `KEPT` and `OTHER` are ids of sessions.
#[derive(Clone, Copy, Debug)]
enum Revocation {
    CrateOthers,
    CrateAll,
    Function(&'static str),
}

/// One line per revocation: the call, and which sessions it leaves live: the kept one and the other
/// one of user 1, and the one of user 2.
const REVOCATIONS: &[(Revocation, [bool; 3])] = &[
    (Revocation::CrateOthers, [true, false, true]),
    (Revocation::CrateAll, [false, false, true]),
    (
        Revocation::Function("SELECT sessions_revoke(1, OTHER)"),
        [true, false, true],
    ),
    (
        Revocation::Function("SELECT sessions_revoke_others(1, KEPT)"),
        [true, false, true],
    ),
    (
        Revocation::Function("SELECT sessions_revoke_all(1)"),
        [false, false, true],
    ),
    (
        Revocation::Function("SELECT sessions_revoke_everyone()"),
        [false, false, false],
    ),
];

impl Revocation {
    async fn run(
        self,
        sessions: &PgSessions,
        transaction: &Transaction<'_>,
        kept: &SignedIn,
        other: &SignedIn,
    ) -> Result<(), String> {
        let ended = match self {
            Self::CrateOthers => {
                sessions
                    .revoke_others_in_transaction(transaction, &1, &current(kept))
                    .await
            }
            Self::CrateAll => sessions.revoke_all_in_transaction(transaction, &1).await,
            Self::Function(text) => {
                let call = text
                    .replace("KEPT", &literal(kept))
                    .replace("OTHER", &literal(other));
                let called = transaction.batch_execute(&call).await;
                return called.map_err(|error| error.as_db_error().unwrap().message().to_owned());
            }
        };
        ended.map(drop).map_err(|error| error.to_string())
    }
}

fn literal(signed_in: &SignedIn) -> String {
    format!("'{}'", signed_in.session().id())
}

async fn live(sessions: &PgSessions, signed_in: [&SignedIn; 3]) -> [bool; 3] {
    let mut live = [false; 3];
    for (live, signed_in) in live.iter_mut().zip(signed_in) {
        *live = sessions.user(signed_in.token()).await.unwrap().is_some();
    }
    live
}

/// M22: a revocation takes effect when the application commits, and not if it rolls back.
#[tokio::test]
async fn revocations_are_part_of_the_transaction() {
    for (revocation, left) in REVOCATIONS {
        let database = database().await;
        let sessions = sessions(&database);
        let kept = sessions.sign_in_without_request(1).await.unwrap();
        let other = sessions.sign_in_without_request(1).await.unwrap();
        let eve = sessions.sign_in_without_request(2).await.unwrap();
        let all = [&kept, &other, &eve];
        let mut client = database.client().await;
        for commit in [false, true] {
            let transaction = client.transaction().await.unwrap();
            let ended = revocation.run(&sessions, &transaction, &kept, &other).await;
            ended.unwrap();
            if commit {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
            let expected = if commit { *left } else { [true; 3] };
            assert_eq!(live(&sessions, all).await, expected, "{revocation:?}");
        }
    }
}

/// D13, M22: a revocation waits for a sign-in in progress, whose session it then ends.
#[tokio::test]
async fn revocations_wait_for_a_sign_in_in_progress() {
    for (revocation, left) in REVOCATIONS {
        let database = database().await;
        let sessions = sessions(&database);
        let kept = sessions.sign_in_without_request(1).await.unwrap();
        let eve = sessions.sign_in_without_request(2).await.unwrap();
        let mut client = database.client().await;
        let signing_in = client.transaction().await.unwrap();
        let other = sessions
            .sign_in_without_request(1)
            .in_transaction(&signing_in)
            .await
            .unwrap();
        let mut client = database.client().await;
        let transaction = client.transaction().await.unwrap();
        let ended = async {
            let ended = revocation.run(&sessions, &transaction, &kept, &other).await;
            ended.unwrap();
        };
        let sign_in_commits = async {
            until_waiting(&database, 1).await;
            signing_in.commit().await.unwrap();
        };
        tokio::join!(ended, sign_in_commits);
        transaction.commit().await.unwrap();
        let live = live(&sessions, [&kept, &other, &eve]).await;
        assert_eq!(live, *left, "{revocation:?}");
    }
}

/// M22: a sign-in that checked the old password waits for the change, and its condition rejects it.
#[tokio::test]
async fn a_sign_in_with_the_old_password_fails() {
    for (revocation, left) in REVOCATIONS {
        let database = database().await;
        let sessions = sessions(&database);
        let kept = sessions.sign_in_without_request(1).await.unwrap();
        let other = sessions.sign_in_without_request(1).await.unwrap();
        let eve = sessions.sign_in_without_request(2).await.unwrap();
        let mut client = database.client().await;
        let transaction = client.transaction().await.unwrap();
        let change = "UPDATE users SET role = 'new' WHERE id = 1";
        transaction.execute(change, &[]).await.unwrap();
        let ended = revocation.run(&sessions, &transaction, &kept, &other).await;
        ended.unwrap();
        let sign_in = tokio::spawn({
            let sign_in = sessions.sign_in_without_request(1);
            let sign_in = sign_in.if_unchanged("u.role", "member");
            async move { sign_in.await }
        });
        until_waiting(&database, 1).await;
        transaction.commit().await.unwrap();
        let error = sign_in.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UserNotAllowed, "{revocation:?}");
        let live = live(&sessions, [&kept, &other, &eve]).await;
        assert_eq!(live, *left, "{revocation:?}");
    }
}

/// M02: above `READ COMMITTED`, the snapshot can be older than a sign-in. The revocation is rejected.
#[tokio::test]
async fn revocations_above_read_committed_are_rejected() {
    let database = database().await;
    let sessions = sessions(&database);
    let kept = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    for (revocation, _) in REVOCATIONS {
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            let transaction = client.transaction().await.unwrap();
            let set = format!("SET TRANSACTION ISOLATION LEVEL {level}");
            transaction.batch_execute(&set).await.unwrap();
            let ended = revocation.run(&sessions, &transaction, &kept, &other).await;
            let error = ended.unwrap_err();
            let says = "isolation level is above READ COMMITTED";
            assert!(error.contains(says), "{revocation:?}, {level}: {error}");
        }
    }
    let live = live(&sessions, [&kept, &other, &kept]).await;
    assert_eq!(live, [true; 3]);
}

/// The functions, with arguments that end no session of user 1.
const WITHOUT_EFFECT: [&str; 3] = [
    "sessions_revoke(2, ID)",
    "sessions_revoke_others(2, ID)",
    "sessions_revoke_all(3)",
];

/// A session of another user is not ended, and a missing argument is an error.
#[tokio::test]
async fn functions_end_only_what_they_name() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let client = database.client().await;
    for call in WITHOUT_EFFECT {
        let call = call.replace("ID", &literal(&ada));
        let count = format!("SELECT cardinality({call})::bigint");
        assert_eq!(number(&database, &count).await, 0, "{call}");
    }
    for call in [
        "sessions_revoke(NULL, ID)",
        "sessions_revoke(1, NULL)",
        "sessions_revoke_others(NULL, ID)",
        "sessions_revoke_others(1, NULL)",
        "sessions_revoke_all(NULL)",
    ] {
        let call = format!("SELECT {}", call.replace("ID", &literal(&ada)));
        let error = client.batch_execute(&call).await.unwrap_err();
        let state = error.code();
        assert_eq!(state, Some(&SqlState::NULL_VALUE_NOT_ALLOWED), "{call}");
    }
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    let id = literal(&ada);
    let ended =
        format!("SELECT count(*) FROM unnest(sessions_revoke_all(1)) AS t (id) WHERE id = {id}");
    assert_eq!(number(&database, &ended).await, 1);
}

/// The calls of the functions, for one user and for all.
const CALLS: [&str; 4] = [
    "SELECT app.sessions_revoke(1, gen_random_uuid())",
    "SELECT app.sessions_revoke_others(1, gen_random_uuid())",
    "SELECT app.sessions_revoke_all(1)",
    "SELECT app.sessions_revoke_everyone()",
];

/// The privileges that a role needs to call the functions, one line each.
const PRIVILEGES: [&str; 4] = [
    "USAGE ON SCHEMA app",
    "SELECT (id, user_id) ON app.sessions",
    "DELETE ON app.sessions",
    "SELECT (id) ON app.users",
];

/// A role that has the privileges, and its connection to a database whose tables are in the schema
/// `app`.
struct Caller {
    database: TestDatabase,
    role: String,
    client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Caller {
    async fn connect() -> Self {
        let users = crate::support::USERS.replace("users", "app.users");
        let database = TestDatabase::create(&format!("CREATE SCHEMA app; {users}")).await;
        let store = sessions(&database);
        let store = store.store().pool().clone();
        let store = tower_user_session::PgSessionStore::<User>::new(store).with_schema("app");
        store.migrate().users_table("app.users").await.unwrap();
        let role = format!("revoking_{}", database.name());
        sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
        for privilege in PRIVILEGES {
            sql(&database, &format!("GRANT {privilege} TO {role}")).await;
        }
        let mut config = database.config();
        config.user(&role);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        Self {
            database,
            role,
            client,
            connection: tokio::spawn(connection),
        }
    }

    /// Drops the role.
    async fn end(self) {
        drop(self.client);
        self.connection.await.unwrap().unwrap();
        let (database, role) = (&self.database, &self.role);
        sql(database, &format!("DROP OWNED BY {role}")).await;
        sql(database, &format!("DROP ROLE {role}")).await;
    }
}

/// C17, L04, M22: the functions need the documented privileges of the caller, and each of them.
#[tokio::test]
async fn functions_need_the_documented_privileges() {
    let caller = Caller::connect().await;
    let (database, client, role) = (&caller.database, &caller.client, &caller.role);
    for call in CALLS {
        client.batch_execute(call).await.unwrap();
    }
    for privilege in PRIVILEGES {
        sql(database, &format!("REVOKE {privilege} FROM {role}")).await;
        let mut rejected = 0;
        for call in CALLS {
            if let Err(error) = client.batch_execute(call).await {
                assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
                rejected += 1;
            }
        }
        // `revoke_everyone` reads no user.
        let expected = if privilege.ends_with("app.users") {
            3
        } else {
            4
        };
        assert_eq!(rejected, expected, "{privilege}");
        sql(database, &format!("GRANT {privilege} TO {role}")).await;
    }
    caller.end().await;
}

/// M09: a policy that hides rows of either table makes the functions fail.
#[tokio::test]
async fn functions_fail_if_a_policy_hides_rows() {
    let caller = Caller::connect().await;
    let (database, client) = (&caller.database, &caller.client);
    for (table, calls) in [("sessions", &CALLS[..]), ("users", &CALLS[..3])] {
        let enable = format!("ALTER TABLE app.{table} ENABLE ROW LEVEL SECURITY");
        sql(database, &enable).await;
        for call in calls {
            let error = client.batch_execute(call).await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert!(error.message().contains("row-level security"), "{call}");
        }
        sql(database, &enable.replace("ENABLE", "DISABLE")).await;
    }
    caller.end().await;
}

/// A trigger that suppresses the deletion makes the functions fail, like the crate's calls.
#[tokio::test]
async fn functions_fail_if_a_trigger_suppresses_the_deletion() {
    let database = database().await;
    let sessions = sessions(&database);
    let kept = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let trigger =
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()";
    client.batch_execute(trigger).await.unwrap();
    for (revocation, _) in REVOCATIONS {
        let transaction = client.transaction().await.unwrap();
        let ended = revocation.run(&sessions, &transaction, &kept, &other).await;
        let error = ended.unwrap_err();
        assert!(error.contains("suppressed it"), "{revocation:?}: {error}");
    }
}

/// M12: objects that the caller's `search_path` or temporary schema offers are never used.
#[tokio::test]
async fn functions_ignore_the_search_path_of_the_caller() {
    let database = database().await;
    let sessions = sessions(&database);
    let client = database.client().await;
    let planted = "
        CREATE SCHEMA evil;
        CREATE TABLE evil.users (id bigint);
        CREATE TABLE evil.sessions (id uuid, user_id bigint, token_digest bytea);
        CREATE FUNCTION evil.planted(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'planted'; END $$;
        CREATE OPERATOR evil.= (FUNCTION = evil.planted, LEFTARG = bigint, RIGHTARG = bigint);
        CREATE FUNCTION evil.concat(oid, text, text) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'planted'; END $$;
        CREATE TEMPORARY TABLE users (id bigint);
        CREATE TEMPORARY TABLE sessions (id uuid, user_id bigint, token_digest bytea);
        SET search_path = pg_temp, evil, pg_catalog, public";
    client.batch_execute(planted).await.unwrap();
    for (call, left) in [
        (
            "SELECT sessions_revoke(1, (SELECT id FROM public.sessions LIMIT 1))",
            0,
        ),
        ("SELECT sessions_revoke_others(1, gen_random_uuid())", 0),
        ("SELECT sessions_revoke_all(1)", 0),
        ("SELECT sessions_revoke_everyone()", 0),
    ] {
        let _ = sessions.sign_in_without_request(1).await.unwrap();
        client.batch_execute(call).await.unwrap();
        let rows = number(&database, "SELECT count(*) FROM public.sessions").await;
        assert_eq!(rows, left, "{call}");
    }
}
