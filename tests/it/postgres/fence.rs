//! A primary that was replaced is refused by a process that has met the new one.

use std::sync::Arc;

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{StopMode, TestDatabase};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    session::{SessionToken, TokenDigest},
    store::SessionLookup as _,
    tokio_postgres::{Config, NoTls},
};

use crate::support::{
    Logs, PgSessions, User, database,
    history::workload::connect,
    kill_lookups, number,
    pair::{Pair, blocking},
    patiently, pool, sign_out, sql, until_waiting,
};

const PROCESS: &str = "fenced";
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fenced'";

/// The process of an application. The replica is its first host, so that new connections lead there once it is a primary.
async fn process(pair: &Pair) -> PgSessions {
    let [replica, primary] =
        [&pair.replica, &pair.primary].map(|server| server.directory().unwrap().display());
    let database = pair.database.name();
    let config = format!(
        "host={replica},{primary} user=postgres dbname={database} target_session_attrs=read-write \
         application_name={PROCESS}"
    );
    let config: Config = config.parse().unwrap();
    let manager = Manager::new(config.clone(), NoTls);
    let pool = Pool::builder(manager).max_size(4).build().unwrap();
    let sessions = SessionService::new(PgSessionStore::new(pool));
    let feed = sessions.store().feed(config, NoTls);
    sessions.enable_cache(feed, 100).await.unwrap();
    sessions
}

async fn promote(pair: &Pair) {
    let replica = Arc::clone(&pair.replica);
    blocking(move || replica.promote().unwrap()).await;
}

/// What the replica has replayed of the primary.
async fn replicated(pair: &Pair, sessions: i64) {
    let client = connect(&pair.replica_config()).await.unwrap();
    patiently(async {
        loop {
            let count = client.query_one("SELECT count(*) FROM sessions", &[]).await;
            if count.is_ok_and(|row| row.get::<_, i64>(0) == sessions) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// N09: two servers take themselves for the primary. As soon as one connection of a process has had an answer from the
/// new one, no session counts as live that ended there: neither from the cache nor from an open connection to the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_the_new_primary_fences_off_the_old_one() {
    let Some(pair) = Pair::start("fence", &[]).await else {
        return;
    };
    let setup = PgSessionStore::<User>::new(pool(&pair.database, 1));
    setup.migrate().notify_on_revocation().await.unwrap();
    let sessions = process(&pair).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    replicated(&pair, 2).await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));

    promote(&pair).await;
    let manager = Manager::new(pair.replica_config(), NoTls);
    let on_new = Pool::builder(manager).max_size(2).build().unwrap();
    let elsewhere = SessionService::new(PgSessionStore::<User>::new(on_new));
    assert!(sign_out(&elsewhere, ada.token()).await.unwrap());
    // Nothing tells the process so far.
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));

    // A lookup of another session opens a connection, which leads to the new primary.
    assert!(kill_lookups(&pair.database).await > 0);
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    // Neither lookups and writes nor the feed keep a connection to the old primary.
    patiently(async { while number(&pair.database, CONNECTIONS).await > 0 {} }).await;
    // The old primary is the only one that this process reaches anew.
    let replica = Arc::clone(&pair.replica);
    blocking(move || replica.stop(StopMode::Fast).unwrap()).await;
    let error = sessions.user(eve.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);
    assert!(sessions.sign_in_without_request(1).await.is_err());
    assert!(sign_out(&sessions, eve.token()).await.is_err());
}

/// N09: an answer of the old primary that was under way when the new one answered is discarded, and the lookup repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_under_way_is_discarded_when_the_new_primary_answers() {
    let Some(pair) = Pair::start("fence_under_way", &[]).await else {
        return;
    };
    let setup = PgSessionStore::<User>::new(pool(&pair.database, 1));
    setup.migrate().notify_on_revocation().await.unwrap();
    let sessions = process(&pair).await;
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    replicated(&pair, 2).await;
    // Opens one connection for lookups.
    sessions
        .store()
        .find(&[TokenDigest::from_bytes([0; 32])])
        .await
        .unwrap();
    promote(&pair).await;
    let manager = Manager::new(pair.replica_config(), NoTls);
    let on_new = Pool::builder(manager).max_size(2).build().unwrap();
    let elsewhere = SessionService::new(PgSessionStore::<User>::new(on_new));
    assert!(sign_out(&elsewhere, ada.token()).await.unwrap());

    // A lookup waits on the old primary.
    let old = pair.database.client().await;
    old.batch_execute("BEGIN; LOCK TABLE sessions")
        .await
        .unwrap();
    let lookup = {
        let (sessions, token) = (sessions.clone(), ada.token().expose());
        let token = SessionToken::parse(token.as_bytes()).unwrap();
        tokio::spawn(async move { sessions.user(&token).await })
    };
    until_waiting(&pair.database, 1).await;
    // The next one opens another connection, which leads to the new primary.
    let store = sessions.store();
    store.find(&[eve.token().digest()]).await.unwrap();
    old.batch_execute("COMMIT").await.unwrap();
    assert_eq!(lookup.await.unwrap().unwrap(), None);
}

/// N09: where the role may not run a function that the fence needs, everything works without the fence, and `check`
/// says so.
#[tokio::test]
async fn without_its_functions_everything_works_unfenced() {
    let functions = [
        "",
        "pg_control_system()",
        "pg_walfile_name(pg_lsn)",
        "pg_current_wal_lsn()",
    ];
    for function in functions {
        let database = database().await;
        PgSessionStore::<User>::new(pool(&database, 1))
            .migrate()
            .notify_on_revocation()
            .await
            .unwrap();
        let role = unprivileged(&database).await;
        if !function.is_empty() {
            let revoke = format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC");
            sql(&database, &revoke).await;
        }
        for pooling in [false, true] {
            let logs = Logs::capture();
            let manager = Manager::new(role.clone(), NoTls);
            let pool = Pool::builder(manager).max_size(4).build().unwrap();
            let mut store = PgSessionStore::<User>::new(pool);
            if pooling {
                store = store.with_transaction_pooling();
            }
            let sessions = SessionService::new(store);
            let check = sessions.store().check().await.unwrap();
            assert_eq!(check.is_fenced(), function.is_empty(), "{function}");
            let warned = logs.text().contains("cannot read the timeline");
            assert_eq!(warned, !function.is_empty(), "{function}");
            let feed = sessions.store().feed(role.clone(), NoTls);
            sessions.enable_cache(feed, 100).await.unwrap();
            let ada = sessions.sign_in_without_request(1).await.unwrap();
            for _ in 0..2 {
                assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
            }
            assert!(sign_out(&sessions, ada.token()).await.unwrap());
            assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
        }
    }
}

/// A role that may use the tables, and is no superuser.
async fn unprivileged(database: &TestDatabase) -> Config {
    let role = format!("fenced_{}", database.name());
    sql(database, &format!("CREATE ROLE {role} LOGIN")).await;
    let grant = format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}");
    sql(database, &grant).await;
    let mut config = database.config();
    config.user(&role);
    config
}
