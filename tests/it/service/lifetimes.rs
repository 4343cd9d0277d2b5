//! Both limits, last-seen updates, and clean-up.

use std::time::Duration;

use http::{HeaderMap, header::SET_COOKIE};
use tokio::time::timeout;
use tower_user_session::{
    PgSessionStore, SessionService, session::Lifetime, store::SessionStore as _,
};

use crate::support::{
    Logs, TAKE_THE_TURN, User, database, memory, number, proxy::Proxy, sql, two_limits, with,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// D10, D11, C05, C06: a session is invalid from the instant of either limit on, whatever the other
/// limit, and without clean-up. Lookups, lists and re-checks agree. Rows are moved to either side of the limit; the clock is the
/// database's.
#[tokio::test]
async fn both_limits_are_decided_in_the_lookup() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let store = sessions.store();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    for (last_seen, expires, live) in [
        (
            "- interval '59 minutes 58 seconds'",
            "+ interval '2 seconds'",
            true,
        ),
        ("- interval '60 minutes'", "+ interval '9 hours'", false),
        ("+ interval '0'", "+ interval '0'", false),
        ("+ interval '0'", "- interval '1 microsecond'", false),
        ("+ interval '0'", "+ interval '2 seconds'", true),
    ] {
        let update = format!(
            "UPDATE sessions SET last_seen_at = now() {last_seen}, expires_at = now() {expires}"
        );
        sql(&database, &update).await;
        let id = signed_in.session().id();
        let found = [
            sessions.user(signed_in.token()).await.unwrap().is_some(),
            !sessions.sessions_of(&1).await.unwrap().is_empty(),
            !store.remaining_lifetimes(&[id]).await.unwrap().is_empty(),
        ];
        assert_eq!(found, [live; 3], "last seen {last_seen}, expires {expires}");
    }
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
}

/// D12, D14, D15: a lookup writes nothing. Its use is written once per interval, with the time of
/// the request, and never on a session that has ended meanwhile.
#[tokio::test]
async fn last_seen_is_updated_in_the_background_once_per_interval() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let ended = sessions.sign_in_without_request(1).await.unwrap();
    let idled_out = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() - interval '30 minutes'",
    )
    .await;
    for _ in 0..100 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    assert!(sessions.user(ended.token()).await.unwrap().is_some());
    assert!(sessions.user(idled_out.token()).await.unwrap().is_some());
    let unwritten =
        "SELECT count(*) FROM sessions WHERE last_seen_at < now() - interval '29 minutes'";
    assert_eq!(number(&database, unwritten).await, 3);

    sessions.revoke(&1, ended.session().id()).await.unwrap();
    let id = idled_out.session().id();
    let idle =
        format!("UPDATE sessions SET last_seen_at = now() - interval '2 hours' WHERE id = '{id}'");
    sql(&database, &idle).await;
    sessions.close().await;
    assert_eq!(
        number(&database, unwritten).await,
        1,
        "the idled-out session came back"
    );
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 2);

    let again = with(&database, two_limits());
    assert!(again.user(signed_in.token()).await.unwrap().is_some());
    let before = number(
        &database,
        "SELECT count(*) FROM sessions WHERE xmin::text <> '0'",
    )
    .await;
    again.close().await;
    let seen = "SELECT count(*) FROM sessions WHERE last_seen_at > now() - interval '1 minute'";
    assert_eq!((before, number(&database, seen).await), (2, 1));
}

/// D14: within an interval of the last update, nothing is written and no statement is sent.
#[tokio::test]
async fn a_recently_seen_session_is_not_updated_again() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let store = PgSessionStore::<User>::new(proxy.pool(4)).with_lifetime(two_limits());
    let sessions = SessionService::new(store);
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() - interval '3 minutes'",
    )
    .await;
    let version = "SELECT xmin::text::bigint FROM sessions";
    let before = number(&database, version).await;
    assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    proxy.sent();
    for _ in 0..10 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    sessions.close().await;
    assert_eq!(proxy.sent().get(&'E'), Some(&10), "the lookups'");
    assert_eq!(number(&database, version).await, before);
}

/// D15: a locked row delays no caller and is skipped.
#[tokio::test]
async fn clean_up_skips_locked_rows() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "UPDATE sessions SET last_seen_at = now() - interval '30 minutes'",
    )
    .await;
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("SELECT FROM sessions FOR UPDATE", &[])
        .await
        .unwrap();
    for _ in 0..10 {
        assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    }
    sessions.close().await;
    lock.rollback().await.unwrap();
    let unwritten =
        "SELECT count(*) FROM sessions WHERE last_seen_at < now() - interval '29 minutes'";
    assert_eq!(number(&database, unwritten).await, 1);
}

/// H03, C07: the cookie lives as long as the session by the database's clock.
#[tokio::test]
async fn a_remembered_session_has_a_cookie_of_the_same_life() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    for (remembered, shorter, expected) in [
        (false, None, None),
        (true, None, Some("36000")),
        (true, Some(HOUR), Some("3600")),
        (true, Some(100 * HOUR), Some("36000")),
    ] {
        let mut sign_in = sessions.sign_in_without_request(1).remember(remembered);
        if let Some(shorter) = shorter {
            sign_in = sign_in.max_lifetime(shorter);
        }
        let mut headers = HeaderMap::new();
        sign_in.await.unwrap().write_to(&mut headers);
        let cookie = headers[SET_COOKIE].to_str().unwrap();
        let age = cookie
            .split("Max-Age=")
            .nth(1)
            .map(|rest| rest.split(';').next().unwrap());
        assert_eq!(age, expected);
    }
    for life in [Duration::ZERO, Duration::from_millis(999)] {
        assert!(
            sessions
                .sign_in_without_request(1)
                .max_lifetime(life)
                .await
                .is_err()
        );
    }
    assert!(
        sessions
            .sign_in_without_request(1)
            .max_lifetime(Duration::MAX)
            .await
            .is_ok()
    );
}

/// D17: expired sessions are deleted in batches. Live or locked ones stay.
#[tokio::test]
async fn clean_up_deletes_expired_sessions_only() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let live = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "INSERT INTO sessions (token_digest, user_id, expires_at, last_seen_at)
         SELECT sha256(n::text::bytea), 2, now() + interval '1 second' * (n % 3 - 1) * 1000,
                now() - interval '50 minutes' * (n % 2) - interval '11 minutes'
         FROM generate_series(1, 30000) AS n",
    )
    .await;
    let over = "SELECT count(*) FROM sessions WHERE expires_at <= now()
                OR last_seen_at <= now() - interval '1 hour'";
    let expected = number(&database, over).await;
    assert!(expected > 15_000);
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    let locked = lock
        .execute(
            "SELECT FROM sessions WHERE expires_at < now() ORDER BY id LIMIT 5 FOR UPDATE",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(locked, 5);
    assert_eq!(
        i64::try_from(sessions.delete_expired().await.unwrap()).unwrap(),
        expected - 5
    );
    lock.rollback().await.unwrap();
    assert_eq!(sessions.delete_expired().await.unwrap(), 5);
    assert_eq!(sessions.delete_expired().await.unwrap(), 0);
    assert_eq!(number(&database, over).await, 0);
    assert_eq!(
        sessions.user(live.token()).await.unwrap(),
        Some(User::ada())
    );
}

/// One process cleans up at a time. A second one does nothing.
#[tokio::test]
async fn one_process_cleans_up_at_a_time() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    sql(&database, "UPDATE sessions SET expires_at = now()").await;
    let mut client = database.client().await;
    let other = client.transaction().await.unwrap();
    other.execute(TAKE_THE_TURN, &[]).await.unwrap();
    assert_eq!(sessions.delete_expired().await.unwrap(), 0);
    other.commit().await.unwrap();
    assert_eq!(sessions.delete_expired().await.unwrap(), 1);
}

/// A process that restarts every hour cleans up too: the first round comes soon after the start.
#[tokio::test(start_paused = true)]
async fn the_first_clean_up_comes_soon_after_the_start() {
    let logs = Logs::capture();
    let sessions = memory();
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    sessions
        .store()
        .advance(Duration::from_secs(31 * 24 * 60 * 60));
    let day = Duration::from_secs(24 * 60 * 60);
    let cleaning = timeout(Duration::from_secs(60), sessions.delete_expired_every(day));
    assert!(
        cleaning.await.is_err(),
        "clean-up rounds end only if they are dropped"
    );
    let events = logs.events();
    let rounds = events
        .iter()
        .filter(|line| line.contains("expired sessions deleted"));
    assert_eq!(rounds.count(), 1, "{events:?}");
}

/// A session in constant use does not reach an idle limit of one second, the shortest possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_in_constant_use_outlives_a_short_idle_limit() {
    let database = database().await;
    let second = Duration::from_secs(1);
    let lifetime = Lifetime::absolute(60 * second).unwrap();
    let sessions = with(&database, lifetime.with_idle(second).unwrap());
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < 3 * second {
        let user = sessions.user(ada.token()).await.unwrap();
        assert!(user.is_some(), "ended after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(2 * second).await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
}

/// The limits of the service that looks up apply, also to sessions that began under other limits:
/// one line per change.
#[tokio::test]
async fn shorter_limits_count_for_existing_sessions() {
    let hour = Duration::from_secs(60 * 60);
    let absolute = |hours| Lifetime::absolute(hours * hour).unwrap();
    for (began_with, looks_up_with, live) in [
        (absolute(24), absolute(24), true),
        (absolute(24), absolute(4), true),
        (absolute(24), absolute(2), false),
        (
            absolute(24),
            absolute(24).with_idle(4 * hour).unwrap(),
            true,
        ),
        (
            absolute(24),
            absolute(24).with_idle(2 * hour).unwrap(),
            false,
        ),
        // Longer than the limit that was set when it began.
        (absolute(2), absolute(24), false),
        (
            absolute(24).with_idle(2 * hour).unwrap(),
            absolute(24),
            true,
        ),
    ] {
        let database = database().await;
        let ada = with(&database, began_with)
            .sign_in_without_request(1)
            .await
            .unwrap();
        sql(
            &database,
            "UPDATE sessions SET created_at = created_at - interval '3 hours',
                 last_seen_at = last_seen_at - interval '3 hours', expires_at = expires_at - interval '3 hours'",
        )
        .await;
        let sessions = with(&database, looks_up_with);
        let found = sessions.resolve(ada.token()).await.unwrap();
        assert_eq!(found.is_some(), live, "{began_with:?}, {looks_up_with:?}");
        assert_eq!(
            sessions.sessions_of(&1).await.unwrap().len(),
            usize::from(live)
        );
        if let Some(found) = found {
            let times = found.session.times();
            let limit = times.created_at + looks_up_with.absolute_limit();
            assert!(times.expires_at <= limit);
            let listed = sessions.sessions_of(&1).await.unwrap();
            assert_eq!(listed[0].expires_at, times.expires_at);
        }
    }
}
