//! Behind PgBouncer in transaction mode, where each transaction of any client may run on any of the
//! server connections.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ephemeral_postgres::{TestDatabase, skip};
use http::HeaderMap;
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    session::{SessionLimit, SessionToken},
};

use crate::support::{
    COMPATIBLE_CHANGES, PATIENCE, PgSessions, USERS, User, conformance::conforms, cookie, current,
    database, kill_lookups, number, pgbouncer::PgBouncer, proxy::Proxy, sql, two_limits,
    until_waiting,
};

/// This many service instances, as if in separate processes.
const INSTANCES: usize = 3;

fn instances(bouncer: &PgBouncer) -> Vec<PgSessions> {
    let store = || PgSessionStore::new(bouncer.pool(4)).with_transaction_pooling();
    (0..INSTANCES)
        .map(|_| SessionService::new(store()))
        .collect()
}

/// F13: each operation of the store, through a pooler, sends no named statement and leaves no
/// setting or statement behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_leaves_no_state_on_server_connections() {
    let name = "postgres::pgbouncer::every_operation_leaves_no_state_on_server_connections";
    let database = TestDatabase::create(USERS).await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let proxy = Proxy::to(bouncer.config()).await;
    let store = || {
        PgSessionStore::<User>::new(proxy.pool(4))
            .with_transaction_pooling()
            .with_lifetime(two_limits())
    };
    let (one, other) = tokio::join!(store().migrate(), store().migrate());
    one.unwrap();
    other.unwrap();
    let check = store().check().await.unwrap();
    assert!(!check.in_recovery());

    let sessions = SessionService::new(store());
    conforms(&sessions).await;
    one_by_one(&sessions, &database).await;
    for (limit, ends_oldest) in [
        (SessionLimit::refuse_new(1).unwrap(), false),
        (SessionLimit::end_oldest(1).unwrap(), true),
    ] {
        let limited = SessionService::new(store().with_session_limit(limit));
        limited.revoke_everyone().await.unwrap();
        let _ = limited.sign_in_without_request(1).await.unwrap();
        assert_eq!(
            limited.sign_in_without_request(1).await.is_ok(),
            ends_oldest
        );
        assert_eq!(limited.sessions_of(&1).await.unwrap().len(), 1);
    }

    let sent = proxy.sent();
    assert!(sent[&'P'] > 20 && !sent.contains_key(&'n'), "{sent:?}");
    nothing_is_left(&bouncer).await;
}

/// Operations that `conforms` does not cover: cookies, transactions of the application, conditions,
/// last-seen updates.
async fn one_by_one(sessions: &PgSessions, database: &TestDatabase) {
    let phone = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(sessions, phone.token());
    let confirmed = sessions.reauthenticate(1, &headers).await.unwrap();
    assert_eq!(sessions.user(phone.token()).await.unwrap(), None);
    let headers: HeaderMap = cookie(sessions, confirmed.token());
    let laptop = sessions
        .sign_in_without_request(1)
        .if_unchanged("u.email", "ada@example.com")
        .if_unchanged("u.id", 1_i64)
        .await
        .unwrap();
    let refused = sessions
        .sign_in_without_request(1)
        .if_unchanged("u.email", "ada@old.com");
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::UserNotAllowed);
    assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 2);

    let mut client = sessions.store().pool().get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let tablet = sessions
        .sign_in_without_request(1)
        .in_transaction(&transaction)
        .await;
    let tablet = tablet.unwrap();
    let current = current(&tablet);
    let others = sessions.revoke_others_in_transaction(&transaction, &1, &current);
    assert_eq!(others.await.unwrap(), 2);
    transaction.commit().await.unwrap();
    drop(client);
    assert_eq!(sessions.user(laptop.token()).await.unwrap(), None);
    assert!(sessions.sign_out(&headers).await.ended().is_ok());

    // Old enough that the next lookup updates the last-seen time.
    sql(
        database,
        "UPDATE sessions SET last_seen_at = now() - interval '30 minutes'",
    )
    .await;
    assert_eq!(
        sessions.user(tablet.token()).await.unwrap(),
        Some(User::ada())
    );
    let seen = "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '1 minute'";
    let start = Instant::now();
    while number(database, seen).await == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "last_seen_at was not updated"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sessions.revoke(&1, current.id()).await.unwrap());
    assert_eq!(sessions.user(tablet.token()).await.unwrap(), None);
    let _ = sessions.sign_in_without_request(2).await.unwrap();
    sql(database, "UPDATE sessions SET expires_at = now()").await;
    assert_eq!(sessions.delete_expired().await.unwrap(), 1);
}

/// Reads the state of both server connections, each of which a transaction holds.
async fn nothing_is_left(bouncer: &PgBouncer) {
    let (mut one, mut other) = (bouncer.client().await, bouncer.client().await);
    let (one, other) = (
        one.transaction().await.unwrap(),
        other.transaction().await.unwrap(),
    );
    let left = "SELECT pg_backend_pid(), current_setting('plan_cache_mode'),
            current_setting('enable_seqscan'), current_setting('jit') = reset_val,
            (SELECT count(*) FROM pg_prepared_statements WHERE name <> '')
        FROM pg_settings WHERE name = 'jit'";
    let mut connections = BTreeSet::new();
    for transaction in [&one, &other] {
        let row = transaction.query_typed_one(left, &[]).await.unwrap();
        connections.insert(row.get::<_, i32>(0));
        assert_eq!(row.get::<_, &str>(1), "auto");
        assert_eq!(row.get::<_, &str>(2), "on");
        assert!(row.get::<_, bool>(3));
        assert_eq!(row.get::<_, i64>(4), 0);
    }
    assert_eq!(connections.len(), 2);
}

/// F13, and never the wrong user: instances share server connections, and each token is looked up
/// repeatedly while others sign in and out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_resolves_to_its_owner_on_shared_connections() {
    let name = "postgres::pgbouncer::a_token_resolves_to_its_owner_on_shared_connections";
    let database = database().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let mut tasks = Vec::new();
    for sessions in instances(&bouncer) {
        for user in [1, 2, 1, 2] {
            tasks.push(tokio::spawn(come_and_go(sessions.clone(), user)));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    nothing_is_left(&bouncer).await;
}

async fn come_and_go(sessions: PgSessions, user: i64) {
    let owner = if user == 1 { User::ada() } else { User::eve() };
    for _ in 0..12 {
        let signed_in = sessions.sign_in_without_request(user).await.unwrap();
        for _ in 0..12 {
            let unknown = SessionToken::generate().unwrap();
            let (known, unknown) =
                tokio::join!(sessions.user(signed_in.token()), sessions.user(&unknown));
            assert_eq!(known.unwrap().as_ref(), Some(&owner));
            assert_eq!(unknown.unwrap(), None);
        }
        let devices = sessions.sessions_of(&user).await.unwrap();
        assert!(devices.iter().any(|device| device.is(&signed_in.session())));
        let headers = cookie(&sessions, signed_in.token());
        let confirmed = sessions.reauthenticate(user, &headers).await.unwrap();
        let headers = cookie(&sessions, confirmed.token());
        let ended = sessions.sign_out(&headers).await;
        assert!(matches!(ended.ended(), Ok(true)));
        assert_eq!(sessions.user(confirmed.token()).await.unwrap(), None);
    }
}

/// F14, F10: the pooler replaces server connections and the tables change, under load: no call
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_and_connection_changes_cause_no_error() {
    let name = "postgres::pgbouncer::schema_and_connection_changes_cause_no_error";
    let database = database().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "server_lifetime = 1").await else {
        return;
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for sessions in instances(&bouncer) {
        let ada = Arc::new(sessions.sign_in_without_request(1).await.unwrap());
        for n in 0..3 {
            let (sessions, ada, stop) = (sessions.clone(), ada.clone(), stop.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let user = sessions.user(ada.token()).await.unwrap();
                    assert_eq!(user, Some(User::ada()));
                    if n == 0 {
                        let eve = sessions.sign_in_without_request(2).await.unwrap();
                        assert!(sessions.revoke(&2, eve.session().id()).await.unwrap());
                    }
                }
            }));
        }
    }
    let mut connections = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        for change in COMPATIBLE_CHANGES {
            sql(&database, change).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let client = bouncer.client().await;
        let pid = "SELECT pg_backend_pid()";
        let row = client.query_typed_one(pid, &[]).await.unwrap();
        connections.insert(row.get::<_, i32>(0));
    }
    stop.store(true, Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(connections.len() > 2, "the pooler replaced no connection");
}

/// F14, F03: server connections are killed under the pooler, idle and busy: the lookup is retried
/// once, and no call fails.
#[tokio::test]
async fn a_lost_server_connection_causes_no_error() {
    let name = "postgres::pgbouncer::a_lost_server_connection_causes_no_error";
    let database = database().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let sessions = instances(&bouncer).remove(0);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    for _ in 0..5 {
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
        assert!(kill_lookups(&database).await >= 1);
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    }

    // Busy: waiting for a lock on the users table until it is killed.
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let asking = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.user(ada.token()).await }
    });
    until_waiting(&database, 1).await;
    assert_eq!(kill_lookups(&database).await, 1);
    lock.commit().await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap(), Some(User::ada()));
}

/// A lookup that does not finish does not block the next one, also through a pooler: its connection
/// is closed.
#[tokio::test]
async fn a_lookup_that_does_not_finish_blocks_no_other() {
    let name = "postgres::pgbouncer::a_lookup_that_does_not_finish_blocks_no_other";
    let database = database().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let store = PgSessionStore::<User>::new(bouncer.pool(2)).with_transaction_pooling();
    let sessions = SessionService::builder(store)
        .deadline(Duration::from_millis(300))
        .build()
        .unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    for _ in 0..3 {
        let error = sessions.user(ada.token()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
    }
    lock.rollback().await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
}

/// F13: without the setting a token resolves to its owner, or to an error that names the setting,
/// and never to another user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_without_the_setting_name_it() {
    let name = "postgres::pgbouncer::errors_without_the_setting_name_it";
    let database = database().await;
    let tracking = "max_prepared_statements = 0";
    let settings = if tracks_statements() { tracking } else { "" };
    let Some(bouncer) = PgBouncer::before(name, &database, settings).await else {
        return;
    };
    let good = instances(&bouncer).remove(0);
    let ada = Arc::new(good.sign_in_without_request(1).await.unwrap());
    // Whether two instances meet on a server connection depends on the scheduling.
    let begun = Instant::now();
    let mut errors = Vec::new();
    while errors.is_empty() && begun.elapsed() < PATIENCE {
        let tasks = (0..2 * INSTANCES).map(|_| {
            let sessions = SessionService::new(PgSessionStore::<User>::new(bouncer.pool(4)));
            let ada = ada.clone();
            tokio::spawn(async move {
                let mut errors = Vec::new();
                for _ in 0..50 {
                    match sessions.user(ada.token()).await {
                        Ok(user) => assert_eq!(user, Some(User::ada())),
                        Err(error) => errors.push(error),
                    }
                    if let Err(error) = sessions.sessions_of(&1).await {
                        errors.push(error);
                    }
                }
                errors
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            errors.extend(task.await.unwrap());
        }
    }
    let naming = errors.iter().filter(|error| {
        error.kind() == ErrorKind::Configuration
            && error.to_string().contains("with_transaction_pooling")
    });
    assert!(naming.count() > 0, "{errors:?}");
}

/// F13: with a pooler that tracks prepared statements, lookups and writes work without the setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_tracks_statements_needs_no_setting() {
    let name = "postgres::pgbouncer::a_pooler_that_tracks_statements_needs_no_setting";
    if PgBouncer::version().is_some() && !tracks_statements() {
        return skip(name, "this pgbouncer tracks no prepared statements");
    }
    let database = database().await;
    let tracking = "max_prepared_statements = 100";
    let Some(bouncer) = PgBouncer::before(name, &database, tracking).await else {
        return;
    };
    works_without_the_setting(&bouncer).await;
}

/// In session mode a client keeps its server connection, as if there were no pooler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_mode_needs_no_setting() {
    let name = "postgres::pgbouncer::session_mode_needs_no_setting";
    let database = database().await;
    let session_mode = "pool_mode = session\ndefault_pool_size = 20";
    let Some(bouncer) = PgBouncer::before(name, &database, session_mode).await else {
        return;
    };
    works_without_the_setting(&bouncer).await;
}

async fn works_without_the_setting(bouncer: &PgBouncer) {
    let mut tasks = Vec::new();
    for _ in 0..INSTANCES {
        let sessions = SessionService::new(PgSessionStore::<User>::new(bouncer.pool(4)));
        sessions.store().check().await.unwrap();
        for user in [1, 2] {
            tasks.push(tokio::spawn(come_and_go(sessions.clone(), user)));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn tracks_statements() -> bool {
    PgBouncer::version().is_some_and(|version| version >= (1, 21))
}

/// M18: the server's connection is lost while the server commits. The outcome is unknown, whatever
/// the pooler reports.
#[tokio::test]
async fn a_connection_that_is_lost_at_commit_leaves_the_outcome_unknown() {
    let name =
        "postgres::pgbouncer::a_connection_that_is_lost_at_commit_leaves_the_outcome_unknown";
    let database = database().await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let store = PgSessionStore::new(bouncer.pool(4)).with_transaction_pooling();
    let sessions: PgSessions = SessionService::new(store);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let end = "
        CREATE FUNCTION end_backend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5);
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER end_backend AFTER INSERT OR DELETE ON sessions
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_backend()";
    let client = database.client().await;
    client.batch_execute(end).await.unwrap();
    let signed_in = sessions.sign_in_without_request(1).await;
    let signed_out = sessions.sign_out(&cookie(&sessions, ada.token())).await;
    let revoked = sessions.revoke_all(&1).await;
    for error in [
        signed_in.unwrap_err(),
        signed_out.ended().unwrap_err().clone(),
        revoked.unwrap_err(),
    ] {
        assert!(error.is_outcome_unknown(), "{error:?}");
    }
}
