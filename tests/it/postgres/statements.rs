//! Which rows and columns each statement changes.

use std::time::{Duration, SystemTime};

use ephemeral_postgres::TestDatabase;
use http::{HeaderMap, header::SET_COOKIE};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    postgres::SessionValues,
    session::{Lifetime, SessionId, SessionLimit, SessionTimestamps, SessionToken},
    store::{ExpiredBatch, RotateOutcome, SessionLookup, SessionStore, SessionUse},
};

use crate::support::{
    PgSessions, TAKE_THE_TURN, cookie, database, number, pool, sessions, sql, two_limits,
    until_waiting, with,
};

const MINUTE: Duration = Duration::from_secs(60);

fn limited(database: &TestDatabase, lifetime: Lifetime, limit: SessionLimit) -> PgSessions {
    let store = PgSessionStore::new(pool(database, 4))
        .with_lifetime(lifetime)
        .with_session_limit(limit);
    SessionService::new(store)
}

/// Changes one session.
async fn set(database: &TestDatabase, session: SessionId, values: &str) {
    let update = format!("UPDATE sessions SET {values} WHERE id = '{session}'");
    assert_eq!(sql(database, &update).await, 1);
}

/// Reads a timestamp of one session.
async fn time(database: &TestDatabase, session: SessionId, expression: &str) -> SystemTime {
    let query = format!("SELECT {expression} FROM sessions WHERE id = '{session}'");
    let client = database.client().await;
    client.query_one(&query, &[]).await.unwrap().get(0)
}

/// Whether a lookup finds the session. Unlike [`SessionService::user`] it does not count as use.
async fn finds(sessions: &PgSessions, token: &SessionToken) -> bool {
    let mut answers = sessions.store().find(&[token.digest()]).await.unwrap();
    let answer = answers.pop().unwrap();
    answer.into_outcome().unwrap().is_some()
}

/// A last-seen update stores the time of use on the used sessions only: never an earlier time,
/// never within an interval, never on a session that has ended.
#[tokio::test]
async fn a_last_seen_update_changes_only_its_own_session() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    assert_eq!(sessions.store().touch_interval(), Some(4 * MINUTE));
    let mut touched = Vec::new();
    let mut cases = Vec::new();
    for (seen, used, written) in [
        ("30 minutes", Some("20 minutes"), true),
        ("30 minutes", Some("4 minutes"), true),
        ("30 minutes", Some("3 minutes 59.999999 seconds"), false),
        ("30 minutes", Some("-10 minutes"), false),
        ("2 hours", Some("2 hours"), false),
        ("30 minutes", None, false),
    ] {
        let id = sessions
            .sign_in_without_request(1)
            .await
            .unwrap()
            .session()
            .id();
        let before = format!("last_seen_at = now() - interval '{seen}'");
        set(&database, id, &before).await;
        let mut expected = time(&database, id, "last_seen_at").await;
        if let Some(used) = used {
            let used = format!("last_seen_at + interval '{used}'");
            let used = time(&database, id, &used).await;
            touched.push(SessionUse::new(id, used));
            if written {
                expected = used;
            }
        }
        cases.push((
            id,
            expected,
            format!("seen {seen} ago, used {used:?} later"),
        ));
    }
    sessions.store().touch(&touched).await.unwrap();
    for (id, expected, case) in cases {
        let seen = time(&database, id, "last_seen_at").await;
        assert_eq!(seen, expected, "{case}");
    }
}

/// Without an idle limit a session that was unused for a month is valid, in each statement.
#[tokio::test]
async fn without_an_idle_limit_only_the_absolute_one_counts() {
    let database = database().await;
    let lifetime = Lifetime::nist_aal1();
    let sessions = limited(&database, lifetime, SessionLimit::refuse_new(1).unwrap());
    let store = sessions.store();
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let id = old.session().id();
    let long_ago = "last_seen_at = now() - interval '29 days'";
    set(&database, id, long_ago).await;

    assert!(finds(&sessions, old.token()).await);
    let devices = sessions.sessions_of(&1).await.unwrap();
    assert!(devices.len() == 1 && devices[0].id == id);
    let live = store.remaining_lifetimes(&[id]).await.unwrap();
    assert!(live.len() == 1 && live[0].id == id && live[0].remaining > 29 * 24 * 60 * MINUTE);
    let error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooManySessions);
    assert_eq!(
        store.delete_expired(None).await.unwrap(),
        ExpiredBatch::new(0, None)
    );

    let now = time(&database, id, "now()").await;
    store.touch(&[SessionUse::new(id, now)]).await.unwrap();
    assert_eq!(time(&database, id, "last_seen_at").await, now);

    set(&database, id, long_ago).await;
    let new = SessionToken::generate().unwrap();
    let presented = [old.token().digest()];
    let none = SessionValues::default();
    let rotation = store.rotate(&1, &presented, new.digest(), &none);
    assert!(matches!(
        rotation.await.unwrap(),
        RotateOutcome::Rotated { .. }
    ));

    set(&database, id, long_ago).await;
    let sessions = limited(&database, lifetime, SessionLimit::end_oldest(1).unwrap());
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    assert!(
        !finds(&sessions, &new).await,
        "the sign-in evicted no session"
    );
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
}

/// The limit evicts the user's live session that began first, not the one that was used or
/// confirmed least recently. Expired sessions do not count, and other users' sessions stay.
#[tokio::test]
async fn the_users_oldest_live_session_makes_room() {
    let database = database().await;
    let limit = SessionLimit::end_oldest(2).unwrap();
    let sessions = limited(&database, two_limits(), limit);
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let first = sessions.sign_in_without_request(1).await.unwrap();
    let second = sessions.sign_in_without_request(1).await.unwrap();
    for (signed_in, created) in [(&eve, "3 hours"), (&first, "2 hours"), (&second, "1 hour")] {
        let created = format!("created_at = now() - interval '{created}'");
        set(&database, signed_in.session().id(), &created).await;
    }
    let over = second.session().id();
    set(&database, over, "expires_at = now()").await;
    let third = sessions.sign_in_without_request(1).await.unwrap();
    assert!(finds(&sessions, first.token()).await);

    let used = "last_seen_at = now() + interval '1 minute',
                authenticated_at = now() + interval '1 minute'";
    set(&database, first.session().id(), used).await;
    let fourth = sessions.sign_in_without_request(1).await.unwrap();
    assert!(!finds(&sessions, first.token()).await);
    for live in [&eve, &third, &fourth] {
        assert!(finds(&sessions, live.token()).await);
    }
    // Clean-up deletes it.
    let left = format!("SELECT count(*) FROM sessions WHERE id = '{over}'");
    assert_eq!(number(&database, &left).await, 1);
}

/// The limit counts the user's live sessions except those that are replaced. A user who may not
/// sign in does not learn that the limit is reached.
#[tokio::test]
async fn the_limit_counts_the_users_live_sessions() {
    let database = database().await;
    let limit = SessionLimit::refuse_new(2).unwrap();
    let sessions = limited(&database, two_limits(), limit);
    let refused = async || {
        sessions
            .sign_in_without_request(1)
            .await
            .unwrap_err()
            .kind()
    };
    for _ in 0..2 {
        let _ = sessions.sign_in_without_request(2).await.unwrap();
    }
    let first = sessions.sign_in_without_request(1).await.unwrap();
    let second = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(refused().await, ErrorKind::TooManySessions);

    let replacing = sessions.sign_in(1, &cookie(&sessions, first.token()));
    let _ = replacing.await.unwrap();
    assert!(!finds(&sessions, first.token()).await);
    assert!(finds(&sessions, second.token()).await);
    assert_eq!(refused().await, ErrorKind::TooManySessions);

    let disable = "UPDATE users SET disabled_at = now() WHERE id = 1";
    sql(&database, disable).await;
    assert_eq!(refused().await, ErrorKind::UserNotAllowed);
    sql(&database, "UPDATE users SET disabled_at = NULL").await;

    set(&database, second.session().id(), "expires_at = now()").await;
    let third = sessions.sign_in_without_request(1).await.unwrap();
    assert_eq!(refused().await, ErrorKind::TooManySessions);

    // More sessions than the limit, from before it was lowered. One replaced session is too few.
    let unlimited = with(&database, two_limits());
    let fourth = unlimited.sign_in_without_request(1).await.unwrap();
    for replaced in [third, fourth] {
        let replacing = sessions.sign_in(1, &cookie(&sessions, replaced.token()));
        let error = replacing.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManySessions);
    }
}

/// Two concurrent confirmations of one token do not both succeed: the first one's new token would
/// be invalid before it reached its client.
#[tokio::test]
async fn a_token_is_confirmed_once() {
    let database = database().await;
    // As if in two processes: within one, a user's writes are serialized.
    let processes = [sessions(&database), sessions(&database)];
    let sessions = &processes[0];
    let presented = [sessions
        .sign_in_without_request(1)
        .await
        .unwrap()
        .token()
        .digest()];
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("SELECT FROM sessions FOR UPDATE", &[])
        .await
        .unwrap();
    let confirmations = processes.clone().map(|sessions| {
        tokio::spawn(async move {
            let new = SessionToken::generate().unwrap();
            let none = SessionValues::default();
            let rotation = sessions.store().rotate(&1, &presented, new.digest(), &none);
            (rotation.await.unwrap(), new)
        })
    });
    until_waiting(&database, 2).await;
    lock.rollback().await.unwrap();
    let (mut confirmed, mut refused) = (Vec::new(), 0);
    for confirmation in confirmations {
        match confirmation.await.unwrap() {
            (RotateOutcome::Rotated { .. }, new) => confirmed.push(new),
            (RotateOutcome::NotFound, _) => refused += 1,
            (RotateOutcome::DuplicateDigest | _, _) => unreachable!("no two tokens are the same"),
        }
    }
    assert_eq!((confirmed.len(), refused), (1, 1));
    assert!(finds(sessions, &confirmed[0]).await);
}

/// A confirmation returns what a lookup finds from then on, and counts as use. The cookie lives as
/// long as the session if the user chose to be remembered, and otherwise has no `Max-Age`.
#[tokio::test]
async fn a_confirmation_returns_the_session_as_it_is_then() {
    let database = database().await;
    let sessions = sessions(&database);
    for remembered in [false, true] {
        let old = sessions
            .sign_in_without_request(1)
            .remember(remembered)
            .await
            .unwrap();
        let id = old.session().id();
        let earlier = "created_at = now() - interval '3 hours',
                       authenticated_at = now() - interval '2 hours',
                       last_seen_at = now() - interval '1 hour',
                       expires_at = now() + interval '5 hours'";
        set(&database, id, earlier).await;
        let created_at = time(&database, id, "created_at").await;
        let expires_at = time(&database, id, "expires_at").await;

        let headers = cookie(&sessions, old.token());
        let new = sessions.reauthenticate(1, &headers).await.unwrap();
        let now = new.session().times().now;
        let mut expected = SessionTimestamps::at(now);
        expected.created_at = created_at;
        expected.expires_at = expires_at;
        assert_eq!(new.session().times(), expected);
        let live = sessions.resolve(new.token()).await.unwrap().unwrap();
        let mut found = live.session.times();
        found.now = now;
        assert_eq!(found, expected);

        let mut response = HeaderMap::new();
        new.write_to(&mut response);
        let cookie = response[SET_COOKIE].to_str().unwrap();
        let age = cookie
            .split_once("Max-Age=")
            .map(|(_, age)| age.split(';').next().unwrap().parse().unwrap());
        let remaining = new.session().remaining().as_secs();
        assert_eq!(age, remembered.then_some(remaining));
    }
}

/// Of two live sessions that a request presents, the one that began last is confirmed, and only
/// that one.
#[tokio::test]
async fn a_confirmation_changes_one_session() {
    let database = database().await;
    let sessions = sessions(&database);
    let older = sessions.sign_in_without_request(1).await.unwrap();
    let newer = sessions.sign_in_without_request(1).await.unwrap();
    let before = "created_at = now() - interval '1 hour'";
    set(&database, older.session().id(), before).await;
    let mut presented = [newer.token().digest(), older.token().digest()];
    for _ in 0..2 {
        let new = SessionToken::generate().unwrap();
        let none = SessionValues::default();
        let rotation = sessions.store().rotate(&1, &presented, new.digest(), &none);
        match rotation.await.unwrap() {
            RotateOutcome::Rotated { session, .. } => {
                assert_eq!(session.id(), newer.session().id());
            }
            other => unreachable!("{other:?}"),
        }
        assert!(finds(&sessions, &new).await);
        assert!(finds(&sessions, older.token()).await);
        assert!(!finds(&sessions, newer.token()).await);
        // In the opposite order.
        presented = [older.token().digest(), new.digest()];
    }
}

/// An operation of one user does not wait for another user's sign-in.
#[tokio::test]
async fn users_do_not_wait_for_each_other() {
    let database = database().await;
    let sessions = sessions(&database);
    let mut client = pool(&database, 1).get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let slow = sessions
        .sign_in_without_request(1)
        .in_transaction(&transaction)
        .await
        .unwrap();
    let _ = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.revoke_all(&2).await.unwrap(), 1);
    transaction.commit().await.unwrap();
    assert!(finds(&sessions, slow.token()).await);
}

/// A clean-up batch covers some pages of the table, and the next one continues after them. While
/// another process cleans up there is nothing to do.
#[tokio::test]
async fn cleaning_up_goes_from_batch_to_batch() {
    let database = database().await;
    let sessions = sessions(&database);
    let store = sessions.store();
    sql(
        &database,
        "INSERT INTO sessions (token_digest, user_id, expires_at)
         SELECT sha256(n::text::bytea), 1, now() FROM generate_series(1, 8000) AS n",
    )
    .await;
    let left = async || {
        let by_batch = "SELECT count(*) FILTER (WHERE page < 64),
                count(*) FILTER (WHERE page >= 64 AND page < 128),
                count(*) FILTER (WHERE page >= 128)
            FROM (SELECT (ctid::text::point)[0] AS page FROM sessions) AS sessions";
        let client = database.client().await;
        let row = client.query_one(by_batch, &[]).await.unwrap();
        [0, 1, 2].map(|batch| row.get::<_, i64>(batch).unsigned_abs())
    };
    let [first, second, third] = left().await;
    assert!(first > 0 && second > 0 && third > 0);

    let mut client = database.client().await;
    let other = client.transaction().await.unwrap();
    other.execute(TAKE_THE_TURN, &[]).await.unwrap();
    assert_eq!(
        store.delete_expired(None).await.unwrap(),
        ExpiredBatch::new(0, None)
    );
    other.commit().await.unwrap();

    let batch = store.delete_expired(Some(64)).await.unwrap();
    assert_eq!(batch, ExpiredBatch::new(second, Some(128)));
    assert_eq!(left().await, [first, 0, third]);
    let batch = store.delete_expired(None).await.unwrap();
    assert_eq!(batch, ExpiredBatch::new(first, Some(64)));
    assert_eq!(left().await, [0, 0, third]);
    assert_eq!(
        store.delete_expired(Some(128)).await.unwrap(),
        ExpiredBatch::new(third, None)
    );
}

/// The clean-up lock ends with the batch, not with the connection.
#[tokio::test]
async fn another_process_cleans_up_next() {
    let database = database().await;
    let (one, another) = (sessions(&database), sessions(&database));
    for process in [&one, &another, &one] {
        let _ = one.sign_in_without_request(1).await.unwrap();
        sql(&database, "UPDATE sessions SET expires_at = now()").await;
        assert_eq!(process.delete_expired().await.unwrap(), 1);
    }
}

/// The list has the last used session first, whichever began last, and each session has its own
/// times.
#[tokio::test]
async fn devices_are_listed_by_their_last_use() {
    let database = database().await;
    let sessions = sessions(&database);
    let mut ids = Vec::new();
    for (created, authenticated, seen, expires) in [
        ("1 hour", "40 minutes", "30 minutes", "4 hours"),
        ("3 hours", "2 hours", "10 minutes", "3 hours"),
        ("2 hours", "90 minutes", "20 minutes", "2 hours"),
    ] {
        let id = sessions
            .sign_in_without_request(1)
            .await
            .unwrap()
            .session()
            .id();
        let times = format!(
            "created_at = now() - interval '{created}',
             authenticated_at = now() - interval '{authenticated}',
             last_seen_at = now() - interval '{seen}', expires_at = now() + interval '{expires}'"
        );
        set(&database, id, &times).await;
        ids.push(id);
    }
    let devices = sessions.sessions_of(&1).await.unwrap();
    let listed: Vec<_> = devices.iter().map(|device| device.id).collect();
    assert_eq!(listed, [ids[1], ids[2], ids[0]]);
    for device in devices {
        for (said, column) in [
            (device.created_at, "created_at"),
            (device.authenticated_at, "authenticated_at"),
            (device.last_seen_at, "last_seen_at"),
            (device.expires_at, "expires_at"),
        ] {
            assert_eq!(said, time(&database, device.id, column).await, "{column}");
        }
    }
}

/// Of the given sessions, those that a lookup would find, each with the limit that it reaches
/// first.
#[tokio::test]
async fn expires_at_is_the_next_limit_of_a_session() {
    let database = database().await;
    let sessions = with(&database, two_limits());
    let disable = "UPDATE users SET disabled_at = now() WHERE id = 2";
    let began = "created_at = now() - interval '50 minutes'";
    let mut asked = Vec::new();
    let mut expected = Vec::new();
    for (user, times, live) in [
        (1, "last_seen_at = now() - interval '10 minutes'", Some(50)),
        (1, "expires_at = now() + interval '30 minutes'", Some(30)),
        (1, "expires_at = now()", None),
        (2, "expires_at = now() + interval '1 hour'", None),
    ] {
        let id = sessions
            .sign_in_without_request(user)
            .await
            .unwrap()
            .session()
            .id();
        set(&database, id, &format!("{began}, {times}")).await;
        asked.push(id);
        expected.extend(live.map(|minutes: u32| (id, minutes * MINUTE)));
    }
    let _not_asked_about = sessions.sign_in_without_request(1).await.unwrap();
    sql(&database, disable).await;
    let mut live = sessions.store().remaining_lifetimes(&asked).await.unwrap();
    live.sort_unstable_by_key(|live| live.id);
    expected.sort_unstable();
    assert_eq!(live.len(), expected.len());
    for (live, (expected_id, limit)) in live.into_iter().zip(expected) {
        assert_eq!(live.id, expected_id);
        let remaining = live.remaining;
        assert!(remaining <= limit && remaining + 2 * MINUTE > limit);
    }
}
