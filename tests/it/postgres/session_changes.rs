//! When other requests, other processes and streams see a changed session column.

use std::time::{Duration, Instant};

use ephemeral_postgres::TestDatabase;
use tokio::time::timeout;
use tower_user_session::{
    SessionService, SignedIn, feed::EndReason, session::SessionToken, tokio_postgres::NoTls,
};

use crate::support::{
    PATIENCE,
    caching::until_cached,
    current,
    manual_feed::{LONG_LEASE, ManualFeed},
    organizations::{
        Member, PgMembers, member_store, members, organizations, set_factor, signed_in,
    },
    patiently, sql,
};

const LEASE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(2);
/// Allows for the query that detects the change, on a slow machine.
const QUERY: Duration = Duration::from_millis(300);

async fn caching(database: &TestDatabase) -> PgMembers {
    let builder = SessionService::builder(member_store(database)).lease(LEASE);
    let sessions = builder.recheck_interval(INTERVAL).build().unwrap();
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    sessions
}

/// Signs in a session that is old enough to be cached.
async fn cacheable(database: &TestDatabase, sessions: &PgMembers) -> SignedIn {
    let signed_in = signed_in(sessions).await;
    sql(
        database,
        "UPDATE sessions SET created_at = created_at - interval '1 hour'",
    )
    .await;
    signed_in
}

/// The time until the lookup returns something else than this.
async fn changed(sessions: &PgMembers, token: &SessionToken, old: Option<&Member>) -> Duration {
    let start = Instant::now();
    while sessions.user(token).await.unwrap().as_ref() == old {
        assert!(start.elapsed() < PATIENCE, "the change is never seen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

/// P03: an update is visible to the next request of this process, also while other lookups fill the
/// cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_is_visible_at_once_in_this_process() {
    let database = organizations().await;
    let sessions = caching(&database).await;
    let signed_in = std::sync::Arc::new(cacheable(&database, &sessions).await);
    until_cached(&sessions, signed_in.token()).await;
    let busy = tokio::spawn({
        let (sessions, signed_in) = (sessions.clone(), std::sync::Arc::clone(&signed_in));
        async move {
            loop {
                sessions.user(signed_in.token()).await.unwrap();
            }
        }
    });
    for n in 0..100 {
        let factor = n.to_string();
        set_factor(&sessions, &signed_in, &factor).await.unwrap();
        let user = sessions.user(signed_in.token()).await.unwrap().unwrap();
        assert_eq!(user.factors.unwrap(), [factor]);
    }
    busy.abort();
    until_cached(&sessions, signed_in.token()).await;
    assert_eq!(
        sessions
            .revoke_where(&1, "factors", vec!["99"])
            .await
            .unwrap(),
        1
    );
    assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
}

/// E05, P03: each change that this process makes is visible to its next request, even if the feed
/// sends no notification.
#[tokio::test]
async fn a_change_of_this_process_needs_no_notification() {
    let database = organizations().await;
    for way in 0..3 {
        let builder = SessionService::builder(member_store(&database)).lease(LONG_LEASE);
        let sessions: PgMembers = builder.build().unwrap();
        let silent = ManualFeed::default();
        sessions.enable_cache(silent, 10).await.unwrap();
        let signed_in = cacheable(&database, &sessions).await;
        until_cached(&sessions, signed_in.token()).await;
        let revoked = match way {
            0 => {
                set_factor(&sessions, &signed_in, "totp").await.unwrap();
                None
            }
            1 => Some(sessions.revoke_where(&1, "active_org_id", 7_i64).await),
            _ => Some(sessions.revoke_everyone_where("active_org_id", 7_i64).await),
        };
        let user = sessions.user(signed_in.token()).await.unwrap();
        match revoked {
            None => {
                assert_eq!(user.unwrap().factors.unwrap(), ["totp"]);
                assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1);
            }
            Some(revoked) => assert_eq!((revoked.unwrap(), user), (1, None), "way {way}"),
        }
    }
}

/// Changes that another process makes: a statement, or an update by the crate if there is none; the
/// bound for the cache; and whether the session ends.
const CHANGES: &[(&str, Duration, bool)] = &[
    ("", LEASE, false),
    ("UPDATE sessions SET active_org_id = 8", LEASE, false),
    ("UPDATE sessions SET factors = '{}'", LEASE, false),
    ("DELETE FROM orgs WHERE id = 7", LEASE, false),
    ("UPDATE sessions SET active_org_id = 9", LEASE, true),
    (
        "UPDATE orgs SET suspended_at = now() WHERE id = 7",
        INTERVAL,
        true,
    ),
    ("DELETE FROM sessions", LEASE, true),
];

/// P03: a change that another process makes is seen by the notification, at the latest after the
/// lease. A suspended organization has no notification, and is seen at the re-check. This holds for
/// the cache and for streams. A change that ends no session ends no stream.
#[tokio::test]
async fn a_change_elsewhere_is_seen_within_its_bound() {
    let mut rows = tokio::task::JoinSet::new();
    for (n, _) in CHANGES.iter().enumerate() {
        rows.spawn(a_change_elsewhere(n));
    }
    while let Some(row) = rows.join_next().await {
        row.unwrap();
    }
}

async fn a_change_elsewhere(n: usize) {
    let (statement, bound, ends) = CHANGES[n];
    let database = organizations().await;
    sql(&database, "INSERT INTO orgs VALUES (9, 'nine', now())").await;
    let (sessions, elsewhere) = (caching(&database).await, members(&database));
    let signed_in = cacheable(&database, &elsewhere).await;
    let mut ended = Box::pin(sessions.ended(&current(&signed_in)));
    // Until the stream has been checked once.
    assert!(timeout(LEASE / 4, &mut ended).await.is_err());
    until_cached(&sessions, signed_in.token()).await;
    let old = sessions.user(signed_in.token()).await.unwrap();
    let start = Instant::now();
    if statement.is_empty() {
        set_factor(&elsewhere, &signed_in, "code").await.unwrap();
    } else {
        sql(&database, statement).await;
    }
    let seen = changed(&sessions, signed_in.token(), old.as_ref()).await;
    assert!(seen < bound + QUERY, "{statement}: {seen:?}");
    let user = sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user.is_none(), ends, "{statement}");
    if ends {
        assert_eq!(
            patiently(&mut ended).await,
            EndReason::Revoked,
            "{statement}"
        );
        assert!(
            start.elapsed() < bound + QUERY,
            "{statement}: {:?}",
            start.elapsed()
        );
    } else {
        assert!(
            timeout(LEASE, &mut ended).await.is_err(),
            "{statement}: the stream ended"
        );
    }
}
