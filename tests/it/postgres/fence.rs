//! A primary that was replaced is rejected by a process that has reached the new primary.

use std::{collections::BTreeSet, fs, sync::Arc};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{Server, StopMode, TestDatabase};
use tokio::task::JoinHandle;
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    postgres::PgConnector,
    session::{SessionToken, TokenDigest},
    store::SessionLookup as _,
    tokio_postgres::{Client, Config, NoTls},
};

use crate::support::{
    PgSessions, User, database,
    fault::{ObservedFault, send},
    history::workload::connect,
    kill_lookups, number,
    pair::{Pair, blocking},
    patiently, pool, sign_out, sql, until_waiting,
};

/// The row of `SECURITY.md` about a role without privileges.
const UNFENCED: &str = "the role may not execute `pg_control_system()`, `pg_walfile_name` or `pg_current_wal_lsn()`, or the server does not have these functions";

const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fenced'";

/// The configuration of an application's process. The replica is its first host: new connections
/// lead to the replica after its promotion.
fn config(pair: &Pair, attributes: &str) -> Config {
    let [replica, primary] =
        [&pair.replica, &pair.primary].map(|server| server.directory().unwrap().display());
    let database = pair.database.name();
    let config = format!(
        "host={replica},{primary} user=postgres dbname={database} application_name=fenced \
         target_session_attrs={attributes}"
    );
    config.parse().unwrap()
}

fn pool_of(config: Config, size: usize) -> Pool {
    let manager = Manager::new(config, NoTls);
    Pool::builder(manager).max_size(size).build().unwrap()
}

/// A primary with a replica that has replayed the sessions of two users, and a process of an
/// application with its pool.
struct Setting {
    pair: Pair,
    sessions: PgSessions,
    pool: Pool,
    ada: SessionToken,
    eve: SessionToken,
}

impl Setting {
    async fn start(test: &str) -> Option<Self> {
        let pair = Pair::start(test, &[]).await?;
        let setup = PgSessionStore::<User>::new(pool(&pair.database, 1));
        setup.migrate().notify_on_revocation().await.unwrap();
        let pool = pool_of(config(&pair, "read-write"), 6);
        let sessions = SessionService::new(PgSessionStore::new(pool.clone()));
        let feed = sessions.store().feed(config(&pair, "read-write"), NoTls);
        sessions.enable_cache(feed, 100).await.unwrap();
        let [ada, eve] = [1, 2].map(|user| sessions.sign_in_without_request(user));
        let (ada, eve) = (
            token(ada.await.unwrap().token()),
            token(eve.await.unwrap().token()),
        );
        replicated(&pair, 2).await;
        Some(Self {
            pair,
            sessions,
            pool,
            ada,
            eve,
        })
    }

    /// Promotes the replica while the primary continues, and returns a process on the new primary.
    async fn promote(&self) -> PgSessions {
        let replica = Arc::clone(&self.pair.replica);
        blocking(move || replica.promote().unwrap()).await;
        let pool = pool_of(self.pair.replica_config(), 2);
        SessionService::new(PgSessionStore::new(pool))
    }

    /// Starts a call that waits for this lock on the previous primary.
    async fn hold<T: Send + 'static>(
        &self,
        lock: &str,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Held<T> {
        let holder = self.pair.database.client().await;
        holder.batch_execute(lock).await.unwrap();
        let call = tokio::spawn(call);
        until_waiting(&self.pair.database, 1).await;
        Held { holder, call }
    }

    /// Looks up on another connection, which leads to the new primary. Then the call that waits
    /// continues on the previous primary.
    async fn reach_the_new_primary<T>(&self, held: Held<T>) -> T {
        let store = self.sessions.store();
        store.find(&[self.eve.digest()]).await.unwrap();
        held.holder.batch_execute("COMMIT").await.unwrap();
        held.call.await.unwrap()
    }
}

/// A call that waits for a lock.
struct Held<T> {
    holder: Client,
    call: JoinHandle<T>,
}

fn token(token: &SessionToken) -> SessionToken {
    SessionToken::parse(token.expose().as_bytes()).unwrap()
}

/// Waits until the replica has replayed this number of sessions.
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

/// N09: two servers act as the primary. As soon as one connection of a process has received a
/// response from the new primary, a session that ended there is not live: neither in the cache nor
/// on an open connection to the previous primary. The process closes all connections to the previous
/// primary, also those of the application's pool.
#[tokio::test]
async fn an_answer_of_the_new_primary_fences_off_the_old_one() {
    let Some(setting) = Setting::start("fence").await else {
        return;
    };
    let Setting {
        pair,
        sessions,
        pool,
        ada,
        eve,
    } = &setting;
    assert_eq!(sessions.user(ada).await.unwrap(), Some(User::ada()));
    let in_use = pool.get().await.unwrap();
    drop(pool.get().await.unwrap());

    let on_new = setting.promote().await;
    assert!(sign_out(&on_new, ada).await.unwrap());
    // The process has not reached the new primary.
    assert_eq!(sessions.user(ada).await.unwrap(), Some(User::ada()));

    // A lookup of another session opens a connection, which leads to the new primary.
    assert!(kill_lookups(&pair.database).await > 0);
    assert_eq!(sessions.user(eve).await.unwrap(), Some(User::eve()));
    assert_eq!(sessions.user(ada).await.unwrap(), None);
    // Only the application's own connection remains, until it returns to the pool.
    patiently(async { while number(&pair.database, CONNECTIONS).await > 1 {} }).await;
    drop(in_use);
    patiently(async { while number(&pair.database, CONNECTIONS).await > 0 {} }).await;
    let request = async || {
        send(sessions, eve).await;
    };

    let copy = "the cluster is replaced by a copy of its files on a lower timeline";
    let fault = ObservedFault::begin(copy, sessions);
    // New connections now lead to the previous primary.
    let replica = Arc::clone(&pair.replica);
    blocking(move || replica.stop(StopMode::Fast).unwrap()).await;
    let error = sessions.user(eve).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);
    assert!(sessions.sign_in_without_request(1).await.is_err());
    assert!(sign_out(sessions, eve).await.is_err());
    fault.becomes_visible(request).await;
    // The remedy: a promotion, after which this cluster has the higher timeline.
    for _ in 0..2 {
        let primary = Arc::clone(&pair.primary);
        blocking(move || increment_timeline(&primary)).await;
    }
    fault.ends(request).await;
}

/// N09: a response of the previous primary is in flight when the new primary responds. It is
/// discarded, and the lookup is repeated.
#[tokio::test]
async fn an_answer_in_flight_is_discarded_when_the_new_primary_answers() {
    let Some(setting) = Setting::start("fence_in_flight").await else {
        return;
    };
    let Setting {
        sessions, ada, eve, ..
    } = &setting;
    // Opens one connection for lookups.
    let unknown = [TokenDigest::from_bytes([0; 32])];
    sessions.store().find(&unknown).await.unwrap();
    let replaced =
        "a primary that was replaced responds again after a freeze or a network partition";
    let fault = ObservedFault::begin(replaced, sessions);
    let on_new = setting.promote().await;
    assert!(sign_out(&on_new, ada).await.unwrap());

    let lookup = {
        let (sessions, ada) = (sessions.clone(), token(ada));
        async move { sessions.user(&ada).await }
    };
    let lookup = setting.hold("BEGIN; LOCK TABLE sessions", lookup).await;
    let user = setting.reach_the_new_primary(lookup).await;
    assert_eq!(user.unwrap(), None);
    let request = async || {
        send(sessions, eve).await;
    };
    fault.becomes_visible(request).await;
    fault.ends(request).await;
}

/// N09: a sign-out is in flight on the previous primary when the new primary responds. It is not
/// acknowledged: its outcome is unknown. Repeated, it ends the session on the new primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_in_flight_is_not_acknowledged_when_the_new_primary_answers() {
    let Some(setting) = Setting::start("fence_write").await else {
        return;
    };
    let Setting { sessions, ada, .. } = &setting;
    let on_new = setting.promote().await;
    let lock = "BEGIN; SELECT FROM sessions WHERE user_id = 1 FOR UPDATE";
    let signing_out = {
        let (sessions, ada) = (sessions.clone(), token(ada));
        async move { sign_out(&sessions, &ada).await }
    };
    let signing_out = setting.hold(lock, signing_out).await;
    let signed_out = setting.reach_the_new_primary(signing_out).await;
    let error = signed_out.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error:?}");
    assert_eq!(on_new.user(ada).await.unwrap(), Some(User::ada()));
    assert!(sign_out(sessions, ada).await.unwrap());
    assert_eq!(on_new.user(ada).await.unwrap(), None);
}

/// N09: a revocation of all sessions waits for a lock on the previous primary when the new primary
/// responds. It is rolled back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_of_everyone_in_flight_fails_when_the_new_primary_answers() {
    let Some(setting) = Setting::start("fence_everyone").await else {
        return;
    };
    let lock = "BEGIN; LOCK TABLE sessions IN ROW EXCLUSIVE MODE";
    let sessions = setting.sessions.clone();
    let revoking = async move { sessions.revoke_everyone().await };
    let revoking = setting.hold(lock, revoking).await;
    setting.promote().await;
    let revoked = setting.reach_the_new_primary(revoking).await;
    assert_eq!(revoked.unwrap_err().kind(), ErrorKind::Recovery);
    assert_eq!(
        number(&setting.pair.database, "SELECT count(*) FROM sessions").await,
        2
    );
}

/// N09: a connection was opened to a replica, which was promoted since. The lookup notices it, and
/// runs on a new connection, whose timeline is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_leaves_a_connection_whose_replica_was_promoted() {
    let Some(setting) = Setting::start("fence_promoted").await else {
        return;
    };
    let stale = PgSessionStore::<User>::new(pool_of(config(&setting.pair, "any"), 6));
    let sessions = SessionService::new(stale.allow_stale_replica_reads());
    let ada = Some(User::ada());
    assert_eq!(sessions.user(&setting.ada).await.unwrap(), ada);
    let client = connect(&setting.pair.replica_config()).await.unwrap();
    let before = lookup_connections(&client).await;
    assert!(!before.is_empty());
    setting.promote().await;
    assert_eq!(sessions.user(&setting.ada).await.unwrap(), ada);
    let after = lookup_connections(&client).await;
    assert!(!after.is_empty() && after.is_disjoint(&before));
}

async fn lookup_connections(client: &Client) -> BTreeSet<i32> {
    let pids = "SELECT pid FROM pg_stat_activity
        WHERE query LIKE '%asked_digest%' AND pid <> pg_backend_pid()";
    let rows = client.query(pids, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// N09: a connection for writes was opened to a replica, which was promoted since. A write there is
/// rejected if the process has reached a higher timeline in the meantime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_reads_the_timeline_if_its_connection_was_opened_to_a_replica() {
    let Some(setting) = Setting::start("fence_write_promoted").await else {
        return;
    };
    let pair = &setting.pair;
    let stale = PgSessionStore::<User>::new(pool_of(config(pair, "any"), 6));
    let sessions = SessionService::new(stale.allow_stale_replica_reads());
    // Opens all connections of the store, to the replica.
    let check = sessions.store().check().await.unwrap();
    assert!(check.in_recovery() && !check.accepts_listen());
    let disconnect = "ALTER SYSTEM SET primary_conninfo = ''";
    pair.on_replica(disconnect).await;
    pair.on_replica("SELECT pg_reload_conf()").await;
    setting.promote().await;
    // The primary passes the replica's timeline.
    for timeline in [2, 3] {
        let primary = Arc::clone(&pair.primary);
        blocking(move || increment_timeline(&primary)).await;
        let current = "SELECT timeline_id::int8 FROM pg_control_checkpoint()";
        sql(&pair.database, "CHECKPOINT").await;
        assert_eq!(number(&pair.database, current).await, timeline);
    }
    // New connections to the former replica fail, and lead to the primary.
    let settings = pair.replica.directory().unwrap().join("data/pg_hba.conf");
    fs::write(settings, "local postgres all trust\n").unwrap();
    let replica = connect(&pair.replica.config()).await.unwrap();
    let reload = "SELECT pg_reload_conf()";
    replica.batch_execute(reload).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%asked_digest%' AND pid <> pg_backend_pid()";
    patiently(async {
        while connect(&pair.replica_config()).await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    replica.batch_execute(kill).await.unwrap();
    assert_eq!(
        sessions.user(&setting.eve).await.unwrap(),
        Some(User::eve())
    );

    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    assert_eq!(
        number(&pair.database, "SELECT count(*) FROM sessions").await,
        3
    );
}

/// N10: a process whose first host is the previous primary reaches the new primary, because each
/// connection of a connector begins with the next host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_reaches_the_new_primary_behind_the_old_one() {
    let Some(setting) = Setting::start("fence_connector").await else {
        return;
    };
    let pair = &setting.pair;
    let connector = PgConnector::new(pair.config(), NoTls);
    let pool = Pool::builder(connector.manager()).build().unwrap();
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    assert!(sessions.user(&setting.ada).await.unwrap().is_some());
    let on_new = setting.promote().await;
    assert!(sign_out(&on_new, &setting.ada).await.unwrap());
    patiently(async {
        while sessions.user(&setting.ada).await.unwrap().is_some() {
            kill_lookups(&pair.database).await;
        }
    })
    .await;
    for _ in 0..10 {
        kill_lookups(&pair.database).await;
        assert_eq!(sessions.user(&setting.ada).await.unwrap(), None);
    }
}

/// Restarts a primary as a replica of no server, and promotes it.
fn increment_timeline(server: &Server) {
    server.stop(StopMode::Fast).unwrap();
    let signal = server.directory().unwrap().join("data/standby.signal");
    fs::write(signal, "").unwrap();
    server.restart().unwrap();
    server.promote().unwrap();
}

/// N09: the role may not execute a function that the fence needs. Every call works without the
/// fence, and `check` reports it.
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
            let service = || {
                let store = PgSessionStore::<User>::new(pool_of(role.clone(), 4));
                SessionService::new(if pooling {
                    store.with_transaction_pooling()
                } else {
                    store
                })
            };
            let sessions = service();
            let fault = ObservedFault::begin(UNFENCED, &sessions);
            let check = sessions.store().check().await.unwrap();
            assert_eq!(check.is_fenced(), function.is_empty(), "{function}");
            assert!(check.accepts_listen());
            if !function.is_empty() {
                fault.becomes_visible(async || ()).await;
            }
            let feed = sessions.store().feed(role.clone(), NoTls);
            sessions.enable_cache(feed, 100).await.unwrap();
            let ada = sessions.sign_in_without_request(1).await.unwrap();
            for _ in 0..2 {
                assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
            }
            assert!(sign_out(&sessions, ada.token()).await.unwrap());
            assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
            if !function.is_empty() {
                let grant = format!("GRANT EXECUTE ON FUNCTION {function} TO PUBLIC");
                sql(&database, &grant).await;
            }
            let check = async || assert!(service().store().check().await.unwrap().is_fenced());
            fault.ends(check).await;
            if !function.is_empty() {
                let revoke = format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC");
                sql(&database, &revoke).await;
            }
        }
    }
}

/// Creates a role that may use the tables and is not a superuser.
async fn unprivileged(database: &TestDatabase) -> Config {
    let role = format!("fenced_{}", database.name());
    sql(database, &format!("CREATE ROLE {role} LOGIN")).await;
    let grant = format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}");
    sql(database, &grant).await;
    let mut config = database.config();
    config.user(&role);
    config
}
