//! Signing out: which session ends, what the caller learns, and that sign-outs do not affect each
//! other.

use std::{future::IntoFuture as _, time::Duration};

use ephemeral_postgres::TestDatabase;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use tokio::task::JoinHandle;
use tower_user_session::{
    Error, ErrorKind, PgSessionStore, SessionService, SignedIn, SignedOut, session::SessionToken,
    store::SessionStore, tokio_postgres,
};

use crate::support::{
    Logs, PgSessions, ROWS, User, cookie, cookie_lines, database,
    manual_feed::{LONG_LEASE, ManualFeed},
    memory, number, patiently, pool, sessions, sign_out, signed_in_cookie, sql, until_waiting,
    watched,
};

/// D07, D08, D09: signing out clears the cookie whatever the store does, and the caller learns
/// whether the session has ended. Only then is it invalid.
#[tokio::test]
async fn signing_out_clears_the_cookie_even_without_the_store() {
    let logs = Logs::capture();
    let sessions = memory();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let headers = cookie_lines([&cookie]);
    let cleared = |signed_out: &SignedOut| {
        let mut headers = HeaderMap::new();
        signed_out.write_to(&mut headers);
        let value = headers[SET_COOKIE].to_str().unwrap().to_owned();
        value.starts_with("__Host-session=;") && value.contains("Max-Age=0")
    };
    sessions.store().set_failing(true);
    let signed_out = sessions.sign_out(&headers).await;
    assert!(cleared(&signed_out));
    assert_eq!(
        signed_out.ended().unwrap_err().kind(),
        ErrorKind::Connection
    );
    let errors = logs
        .events()
        .iter()
        .filter(|line| line.contains("ERROR"))
        .count();
    assert_eq!(errors, 1, "{:?}", logs.events());

    sessions.store().set_failing(false);
    let token = cookie.strip_prefix("__Host-session=").unwrap();
    let token = SessionToken::parse(token.as_bytes()).unwrap();
    assert_eq!(sessions.user(&token).await.unwrap(), Some(User::ada()));
    for ended in [true, false, false] {
        let signed_out = sessions.sign_out(&headers).await;
        assert!(cleared(&signed_out));
        assert_eq!(signed_out.ended().unwrap(), ended);
        assert_eq!(sessions.user(&token).await.unwrap(), None);
    }
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    assert!(cleared(&signed_out));
    assert!(!signed_out.ended().unwrap());
}

/// A16: if a request is ambiguous, signing out ends each session that it presents.
#[tokio::test]
async fn signing_out_ends_every_presented_session() {
    let sessions = memory();
    let ours = signed_in_cookie(&sessions, 1).await;
    let planted = signed_in_cookie(&sessions, 2).await;
    let headers = cookie_lines([format!("{planted}; __Host-session=x"), ours.clone()]);
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    for cookie in [ours, planted] {
        let token = cookie.strip_prefix("__Host-session=").unwrap();
        let token = SessionToken::parse(token.as_bytes()).unwrap();
        assert_eq!(sessions.user(&token).await.unwrap(), None);
    }
}

/// A16, A21: but no more of them than an honest client sends, so that a flood of tokens causes no
/// flood of deletions.
#[tokio::test]
async fn signing_out_is_bounded() {
    let sessions = memory();
    let mut lines = Vec::new();
    for _ in 0..1_000 {
        lines.push(signed_in_cookie(&sessions, 1).await);
    }
    let headers = cookie_lines([lines.join("; ")]);
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    let mut ended = 0;
    for cookie in lines {
        let token = cookie.strip_prefix("__Host-session=").unwrap();
        let token = SessionToken::parse(token.as_bytes()).unwrap();
        ended += u32::from(sessions.user(&token).await.unwrap().is_none());
    }
    assert!((2..=16).contains(&ended), "{ended} sessions ended");
}

/// D08: repeated, without a session, with an expired one, or with a malformed cookie: the same
/// removal each time, and no row.
#[tokio::test]
async fn signing_out_twice_succeeds() {
    let database = database().await;
    let sessions = sessions(&database);
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let over = sessions.sign_in_without_request(1).await.unwrap();
    let of_over = over.session().id();
    sql(
        &database,
        &format!("UPDATE sessions SET expires_at = now() WHERE id = '{of_over}'"),
    )
    .await;
    let nonsense = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static("__Host-session=a"))]);
    let mut removals = Vec::new();
    for (headers, ended) in [
        (cookie(&sessions, signed_in.token()), true),
        (cookie(&sessions, signed_in.token()), false),
        (HeaderMap::new(), false),
        (nonsense, false),
        (cookie(&sessions, over.token()), true),
    ] {
        let signed_out = sessions.sign_out(&headers).await;
        assert_eq!(signed_out.ended().unwrap(), ended);
        let mut response = HeaderMap::new();
        signed_out.write_to(&mut response);
        removals.push(response[SET_COOKIE].clone());
    }
    assert!(removals.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(number(&database, ROWS).await, 0);
}

/// Two different cookies resolve to no user, but signing out ends both sessions.
#[tokio::test]
async fn signing_out_ends_every_presented_credential() {
    let database = database().await;
    let sessions = sessions(&database);
    let (one, two) = (
        sessions.sign_in_without_request(1).await.unwrap(),
        sessions.sign_in_without_request(2).await.unwrap(),
    );
    let mut headers = cookie(&sessions, one.token());
    headers.append(COOKIE, cookie(&sessions, two.token())[COOKIE].clone());
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    assert_eq!(number(&database, ROWS).await, 0);
}

/// D09: if the database cannot be reached, the removal is sent anyway, and the caller gets an
/// error.
#[tokio::test]
async fn signing_out_without_a_database_still_clears_the_cookie() {
    let mut nowhere = tokio_postgres::Config::new();
    nowhere.host_path("/nonexistent").user("nobody");
    let manager = deadpool_postgres::Manager::new(nowhere, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).build().unwrap();
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool));
    let token = SessionToken::generate().unwrap();
    let signed_out = sessions.sign_out(&cookie(&sessions, &token)).await;
    let error = signed_out.ended().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(!error.is_outcome_unknown());
    let mut response = HeaderMap::new();
    signed_out.write_to(&mut response);
    assert!(response[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(
        sessions.user(&token).await.unwrap_err().kind(),
        ErrorKind::Connection
    );
}

// ---- Concurrent sign-outs ----

async fn signed_in<S: SessionStore<UserId = i64>>(
    sessions: &SessionService<S>,
    count: usize,
) -> Vec<SignedIn> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    all
}

/// Signs out by each of these, in this order and concurrently.
fn sign_all_out<'a, S: SessionStore>(
    sessions: &SessionService<S>,
    tokens: impl IntoIterator<Item = &'a SessionToken>,
) -> Vec<JoinHandle<Result<bool, Error>>> {
    let sign_out = |token| {
        let (sessions, headers) = (sessions.clone(), cookie(sessions, token));
        tokio::spawn(async move {
            let signed_out = sessions.sign_out(&headers).await;
            signed_out.ended().map_err(Clone::clone)
        })
    };
    tokens.into_iter().map(sign_out).collect()
}

/// A result of the store for another session does not end this one.
#[tokio::test]
async fn a_result_for_another_session_does_not_end_this_one() {
    let sessions = watched();
    let all = signed_in(&sessions, 2).await;
    sessions.store().delete_another_session();
    assert!(!sign_out(&sessions, all[0].token()).await.unwrap());
    let mut both = cookie(&sessions, all[0].token());
    both.append(COOKIE, cookie(&sessions, all[1].token())[COOKIE].clone());
    assert!(!sessions.sign_out(&both).await.ended().unwrap());
}

/// Sessions in PostgreSQL, with a deadline that a slow machine does not reach.
fn patient(database: &TestDatabase) -> PgSessions {
    let store = PgSessionStore::new(pool(database, 8));
    let builder = SessionService::builder(store).deadline(Duration::from_secs(60));
    builder.build().unwrap()
}

/// A locked session delays its own sign-out and no other.
#[tokio::test]
async fn a_locked_session_delays_only_its_own_sign_out() {
    let database = database().await;
    let sessions = patient(&database);
    let all = signed_in(&sessions, 8).await;
    let locked = 4;
    let client = database.client().await;
    let id = all[locked].session().id();
    let lock = format!("BEGIN; SELECT FROM sessions WHERE id = '{id}' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();

    let mut calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
    let waiting = calls.remove(locked);
    for call in calls {
        assert!(patiently(call).await.unwrap().unwrap());
    }
    until_waiting(&database, 1).await;
    assert!(!waiting.is_finished());
    client.batch_execute("COMMIT").await.unwrap();
    assert!(patiently(waiting).await.unwrap().unwrap());
    let token = all[locked].token();
    assert_eq!(sessions.user(token).await.unwrap(), None);
}

/// If a trigger of the application prevents the deletion of a session, its own sign-out fails and
/// no other.
#[tokio::test]
async fn a_session_the_database_keeps_fails_only_its_own_sign_out() {
    let database = database().await;
    let sessions = patient(&database);
    let mut all = signed_in(&sessions, 7).await;
    let kept = 4;
    all.insert(kept, sessions.sign_in_without_request(2).await.unwrap());
    let keep = "
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.user_id = 2 THEN RAISE 'this one is kept'; END IF;
            RETURN OLD;
        END $$;
        CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()";
    database.client().await.batch_execute(keep).await.unwrap();

    let mut calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
    let error = patiently(calls.remove(kept)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Statement);
    assert!(!error.is_outcome_unknown());
    for call in calls {
        assert!(patiently(call).await.unwrap().unwrap());
    }
    let user = sessions.user(all[kept].token()).await.unwrap();
    assert_eq!(user.map(|user| user.id), Some(2));
}

/// E05: a session that this process ended is invalid in this process at once, without waiting for
/// the feed. The same holds for several sessions.
#[tokio::test]
async fn a_sign_out_does_not_wait_for_the_feed() {
    for count in [1, 2] {
        let (sessions, feed) = ManualFeed::with_lease(LONG_LEASE).await;
        let all = signed_in(&sessions, count).await;
        sessions.store().advance(Duration::from_secs(60 * 60));
        let mut headers = HeaderMap::new();
        for signed_in in &all {
            let one = cookie(&sessions, signed_in.token());
            headers.append(COOKIE, one[COOKIE].clone());
            for _ in 0..2 {
                assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
            }
        }
        assert_eq!(sessions.metrics().from_cache, count as u64);
        feed.stop_heartbeats();
        let signed_out = patiently(sessions.sign_out(&headers).into_future()).await;
        assert!(signed_out.ended().unwrap());
        for signed_in in &all {
            assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
        }
        // A failed sign-out does not wait either.
        sessions.store().set_failing(true);
        let failed = patiently(sessions.sign_out(&headers).into_future()).await;
        assert!(!failed.ended().unwrap_err().is_outcome_unknown());
    }
}
