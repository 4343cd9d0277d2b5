//! A session ends while its notification, or the result of a query about it, is in flight.

use std::time::Duration;

use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService, feed::EndReason,
    session::SessionId, tokio_postgres::NoTls,
};

use crate::support::{
    PgSessions,
    caching::{LEASE, announced_database, process, process_with_lease, until_cached},
    cookie, current, patiently, pool,
    proxy::{Line, Proxy},
    sign_out, sql, until_waiting,
};

/// E05: another process has ended the session, and the notification is in flight. A call in this
/// process that finds no session to end returns after the notification has arrived.
#[tokio::test]
async fn a_call_that_finds_no_session_waits_for_its_notification() {
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let (here, elsewhere) = (
        process_with_lease(&database, 10 * LEASE),
        process(&database),
    );
    let feed = here.store().feed(proxy.config(), NoTls);
    here.enable_cache(feed, 10).await.unwrap();
    let kept = here.sign_in_without_request(1).await.unwrap();
    proxy.set(Line::Delayed(Duration::from_millis(300)));
    for way in 0..4 {
        let ended = here.sign_in_without_request(1).await.unwrap();
        until_cached(&here, ended.token()).await;
        assert!(sign_out(&elsewhere, ended.token()).await.unwrap());
        match way {
            0 => assert!(!here.revoke(&1, ended.session().id()).await.unwrap()),
            1 => assert_eq!(here.revoke_others(&1, &current(&kept)).await.unwrap(), 0),
            2 => assert_eq!(here.revoke_all(&1).await.unwrap(), 1),
            _ => drop(
                here.sign_in(1, &cookie(&here, ended.token()))
                    .await
                    .unwrap(),
            ),
        }
        let user = here.user(ended.token()).await.unwrap();
        assert_eq!(user, None, "way {way}");
    }
}

/// A user whose lookups and checks wait while the test holds a lock.
#[derive(Clone)]
struct Held;

impl PgUser for Held {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const CONDITION: &'static str =
        "u.disabled_at IS NULL AND pg_advisory_xact_lock_shared(7) IS NOT NULL";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

const HOLD: &str = "SELECT pg_advisory_xact_lock(7)";

/// A service with a cache and a feed, with a lease that does not end during the test.
async fn caching(database: &TestDatabase) -> PgSessions<Held> {
    let store = PgSessionStore::new(pool(database, 4));
    let builder = SessionService::builder(store).lease(10 * LEASE);
    let sessions: PgSessions<Held> = builder.build().unwrap();
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 10).await.unwrap();
    sessions
}

/// Returns when all notifications have arrived.
async fn notifications_arrive(sessions: &PgSessions<Held>) {
    let unknown = SessionId::from_bytes([0; 16]);
    assert!(!sessions.revoke(&1, unknown).await.unwrap());
}

/// E05, N02: the session ends, or its user is disabled, while a lookup is in flight. The lookup may
/// still find the session, but a request that starts later does not.
#[tokio::test]
async fn a_lookup_in_flight_never_revives_an_ended_session() {
    for way in 0..6 {
        let database = announced_database().await;
        let (here, elsewhere) = (caching(&database).await, process(&database));
        let ada = here.sign_in_without_request(1).await.unwrap();
        let headers = cookie(&elsewhere, ada.token());
        let mut client = database.client().await;
        let holds = client.transaction().await.unwrap();
        holds.execute(HOLD, &[]).await.unwrap();
        let (asks, digest) = (here.clone(), ada.token().digest());
        let asking = tokio::spawn(async move { asks.resolve_digest(digest).await });
        until_waiting(&database, 1).await;
        match way {
            0 => assert_eq!(here.revoke_all(&1).await.unwrap(), 1),
            1 => assert_eq!(here.revoke_everyone().await.unwrap(), 1),
            2 => assert!(sign_out(&elsewhere, ada.token()).await.unwrap()),
            3 => drop(elsewhere.reauthenticate(1, &headers).await.unwrap()),
            4 => assert_eq!(elsewhere.revoke_everyone().await.unwrap(), 1),
            _ => {
                let disable = "UPDATE users SET disabled_at = now() WHERE id = 1";
                assert_eq!(sql(&database, disable).await, 1);
            }
        }
        notifications_arrive(&here).await;
        holds.commit().await.unwrap();
        let _ = asking.await.unwrap();
        for _ in 0..2 {
            let user = here.user(ada.token()).await.unwrap();
            assert!(user.is_none(), "way {way}");
        }
    }
}

/// H17: the session ends after the check of its stream has started. The check finds the session
/// live, and the notification makes the stream due again. It names the session, or all sessions.
#[tokio::test]
async fn a_session_that_ends_during_its_check_is_checked_again() {
    for others in [0, 1_000] {
        let database = announced_database().await;
        let sessions = caching(&database).await;
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let insert = format!(
            "INSERT INTO sessions (token_digest, user_id, expires_at)
             SELECT sha256(n::text::bytea), 1, now() + interval '1 day'
             FROM generate_series(1, {others}) AS n"
        );
        sql(&database, &insert).await;

        let mut client = database.client().await;
        let holds = client.transaction().await.unwrap();
        holds.execute(HOLD, &[]).await.unwrap();
        let ended = sessions.ended(&current(&ada));
        until_waiting(&database, 1).await;
        assert_eq!(sql(&database, "DELETE FROM sessions").await, others + 1);
        notifications_arrive(&sessions).await;
        holds.commit().await.unwrap();
        // Without a notification the next check comes after 45 s at the earliest.
        assert_eq!(patiently(ended).await, EndReason::Revoked, "{others}");
    }
}
