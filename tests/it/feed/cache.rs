//! Sessions that end elsewhere: a cached result is used no longer than documented.

use std::{
    future::Future as _,
    task::Poll,
    time::{Duration, Instant},
};

use http::Request;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_user_session::{
    CurrentSession, ErrorKind, LoadUserLayer, PgSessionStore, rejection::EmptyResponseForRejection,
    session::SessionToken, store::SessionLookup as _, tokio_postgres::NoTls,
};

use crate::support::{
    PgSessions, User,
    caching::{
        LEASE, announced_database, caching, process, process_with_lease, signed_in, until_cached,
    },
    cookie, current, database, pool,
    proxy::{Line, Proxy},
    sessions, sign_out, sql, until_waiting,
};

/// Measures how long it takes until the token is rejected.
async fn refused(sessions: &PgSessions, token: &SessionToken) -> Duration {
    let start = Instant::now();
    while sessions.user(token).await.unwrap().is_some() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the session is still accepted"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

/// The token is rejected within the bound that holds for a disconnected feed.
async fn refused_within_the_lease(sessions: &PgSessions, token: &SessionToken) {
    let took = refused(sessions, token).await;
    assert!(took < LEASE + Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_cached_session_needs_no_statement() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = signed_in(&database, &sessions).await;
    until_cached(&sessions, signed_in.token()).await;

    let before = sessions.metrics();
    for _ in 0..100 {
        let live = sessions.resolve(signed_in.token()).await.unwrap().unwrap();
        assert_eq!(
            (live.user.id, live.session.id()),
            (1, signed_in.session().id())
        );
    }
    let after = sessions.metrics();
    assert_eq!(after.from_cache - before.from_cache, 100);
    assert_eq!(after.statements, before.statements);

    let layer = LoadUserLayer::new(sessions.clone()).rejection_response(EmptyResponseForRejection);
    let inner = service_fn(async |request: Request<()>| {
        let user = request.extensions().get::<User>().map(|user| user.id);
        assert!(request.extensions().get::<CurrentSession<User>>().is_some());
        Ok::<_, std::convert::Infallible>(http::Response::new(user))
    });
    let mut request = Request::new(());
    *request.headers_mut() = cookie(&sessions, signed_in.token());
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(*response.body(), Some(1));
    assert_eq!(response.headers()["cache-control"], "private");
    assert_eq!(sessions.metrics().from_cache, after.from_cache + 1);
}

/// E05: in the process that ended it, a session is invalid when the call returns, even if the
/// notification is still in flight. The same holds if signing out finds that another process
/// already ended it.
#[tokio::test]
async fn a_session_ended_by_this_process_is_rejected_at_once() {
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = process_with_lease(&database, 10 * LEASE);
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(signed_in(&database, &sessions).await);
    }
    let elsewhere = process_with_lease(&database, LEASE);
    // The feed receives nothing about them until now, so they stay in the cache.
    let feed = sessions.store().feed(proxy.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    proxy.set(Line::Delayed(Duration::from_millis(100)));
    for (way, signed_in) in all.iter().enumerate() {
        let token = signed_in.token();
        until_cached(&sessions, token).await;
        let headers = cookie(&sessions, token);
        match way {
            0 => assert!(sessions.sign_out(&headers).await.ended().unwrap()),
            1 => drop(sessions.reauthenticate(1, &headers).await.unwrap()),
            2 => drop(sessions.sign_in(1, &headers).await.unwrap()),
            3 => assert!(sessions.revoke(&1, signed_in.session().id()).await.unwrap()),
            4 => {
                assert!(sign_out(&elsewhere, token).await.unwrap());
                assert!(!sessions.sign_out(&headers).await.ended().unwrap());
            }
            _ => assert!(sessions.revoke_everyone().await.unwrap() > 0),
        }
        assert_eq!(sessions.user(token).await.unwrap(), None, "way {way}");
    }
}

/// E05, D07: the same holds if several concurrent lookups cached it.
#[tokio::test]
async fn a_session_cached_twice_is_rejected_at_once() {
    let database = announced_database().await;
    let (here, elsewhere) = (caching(&database).await, caching(&database).await);
    for _ in 0..10 {
        let signed_in = signed_in(&database, &here).await;
        let token = signed_in.token();
        for sessions in [&here, &elsewhere] {
            let (one, other) = tokio::join!(sessions.user(token), sessions.user(token));
            assert!(one.unwrap().is_some() && other.unwrap().is_some());
            until_cached(sessions, token).await;
        }
        assert!(here.revoke(&1, signed_in.session().id()).await.unwrap());
        assert_eq!(here.user(token).await.unwrap(), None);
        let took = refused(&elsewhere, token).await;
        assert!(took < LEASE / 2, "{took:?}");
    }
}

/// D05, D07, C08, C09, C10: in other processes a token is invalid as soon as the notification
/// arrives, whatever ended its session or replaced it.
#[tokio::test]
async fn a_session_ended_by_another_process_is_rejected_soon() {
    let database = announced_database().await;
    let (here, elsewhere) = (caching(&database).await, sessions(&database));
    for way in 0..9 {
        sql(
            &database,
            "UPDATE users SET disabled_at = NULL WHERE id = 1",
        )
        .await;
        let signed_in = signed_in(&database, &here).await;
        let token = signed_in.token();
        until_cached(&here, token).await;
        let headers = cookie(&elsewhere, token);
        let expire = "UPDATE sessions SET expires_at = now()";
        match way {
            0 => assert!(sign_out(&elsewhere, token).await.unwrap()),
            1 => assert_eq!(elsewhere.revoke_all(&1).await.unwrap(), 1),
            2 => assert_eq!(sql(&database, "DELETE FROM sessions").await, 1),
            3 => drop(
                sql(
                    &database,
                    "UPDATE users SET disabled_at = now() WHERE id = 1",
                )
                .await,
            ),
            4 => drop(
                database
                    .client()
                    .await
                    .batch_execute("TRUNCATE sessions")
                    .await,
            ),
            5 => drop(elsewhere.reauthenticate(1, &headers).await.unwrap()),
            6 => drop(elsewhere.sign_in(2, &headers).await.unwrap()),
            7 => assert!(sql(&database, expire).await > 0),
            _ => {
                // The application's own transaction, in the same process.
                let kept = current(&here.sign_in_without_request(1).await.unwrap());
                let mut client = database.client().await;
                let transaction = client.transaction().await.unwrap();
                let ending = here.revoke_others_in_transaction(&transaction, &1, &kept);
                assert!(ending.await.unwrap() > 0);
                transaction.commit().await.unwrap();
            }
        }
        let took = refused(&here, token).await;
        // Far below the lease, which would have ended it otherwise.
        assert!(took < LEASE / 2, "way {way}: {took:?}");
    }
}

/// C10: after a change of the user's row, the next request sees the new row. The sessions of other
/// users stay in the cache.
#[tokio::test]
async fn a_changed_user_is_looked_up_again() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = signed_in(&database, &sessions).await;
    let other = sessions.sign_in_without_request(2).await.unwrap();
    until_cached(&sessions, other.token()).await;
    until_cached(&sessions, signed_in.token()).await;
    sql(&database, "UPDATE users SET role = 'operator' WHERE id = 1").await;
    let patience = Instant::now() + LEASE / 2;
    loop {
        let user = sessions.user(signed_in.token()).await.unwrap().unwrap();
        if user.role == "operator" {
            break;
        }
        assert!(Instant::now() < patience, "the session is unchanged");
        // A cached result does not wait, and this runtime has one thread.
        tokio::task::yield_now().await;
    }
    let before = sessions.metrics().from_cache;
    assert!(sessions.user(other.token()).await.unwrap().is_some());
    assert_eq!(sessions.metrics().from_cache, before + 1);
}

/// From the first poll of `close` on, nothing is answered from the cache, even while operations in
/// flight continue.
#[tokio::test]
async fn a_closing_service_returns_nothing_from_the_cache() {
    let database = announced_database().await;
    let here = caching(&database).await;
    let ada = signed_in(&database, &here).await;
    until_cached(&here, ada.token()).await;

    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    let locked = "LOCK TABLE users IN ACCESS EXCLUSIVE MODE";
    lock.execute(locked, &[]).await.unwrap();
    let unknown = SessionToken::generate().unwrap();
    let asking = here.clone();
    let under_way = tokio::spawn(async move { asking.user(&unknown).await });
    until_waiting(&database, 1).await;
    let mut closing = std::pin::pin!(here.close());
    let first = std::future::poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx)));
    assert!(first.await.is_pending());
    let refused = here.user(ada.token()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Closed);

    lock.commit().await.unwrap();
    assert_eq!(under_way.await.unwrap().unwrap(), None);
    closing.await;
}

/// D10, D11: a cached session expires on time without a query.
#[tokio::test]
async fn cached_sessions_expire_at_their_limits() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    for limit in [
        "expires_at = now() + interval '700 ms'",
        "last_seen_at = now() - interval '14 days' + interval '700 ms'",
    ] {
        let signed_in = signed_in(&database, &sessions).await;
        let shorter = format!("UPDATE sessions SET {limit}");
        sql(&database, &shorter).await;
        let start = Instant::now();
        until_cached(&sessions, signed_in.token()).await;
        let took = start.elapsed() + refused(&sessions, signed_in.token()).await;
        assert!(took < Duration::from_millis(800), "{took:?}");
    }
}

/// A guard that requires a recent authentication must not see a session younger than it is.
#[tokio::test]
async fn a_cached_session_ages() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = signed_in(&database, &sessions).await;
    until_cached(&sessions, signed_in.token()).await;
    let resolve = async || {
        sessions
            .resolve(signed_in.token())
            .await
            .unwrap()
            .unwrap()
            .session
    };
    let before = resolve().await;
    let pause = Duration::from_millis(300);
    tokio::time::sleep(pause).await;
    let after = resolve().await;
    assert!(after.since_authentication() >= before.since_authentication() + pause);
    assert!(after.remaining() + pause <= before.remaining());
}

/// D14: a cached result counts as use, once per interval.
#[tokio::test]
async fn a_hit_counts_as_use() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = signed_in(&database, &sessions).await;
    let interval = sessions.store().touch_interval().unwrap();
    let almost = interval.checked_sub(Duration::from_millis(600)).unwrap();
    sql(
        &database,
        &format!(
            "UPDATE sessions SET last_seen_at = now() - interval '{} seconds'",
            almost.as_secs_f64()
        ),
    )
    .await;
    until_cached(&sessions, signed_in.token()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = sessions.metrics();
    for _ in 0..100 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert_eq!(sessions.metrics().from_cache - before.from_cache, 100);
    sessions.close().await;
    let touched =
        "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '10 seconds'";
    assert_eq!(crate::support::number(&database, touched).await, 1);
}

/// A disconnected feed bypasses the cache until it reconnects.
#[tokio::test]
async fn a_closed_feed_connection_is_detected_and_reconnected() {
    let database = announced_database().await;
    let (here, elsewhere) = (caching(&database).await, sessions(&database));
    for _ in 0..3 {
        let signed_in = signed_in(&database, &here).await;
        until_cached(&here, signed_in.token()).await;
        let listeners = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND query ~ 'pg_notify|announce' AND pid <> pg_backend_pid()";
        assert!(crate::support::number(&database, listeners).await > 0);
        assert!(sign_out(&elsewhere, signed_in.token()).await.unwrap());
        refused_within_the_lease(&here, signed_in.token()).await;
    }
}

/// The same if nothing reports that the connection is lost.
#[tokio::test]
async fn a_feed_without_heartbeats_disconnects_when_its_lease_ends() {
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let (here, elsewhere) = (process(&database), sessions(&database));
    let feed = here.store().feed(proxy.config(), NoTls);
    here.enable_cache(feed, 1_000).await.unwrap();
    let signed_in = signed_in(&database, &here).await;
    until_cached(&here, signed_in.token()).await;
    proxy.set(Line::Silent);
    assert!(sign_out(&elsewhere, signed_in.token()).await.unwrap());
    refused_within_the_lease(&here, signed_in.token()).await;
    // Lookups and revocations work without the feed.
    let other = self::signed_in(&database, &here).await;
    let start = Instant::now();
    assert!(sign_out(&here, other.token()).await.unwrap());
    assert_eq!(here.user(other.token()).await.unwrap(), None);
    assert!(start.elapsed() < 2 * LEASE);
    proxy.set(Line::Open);
    let third = self::signed_in(&database, &here).await;
    until_cached(&here, third.token()).await;
}

/// Enabling the cache without the triggers is an error that says so. If they are dropped later, the
/// feed disconnects.
#[tokio::test]
async fn a_feed_without_its_triggers_is_rejected_and_disconnects() {
    let bare = database().await;
    let sessions = process(&bare);
    let feed = || sessions.store().feed(bare.config(), NoTls);
    let error = sessions.enable_cache(feed(), 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("triggers"), "{error}");
    // The failed attempt leaves nothing behind.
    let store = PgSessionStore::<User>::new(pool(&bare, 1));
    store.migrate().notify_on_revocation().await.unwrap();
    sessions.enable_cache(feed(), 10).await.unwrap();
    let error = sessions.subscribe(feed()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);

    let signed_in = signed_in(&bare, &sessions).await;
    until_cached(&sessions, signed_in.token()).await;
    let drop_triggers = "DROP FUNCTION tower_user_session_announce() CASCADE";
    bare.client()
        .await
        .batch_execute(drop_triggers)
        .await
        .unwrap();
    sql(&bare, "DELETE FROM sessions").await;
    refused_within_the_lease(&sessions, signed_in.token()).await;
}

/// The same if the feed's table was replaced. No notification reports that.
#[tokio::test]
async fn a_feed_resubscribes_when_its_table_is_replaced() {
    let database = announced_database().await;
    let sessions = process_with_lease(&database, 10 * LEASE);
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    let before = signed_in(&database, &sessions).await;
    until_cached(&sessions, before.token()).await;

    let mut client = database.client().await;
    let replace = client.transaction().await.unwrap();
    for statements in [
        "CREATE SCHEMA past; ALTER TABLE sessions SET SCHEMA past",
        include_str!("../../../migrations/0001_create_sessions.sql"),
        include_str!("../../../migrations/0002_announce_sessions.sql"),
    ] {
        replace.batch_execute(statements).await.unwrap();
    }
    replace.commit().await.unwrap();
    refused(&sessions, before.token()).await;

    let after = signed_in(&database, &sessions).await;
    until_cached(&sessions, after.token()).await;
    sql(&database, "DELETE FROM sessions").await;
    refused(&sessions, after.token()).await;
}

/// A forged or malformed notification causes lookups and nothing else.
#[tokio::test]
async fn notifications_of_other_roles_do_no_harm() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let signed_in = signed_in(&database, &sessions).await;
    let client = database.client().await;
    let oid: u32 = client
        .query_one("SELECT 'sessions'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    let id = signed_in.session().id().to_string().replace('-', "");
    let ended = sessions.ended(&current(&signed_in));
    for payload in [
        "",
        "ended",
        "ended x",
        "everything",
        "nonsense",
        &format!("ended {id}"),
        &"x".repeat(7_999),
    ] {
        until_cached(&sessions, signed_in.token()).await;
        let notify = format!("NOTIFY tower_user_session_{oid}, '{payload}'");
        client.batch_execute(&notify).await.unwrap();
    }
    let flood = format!(
        "SELECT pg_notify('tower_user_session_{oid}', 'ended ' || n) FROM generate_series(1, 100000) n"
    );
    client.execute(&flood, &[]).await.unwrap();
    until_cached(&sessions, signed_in.token()).await;
    let still = tokio::time::timeout(Duration::from_millis(100), ended).await;
    assert!(still.is_err(), "a forged notification ended a session");
}

/// The cache is bounded. An evicted session is looked up again.
#[tokio::test]
async fn the_cache_is_bounded() {
    let database = announced_database().await;
    let sessions = process(&database);
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 10).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..60 {
        all.push(signed_in(&database, &sessions).await);
    }
    for _ in 0..3 {
        for signed_in in &all {
            let live = sessions.resolve(signed_in.token()).await.unwrap().unwrap();
            assert_eq!(live.session.id(), signed_in.session().id());
        }
    }
    let counts = sessions.metrics();
    // Of a cycle longer than the cache, no more results can be hits than the cache holds.
    assert!(counts.from_cache <= 2 * 20, "{counts:?}");
    assert_eq!(sessions.revoke_all(&1).await.unwrap(), 60);
    for signed_in in &all {
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    }
}
