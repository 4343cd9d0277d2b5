//! Signing in: sessions that are replaced, refused and interrupted sign-ins, digests.

use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService, postgres::SessionValues, session::SessionToken,
};

use crate::support::{
    ROWS, User, cookie, database, fault::ObservedFault, number, patiently, pool, recorded_logs,
    sessions, sql, until_waiting,
};

/// D01, D03: a sign-in ends the session that the request presents, whichever user it belongs to,
/// and adopts nothing from the client, not even a well-formed token.
#[tokio::test]
async fn a_sign_in_replaces_the_session_it_came_with() {
    let database = database().await;
    let sessions = sessions(&database);
    let old = sessions.sign_in_without_request(2).await.unwrap();
    let new = sessions
        .sign_in(1, &cookie(&sessions, old.token()))
        .await
        .unwrap();
    assert_eq!(sessions.user(old.token()).await.unwrap(), None);
    assert_eq!(sessions.user(new.token()).await.unwrap(), Some(User::ada()));
    assert_ne!(new.session().id(), old.session().id());

    let chosen = SessionToken::generate().unwrap();
    let signed_in = sessions
        .sign_in(1, &cookie(&sessions, &chosen))
        .await
        .unwrap();
    assert_ne!(signed_in.token().expose(), chosen.expose());
    assert_eq!(sessions.user(&chosen).await.unwrap(), None);
}

/// A rejected sign-in changes nothing: the old session stays live.
#[tokio::test]
async fn a_sign_in_that_is_refused_ends_nothing() {
    let database = database().await;
    let sessions = sessions(&database);
    let old = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "UPDATE users SET disabled_at = now() WHERE id = 2",
    )
    .await;
    for refused in [2, 99] {
        let error = sessions
            .sign_in(refused, &cookie(&sessions, old.token()))
            .await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::UserNotAllowed);
    }
    assert_eq!(sessions.user(old.token()).await.unwrap(), Some(User::ada()));
}

/// D02: if a sign-in is killed, either the old session is live and there is no new one, or the
/// reverse. Here it waits for a lock on the old one, and is killed.
#[tokio::test]
async fn a_sign_in_that_is_killed_changes_nothing() {
    let database = database().await;
    let sessions = sessions(&database);
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("SELECT FROM sessions FOR UPDATE", &[])
        .await
        .unwrap();
    let sign_in = tokio::spawn({
        let (sessions, headers) = (sessions.clone(), cookie(&sessions, old.token()));
        async move { sessions.sign_in(1, &headers).await }
    });
    let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    patiently(async {
        while number(&database, waiting).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = sign_in.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    lock.rollback().await.unwrap();
    assert_eq!(number(&database, ROWS).await, 1);
    assert_eq!(sessions.user(old.token()).await.unwrap(), Some(User::ada()));
}

/// D07: a signed-out session is invalid in this process, in another one, and after a restart.
#[tokio::test]
async fn a_signed_out_session_is_invalid_in_every_process() {
    let database = database().await;
    let (here, there) = (sessions(&database), sessions(&database));
    let signed_in = here.sign_in_without_request(1).await.unwrap();
    assert!(there.user(signed_in.token()).await.unwrap().is_some());
    assert!(
        here.sign_out(&cookie(&here, signed_in.token()))
            .await
            .ended()
            .unwrap()
    );
    for sessions in [&here, &there, &sessions(&database)] {
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    }
    assert_eq!(number(&database, ROWS).await, 0);
}

/// B05: a taken digest is never changed: the insertion fails, and the session keeps its user.
#[tokio::test]
async fn a_taken_digest_keeps_its_session() {
    use std::time::Duration;
    use tower_user_session::store::{InsertOutcome, NewSession, RotateOutcome, SessionStore};
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let demands = tower_user_session::postgres::SignInConditions::default();
    let life = Duration::from_secs(60);
    let stolen = NewSession::new(ada.token().digest(), &2, &demands, life);
    let outcome = sessions.store().insert(stolen).await.unwrap();
    assert!(matches!(outcome, InsertOutcome::DuplicateDigest));
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let rotation = sessions
        .store()
        .rotate(
            &2,
            &[eve.token().digest()],
            ada.token().digest(),
            &SessionValues::default(),
        )
        .await;
    assert!(matches!(rotation.unwrap(), RotateOutcome::DuplicateDigest));
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
}

/// B08: a digest presented as a token resolves to no user.
#[tokio::test]
async fn a_digest_is_not_a_token() {
    use base64::Engine as _;
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    recorded_logs::presented_though_a_digest(ada.token().digest().as_bytes());
    let text =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(ada.token().digest().as_bytes());
    let digest = SessionToken::parse(text.as_bytes()).unwrap();
    assert_eq!(sessions.user(&digest).await.unwrap(), None);
}

/// J01: anonymous requests insert no row.
#[tokio::test]
async fn anonymous_requests_write_nothing() {
    let database = database().await;
    let sessions = sessions(&database);
    for _ in 0..2_000 {
        assert_eq!(
            sessions
                .user(&SessionToken::generate().unwrap())
                .await
                .unwrap(),
            None
        );
    }
    let written = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint
        FROM pg_stat_user_tables WHERE relname = 'sessions'";
    sessions.close().await;
    assert_eq!(number(&database, ROWS).await, 0);
    assert_eq!(number(&database, written).await, 0);
}

/// B04: if the digest of each new token exists, the sign-in is an error, and no session begins. The
/// event and the counter are the same as for a generator that returns equal values.
#[tokio::test]
async fn tokens_that_all_exist_are_an_error() {
    let database = database().await;
    let sessions = sessions(&database);
    let _ada = sessions.sign_in_without_request(1).await.unwrap();
    let fault = ObservedFault::begin("the random generator fails", &sessions);
    let equal = "CREATE FUNCTION equal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.token_digest := (SELECT token_digest FROM sessions); RETURN NEW;
        END $$;
        CREATE TRIGGER equal BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION equal()";
    database.client().await.batch_execute(equal).await.unwrap();
    let error = sessions.sign_in_without_request(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rng, "{error:?}");
    fault.becomes_visible(async || ()).await;
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
    sql(&database, "DROP FUNCTION equal() CASCADE").await;
    let sign_in = async || drop(sessions.sign_in_without_request(1).await.unwrap());
    fault.ends(sign_in).await;
}

/// J09, F07: a sign-in that is dropped midway leaves no busy connection in the pool.
#[tokio::test]
async fn a_cancelled_sign_in_leaves_no_busy_connection_in_the_pool() {
    let database = database().await;
    let pool = pool(&database, 1);
    let sessions = SessionService::new(PgSessionStore::<User>::new(pool.clone()));
    let old = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.execute("SELECT FROM sessions FOR UPDATE", &[])
        .await
        .unwrap();
    let headers = cookie(&sessions, old.token());
    let dropped = "a call is dropped, for example because the client disconnected";
    let fault = ObservedFault::begin(dropped, &sessions);
    let sign_in = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.sign_in(1, &headers).await }
    });
    until_waiting(&database, 1).await;
    sign_in.abort();
    assert!(sign_in.await.unwrap_err().is_cancelled());
    // The pool's only connection is available, and does not wait for the lock.
    let list = async || assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 1);
    fault.becomes_visible(list).await;
    fault.ends(list).await;
    lock.rollback().await.unwrap();
    assert!(pool.status().size <= 1);
}
