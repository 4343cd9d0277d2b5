//! A primary with a streaming replica: what a failover preserves, what it can lose, and stale reads
//! on a replica.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::StopMode;
use tower_user_session::{
    BoxError, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    tokio_postgres::{Config, NoTls, config::TargetSessionAttrs},
};

use crate::support::{
    PgSessions, User,
    history::{
        checker::violations,
        record::{Operation, Outcome},
        report::text,
        workload::{Process, Workload, connect},
    },
    pair::{Pair, blocking},
    patiently, sign_out,
};

fn pool_of(config: Config, size: usize) -> Pool {
    let manager = Manager::new(config, NoTls);
    Pool::builder(manager).max_size(size).build().unwrap()
}

fn sessions_on(config: Config) -> PgSessions {
    SessionService::new(PgSessionStore::new(pool_of(config, 2)))
}

/// F15, D07, E05: the primary is lost under load and the replica promoted. The application recovers
/// without a restart, and with synchronous replication no acknowledged operation is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_keeps_what_was_acknowledged() {
    let Some(pair) = Pair::start("failover", &[]).await else {
        return;
    };
    pair.synchronous().await;
    let processes: Vec<_> = (0..3)
        .map(|_| Process::new(pool_of(pair.config(), 4), pair.config()))
        .collect();
    let mut workload = Workload::start(&processes, 15).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let from = workload.now();
    pair.fail_over().await;
    let promoted = workload.now();
    workload.broken("failover", from).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let history = workload.stop().await;
    println!("{}", text(&history));
    let answered = history.records.iter().filter(|record| {
        record.operation == Operation::Lookup
            && record.invoked > from
            && !record.result.is_error()
            && record.returned > promoted
    });
    let first = answered.map(|record| record.returned).min().unwrap();
    println!(
        "lost and promoted in {:?}; a lookup is answered {:?} later",
        promoted.saturating_sub(from),
        first.saturating_sub(promoted)
    );
    assert!(violations(&history).is_empty());
    let since = |at| {
        history
            .records
            .iter()
            .filter(move |record| record.invoked > at)
    };
    assert!(since(promoted).any(|record| record.result == Outcome::Done));
}

/// D07, F15: with synchronous replication an acknowledged sign-out holds on the promoted replica,
/// even if the replica had only received and not applied it. Without a replica no sign-out is
/// acknowledged.
#[tokio::test]
async fn a_synchronous_sign_out_holds_after_a_failover() {
    let Some(pair) = Pair::start("synchronous_sign_out", &[]).await else {
        return;
    };
    pair.synchronous().await;
    let sessions = sessions_on(pair.config());
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();

    // The sign-out is not acknowledged before the replica has it.
    let replica = Arc::clone(&pair.replica);
    blocking(move || replica.stop(StopMode::Fast).unwrap()).await;
    let error = sign_out(&sessions, eve.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.is_outcome_unknown());
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    let replica = Arc::clone(&pair.replica);
    blocking(move || replica.restart().unwrap()).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while sessions.user(eve.token()).await.unwrap().is_some() {
        assert!(
            Instant::now() < deadline,
            "the condition did not hold in time"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    pair.on_replica("SELECT pg_wal_replay_pause()").await;
    assert!(sign_out(&sessions, ada.token()).await.unwrap());
    pair.fail_over().await;
    for signed_out in [&ada, &eve] {
        assert_eq!(sessions.user(signed_out.token()).await.unwrap(), None);
    }
    assert!(sessions.sign_in_without_request(1).await.is_ok());
}

/// F15: what asynchronous replication can lose, as [`PgSessionStore`] documents: a session is live
/// again if the primary acknowledged its end and had not sent it yet.
#[tokio::test]
async fn an_asynchronous_sign_out_can_be_lost_in_a_failover() {
    let Some(pair) = Pair::start("asynchronous_sign_out", &[]).await else {
        return;
    };
    let sessions = sessions_on(pair.config());
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let stale = SessionService::new(
        PgSessionStore::<User>::new(pool_of(pair.replica_config(), 2)).allow_stale_replica_reads(),
    );
    patiently(async {
        while stale.user(ada.token()).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // The network between the servers fails.
    pair.on_replica("ALTER SYSTEM SET primary_conninfo = ''")
        .await;
    pair.on_replica("SELECT pg_reload_conf()").await;
    let gone = "SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    pair.until(&pair.replica_config(), gone).await;

    assert!(sign_out(&sessions, ada.token()).await.unwrap());
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    pair.fail_over().await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
}

/// F16: a lagging replica is rejected, by the store and by `target_session_attrs`. If stale reads
/// are allowed explicitly, an ended session stays valid there as long as the replica lags.
#[tokio::test]
async fn a_lagging_replica_is_rejected_unless_allowed() {
    const LAG: Duration = Duration::from_millis(1500);
    let delay = &[("recovery_min_apply_delay", "1500ms")];
    let Some(pair) = Pair::start("lagging_replica", delay).await else {
        return;
    };
    let sessions = sessions_on(pair.config());
    let ada = sessions.sign_in_without_request(1).await.unwrap();

    let on_replica = sessions_on(pair.replica_config());
    let error = on_replica.user(ada.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);
    let mut writable = pair.replica_config();
    writable.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let error = sessions_on(writable).user(ada.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Recovery);

    let stale = SessionService::new(
        PgSessionStore::<User>::new(pool_of(pair.replica_config(), 2)).allow_stale_replica_reads(),
    );
    patiently(async {
        while stale.user(ada.token()).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(sign_out(&sessions, ada.token()).await.unwrap());
    let ended = Instant::now();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert_eq!(stale.user(ada.token()).await.unwrap(), Some(User::ada()));
    while stale.user(ada.token()).await.unwrap().is_some() {
        assert!(
            ended.elapsed() < LAG + Duration::from_secs(20),
            "the condition did not hold in time"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lived_on = ended.elapsed();
    println!("after its end it lived on for {lived_on:?} on a replica that lags by {LAG:?}");
    assert!(lived_on > LAG / 2);
}

/// A user whose lookup takes a while.
#[derive(Clone, Debug, PartialEq)]
struct Slow(i64);

impl PgUser for Slow {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const CONDITION: &'static str = "pg_sleep(0.3) IS NOT NULL";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self(row.user().get("id")?))
    }
}

/// F17: a replica that must replay a conflicting change cancels the lookup. It is retried once. If
/// the retry is canceled too, it is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_canceled_by_recovery_is_retried_once() {
    let impatient = &[("max_standby_streaming_delay", "0")];
    let Some(pair) = Pair::start("recovery_conflict", impatient).await else {
        return;
    };
    let ada = sessions_on(pair.config())
        .sign_in_without_request(1)
        .await
        .unwrap();
    let replica = pair.replica_config();
    let stale = SessionService::new(
        PgSessionStore::<Slow>::new(pool_of(replica.clone(), 2)).allow_stale_replica_reads(),
    );
    patiently(async {
        while stale.user(ada.token()).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let in_the_way = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; COMMIT";
    let cancelled = async || {
        let client = connect(&replica).await.unwrap();
        let conflicts = "SELECT confl_lock FROM pg_stat_database_conflicts \
                         WHERE datname = current_database()";
        client
            .query_one(conflicts, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    assert_eq!(cancelled().await, 0);

    let once = async {
        let under_way = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        pair.until(&replica, under_way).await;
        pair.on_primary(in_the_way).await;
    };
    let (found, ()) = tokio::join!(stale.user(ada.token()), once);
    assert_eq!(found.unwrap(), Some(Slow(1)));
    pair.until(
        &replica,
        "SELECT FROM pg_stat_database_conflicts WHERE datname = current_database() AND confl_lock = 1",
    )
    .await;

    let again = async {
        loop {
            pair.on_primary(in_the_way).await;
        }
    };
    tokio::select! {
        found = stale.user(ada.token()) => {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::Statement);
        }
        () = again => {}
    }
    assert_eq!(stale.user(ada.token()).await.unwrap(), Some(Slow(1)));
}
