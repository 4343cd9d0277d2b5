//! Signing out: what ends, what is told, and that nobody pays for others who sign out at the same time.

use std::{future::IntoFuture as _, time::Duration};

use ephemeral_postgres::TestDatabase;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use tokio::{
    runtime::Builder,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower_user_session::{
    Error, ErrorKind, PgSessionStore, SessionLookup as _, SessionService, SessionStore,
    SessionToken, SignedIn, SignedOut, tokio_postgres,
};

use crate::{
    life_cycle::ROWS,
    support::{
        Logs, PgSessions, User, WATCHED_DEADLINE, cookie, cookie_lines, database, memory, number,
        patiently, pool, sessions, sign_out, signed_in_cookie, sql, until, until_waiting, watched,
    },
    told::{LONG_LEASE, Told},
};

/// D07, D08, D09: signing out clears the cookie whatever the store does, and the caller learns
/// whether the session has ended. Only then is it dead.
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

/// A16: where a request is ambiguous, signing out ends every session that it presents.
#[tokio::test]
async fn signing_out_ends_every_session_that_is_presented() {
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

/// A16, A21: but no more of them than an honest client sends, so that a flood of tokens is no flood
/// of deletions.
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

/// D08: again, without a session, with one that is over, with nonsense: the same removal each time,
/// and no row.
#[tokio::test]
async fn signing_out_twice_is_no_different() {
    let database = database().await;
    let sessions = sessions(&database);
    let signed_in = sessions.sign_in(1).await.unwrap();
    let over = sessions.sign_in(1).await.unwrap();
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

/// Two cookies that differ are nobody's session, but signing out ends both.
#[tokio::test]
async fn signing_out_ends_whatever_is_presented() {
    let database = database().await;
    let sessions = sessions(&database);
    let (one, two) = (
        sessions.sign_in(1).await.unwrap(),
        sessions.sign_in(2).await.unwrap(),
    );
    let mut headers = cookie(&sessions, one.token());
    headers.append(COOKIE, cookie(&sessions, two.token())[COOKIE].clone());
    assert!(sessions.sign_out(&headers).await.ended().unwrap());
    assert_eq!(number(&database, ROWS).await, 0);
}

/// D09: the database cannot be reached: the removal is sent all the same, and the caller is told.
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

// ---- Sign-outs at the same time ----

async fn signed_in<S: SessionStore<UserId = i64>>(
    sessions: &SessionService<S>,
    count: usize,
) -> Vec<SignedIn> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(sessions.sign_in(1).await.unwrap());
    }
    all
}

/// Signs out by each of these, in this order and all at once.
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

/// Those who come while two statements are in flight share the next one, and each is told what became
/// of their own session.
#[tokio::test]
async fn sign_outs_at_once_share_statements() {
    let sessions = watched();
    let all = signed_in(&sessions, 19).await;
    let nobody = SessionToken::generate().unwrap();
    sessions.store().end(false);
    let tokens = all.iter().map(SignedIn::token).chain([&nobody]);
    let mut calls = sign_all_out(&sessions, tokens);
    until(|| sessions.store().deletions() == [1, 1]).await;
    sessions.store().end(true);
    assert!(!patiently(calls.pop().unwrap()).await.unwrap().unwrap());
    for call in calls {
        assert!(patiently(call).await.unwrap().unwrap());
    }
    assert_eq!(sessions.store().deletions(), [1, 1, 18]);
    for signed_in in &all {
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    }
}

/// The same token from two windows at once: there was a session and it has ended, for both.
#[tokio::test]
async fn two_sign_outs_of_one_session_are_one() {
    let sessions = watched();
    let all = signed_in(&sessions, 3).await;
    sessions.store().end(false);
    let calls = sign_all_out(&sessions, [0, 1, 2, 2].map(|one: usize| all[one].token()));
    until(|| sessions.store().deletions() == [1, 1]).await;
    sessions.store().end(true);
    for call in calls {
        assert!(patiently(call).await.unwrap().unwrap());
    }
    assert_eq!(sessions.store().deletions(), [1, 1, 1]);
}

/// Whoever goes away is signed out all the same, also while waiting for their turn.
#[tokio::test]
async fn a_sign_out_goes_through_though_nobody_waits_for_it() {
    let sessions = watched();
    let all = signed_in(&sessions, 5).await;
    sessions.store().end(false);
    let calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
    until(|| sessions.store().deletions() == [1, 1]).await;
    for call in calls {
        call.abort();
        assert!(patiently(call).await.unwrap_err().is_cancelled());
    }
    sessions.store().end(true);
    until(|| sessions.store().deletions() == [1, 1, 3]).await;
    for signed_in in &all {
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    }
}

/// Those under way when the service is closed are waited for, also where their callers have gone.
#[tokio::test]
async fn a_service_that_closes_waits_for_the_sign_outs_under_way() {
    let sessions = watched();
    let all = signed_in(&sessions, 1).await;
    sessions.store().end(false);
    let call = sign_all_out(&sessions, all.iter().map(SignedIn::token)).remove(0);
    until(|| sessions.store().deletions() == [1]).await;
    call.abort();
    let closing = sessions.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    sleep(Duration::from_millis(50)).await;
    assert!(!closing.is_finished());
    sessions.store().end(true);
    patiently(closing).await.unwrap();
    let token = all[0].token();
    assert!(
        sessions
            .store()
            .find(&[token.digest()])
            .await
            .unwrap()
            .remove(0)
            .into_outcome()
            .unwrap()
            .is_none()
    );
}

/// A panic of the store is an error for those whose sessions it was about, which may have ended, and for
/// nobody else.
#[tokio::test]
async fn a_panic_of_the_store_is_an_error_for_those_it_was_about() {
    let sessions = watched();
    let all = signed_in(&sessions, 6).await;
    sessions.store().panic(2);
    let calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
    for (place, call) in calls.into_iter().enumerate() {
        let outcome = patiently(call).await.unwrap();
        if place < 2 {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Store);
            assert!(error.is_outcome_unknown());
        } else {
            assert!(outcome.unwrap());
        }
    }
    assert_eq!(sessions.store().deletions(), [1, 1, 4]);
}

/// Where the store says that it ended none of several sessions, one of them may have been at fault, and
/// each is ended alone. Where they may have ended, or it cannot be reached, all are told so.
#[tokio::test]
async fn sessions_are_ended_alone_where_it_is_known_that_none_has_ended() {
    let alone = [
        ErrorKind::Statement,
        ErrorKind::Row,
        ErrorKind::Deadline,
        ErrorKind::Schema,
        ErrorKind::Store,
    ];
    for kind in alone
        .into_iter()
        .chain([ErrorKind::Connection, ErrorKind::Pool])
    {
        for unknown in [false, true] {
            let sessions = watched();
            let all = signed_in(&sessions, 5).await;
            let refusal = Error::new(kind, "made up");
            sessions.store().refuse(if unknown {
                refusal.with_outcome_unknown()
            } else {
                refusal
            });
            sessions.store().end(false);
            let calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
            until(|| sessions.store().deletions() == [1, 1]).await;
            sessions.store().end(true);
            for (place, call) in calls.into_iter().enumerate() {
                let outcome = patiently(call).await.unwrap();
                if place < 2 || (!unknown && alone.contains(&kind)) {
                    assert!(outcome.unwrap(), "{kind:?}, {unknown}, {place}");
                } else {
                    let error = outcome.unwrap_err();
                    let told = (error.kind(), error.is_outcome_unknown());
                    assert_eq!(told, (kind, unknown), "{place}");
                }
            }
            assert_eq!(sessions.store().deletions(), [1, 1, 3]);
        }
    }
}

/// A sign-out waits for a statement that was sent, and for a turn that does not come for a quarter of the
/// deadline. Then it is a statement of its own, and that is the only one about its session.
#[tokio::test(start_paused = true)]
async fn a_sign_out_does_not_wait_for_its_turn_for_long() {
    let sessions = watched();
    let all = signed_in(&sessions, 3).await;
    sessions.store().end(false);
    let start = Instant::now();
    let mut calls = sign_all_out(&sessions, all.iter().map(SignedIn::token));
    assert!(calls.pop().unwrap().await.unwrap().unwrap());
    assert_eq!(start.elapsed(), WATCHED_DEADLINE / 4);
    sleep(WATCHED_DEADLINE / 4).await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    sessions.store().end(true);
    for call in calls {
        assert!(call.await.unwrap().unwrap());
    }
    assert_eq!(sessions.store().deletions(), [1, 1]);
}

/// What is never answered is given up at the deadline, and others take its place.
#[tokio::test(start_paused = true)]
async fn sign_outs_that_are_never_answered_give_their_place_back() {
    let sessions = watched();
    let all = signed_in(&sessions, 4).await;
    sessions.store().end(false);
    for two in all.chunks(2) {
        for call in sign_all_out(&sessions, two.iter().map(SignedIn::token)) {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Deadline);
            assert!(error.is_outcome_unknown());
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(sessions.store().deletions(), [1, 1, 1, 1]);
}

/// Whoever is told of the end of somebody else's session is not signed out.
#[tokio::test]
async fn an_answer_about_another_session_is_not_the_end_of_this_one() {
    let sessions = watched();
    let all = signed_in(&sessions, 2).await;
    sessions.store().go_astray();
    assert!(!sign_out(&sessions, all[0].token()).await.unwrap());
    let mut both = cookie(&sessions, all[0].token());
    both.append(COOKIE, cookie(&sessions, all[1].token())[COOKIE].clone());
    assert!(!sessions.sign_out(&both).await.ended().unwrap());
}

/// Where too many wait for their turn, a sign-out does not: it is a statement of its own.
#[tokio::test]
async fn a_sign_out_that_finds_no_room_goes_alone() {
    let sessions = watched();
    let all = signed_in(&sessions, 1).await;
    let nobody = SessionToken::generate().unwrap();
    sessions.store().end(false);
    let crowd = sign_all_out(&sessions, std::iter::repeat_n(&nobody, 2 + 16_384));
    // Tasks have their first turn one after the other.
    patiently(tokio::spawn(async {})).await.unwrap();
    until(|| sessions.store().deletions() == [1, 1]).await;
    assert!(
        patiently(sign_out(&sessions, all[0].token()))
            .await
            .unwrap()
    );
    assert_eq!(sessions.store().deletions(), [1, 1]);
    assert!(crowd.iter().all(|call| !call.is_finished()));
}

/// What goes together is carried by the runtime of whoever came first. That one stands still here, and a
/// sign-out on another one waits for it no longer than for any turn.
#[test]
fn a_sign_out_does_not_wait_for_another_runtime_for_long() {
    let runtime = || {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let sessions = watched();
    let still = runtime();
    let all = still.block_on(async {
        let all = signed_in(&sessions, 3).await;
        sessions.store().end(false);
        sign_all_out(&sessions, all[..2].iter().map(SignedIn::token));
        until(|| sessions.store().deletions() == [1, 1]).await;
        all
    });
    let ended = runtime().block_on(async {
        let start = Instant::now();
        let ended = sign_out(&sessions, all[2].token()).await;
        assert_eq!(start.elapsed(), WATCHED_DEADLINE / 4);
        ended
    });
    assert!(ended.unwrap());
}

/// Sessions in PostgreSQL, with a deadline that a slow machine does not meet.
fn patient(database: &TestDatabase) -> PgSessions {
    let store = PgSessionStore::new(pool(database, 8));
    let builder = SessionService::builder(store).deadline(Duration::from_secs(60));
    builder.build().unwrap()
}

/// Nobody waits for a session that somebody has locked, except whoever signs out of it.
#[tokio::test]
async fn nobody_waits_for_a_session_that_somebody_has_locked() {
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

/// Where the database refuses to end a session, because of a trigger of the application's, say, that is an
/// error for whoever signs out of it, and for nobody else.
#[tokio::test]
async fn nobody_fails_because_of_a_session_that_the_database_keeps() {
    let database = database().await;
    let sessions = patient(&database);
    let mut all = signed_in(&sessions, 7).await;
    let kept = 4;
    all.insert(kept, sessions.sign_in(2).await.unwrap());
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

/// E05: a session that was ended here is over here at once, without a word from the store. So are several.
#[tokio::test]
async fn a_sign_out_does_not_wait_for_the_feed() {
    for count in [1, 2] {
        let (sessions, feed) = Told::with_lease(LONG_LEASE).await;
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
        assert_eq!(sessions.counts().from_cache, count as u64);
        feed.fall_silent();
        let signed_out = patiently(sessions.sign_out(&headers).into_future()).await;
        assert!(signed_out.ended().unwrap());
        for signed_in in &all {
            assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
        }
        // One that fails does not wait either.
        sessions.store().set_failing(true);
        let failed = patiently(sessions.sign_out(&headers).into_future()).await;
        assert!(!failed.ended().unwrap_err().is_outcome_unknown());
    }
}
