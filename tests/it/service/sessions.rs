//! A user's list of sessions, and revoking them.

use http::{HeaderMap, HeaderValue, header::USER_AGENT};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    session::{SessionId, SessionLimit},
};

use crate::support::{User, cookie, current, database, number, pool, sessions, sql, until_waiting};

/// I09: the list has what a user needs to recognize a session, of live sessions only, in one
/// statement.
#[tokio::test]
async fn a_user_can_list_their_live_sessions() {
    let database = database().await;
    let sessions = sessions(&database);
    let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("Phone"))]);
    let ip = "2001:db8::1".parse().unwrap();
    let phone = sessions.sign_in(1, &headers).ip(ip).await.unwrap();
    let laptop = sessions.sign_in_without_request(1).await.unwrap();
    let _eve = sessions.sign_in_without_request(2).await.unwrap();
    let over = sessions.sign_in_without_request(1).await.unwrap();
    let expired = format!(
        "UPDATE sessions SET expires_at = now() WHERE id = '{}'",
        over.session().id()
    );
    sql(&database, &expired).await;

    let devices = sessions.sessions_of(&1).await.unwrap();
    assert_eq!(devices.len(), 2);
    assert!(devices[0].is(&laptop.session()));
    assert!(devices[1].is(&phone.session()));
    assert_eq!(devices[1].user_agent.as_deref(), Some("Phone"));
    assert_eq!(devices[1].ip, Some(ip));
    assert_eq!(devices[0].user_agent, None);
    let printed = format!("{devices:?}");
    assert!(!printed.contains("Digest") && !printed.contains(&laptop.token().expose()));
}

/// A user agent of 1 MB, and one with control characters: bounded, and never a line of its own in a
/// log.
#[tokio::test]
async fn the_stored_user_agent_is_bounded() {
    let database = database().await;
    let sessions = sessions(&database);
    let long = vec![b'a'; 1 << 20];
    let odd = b"evil\tname \xff\xfe";
    for (sent, kept) in [
        (&long[..], "a".repeat(256)),
        (odd, "evilname \u{fffd}\u{fffd}".into()),
    ] {
        let value = HeaderValue::from_bytes(sent).unwrap();
        let headers = HeaderMap::from_iter([(USER_AGENT, value)]);
        let _ = sessions.sign_in(1, &headers).await.unwrap();
        let devices = sessions.sessions_of(&1).await.unwrap();
        assert_eq!(devices[0].user_agent.as_deref(), Some(&*kept));
    }
}

/// Another user's session and a missing one give the same result, and neither is changed.
#[tokio::test]
async fn only_the_user_of_a_session_can_revoke_it() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert!(!sessions.revoke(&2, ada.session().id()).await.unwrap());
    assert!(
        !sessions
            .revoke(&1, SessionId::from_bytes([7; 16]))
            .await
            .unwrap()
    );
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert!(sessions.revoke(&1, ada.session().id()).await.unwrap());
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert!(!sessions.revoke(&1, ada.session().id()).await.unwrap());
}

/// After the call returned, the sessions are invalid in other processes too.
#[tokio::test]
async fn revoke_others_revoke_all_and_revoke_everyone_end_their_sessions() {
    let database = database().await;
    let (here, elsewhere) = (sessions(&database), sessions(&database));
    let this = here.sign_in_without_request(1).await.unwrap();
    let other = here.sign_in_without_request(1).await.unwrap();
    let eve = here.sign_in_without_request(2).await.unwrap();
    for token in [&this, &other, &eve] {
        assert!(elsewhere.user(token.token()).await.unwrap().is_some());
    }

    assert_eq!(here.revoke_others(&1, &current(&this)).await.unwrap(), 1);
    assert!(elsewhere.user(other.token()).await.unwrap().is_none());
    assert!(elsewhere.user(this.token()).await.unwrap().is_some());

    assert_eq!(here.revoke_all(&1).await.unwrap(), 1);
    assert!(elsewhere.user(this.token()).await.unwrap().is_none());
    assert!(elsewhere.user(eve.token()).await.unwrap().is_some());

    assert_eq!(here.revoke_everyone().await.unwrap(), 1);
    assert!(elsewhere.user(eve.token()).await.unwrap().is_none());
}

/// D13, E05: when a revocation has returned, only the excepted session and later ones are live.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_also_ends_sessions_of_concurrent_sign_ins() {
    let database = database().await;
    let sessions = sessions(&database);
    for _ in 0..20 {
        let this = sessions.sign_in_without_request(1).await.unwrap();
        let beginning: Vec<_> = (0..8)
            .map(|_| {
                let sessions = sessions.clone();
                tokio::spawn(async move { sessions.sign_in_without_request(1).await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        sessions.revoke_others(&1, &current(&this)).await.unwrap();
        // A session that is live now must have been inserted after the revocation.
        let left = sessions.sessions_of(&1).await.unwrap();
        assert!(left.iter().any(|device| device.is(&this.session())));
        for task in beginning {
            let signed_in = task.await.unwrap();
            let live = sessions.user(signed_in.token()).await.unwrap().is_some();
            let listed = left.iter().any(|device| device.is(&signed_in.session()));
            assert!(
                live || !listed,
                "a session that survived has no revocation that ended it"
            );
        }
        sessions.revoke_all(&1).await.unwrap();
        assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 0);
    }
}

/// D13: a sign-in that is in progress when a revocation begins has ended when it returns.
#[tokio::test]
async fn a_revocation_waits_for_a_concurrent_sign_in() {
    let database = database().await;
    let sessions = sessions(&database);
    let mut client = pool(&database, 1).get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let slow = sessions
        .sign_in_without_request(1)
        .in_transaction(&transaction)
        .await
        .unwrap();
    let revocation = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.revoke_all(&1).await }
    });
    until_waiting(&database, 1).await;
    transaction.commit().await.unwrap();
    assert_eq!(revocation.await.unwrap().unwrap(), 1);
    assert_eq!(sessions.user(slow.token()).await.unwrap(), None);
}

/// D18, J02: exactly as many sessions as the limit allows, under each policy.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_sessions_is_exact() {
    let database = database().await;
    for (limit, refused) in [
        (SessionLimit::refuse_new(3).unwrap(), 47),
        (SessionLimit::end_oldest(3).unwrap(), 0),
    ] {
        // As if in several processes: within one, the writes of a user are serialized.
        let processes = [(); 8].map(|()| {
            let store = PgSessionStore::<User>::new(pool(&database, 2));
            SessionService::new(store.with_session_limit(limit))
        });
        let sessions = &processes[0];
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let sessions = processes[n % processes.len()].clone();
                tokio::spawn(async move { sessions.sign_in_without_request(1).await })
            })
            .collect();
        let mut refusals = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(signed_in) => drop(signed_in),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TooManySessions);
                    refusals += 1;
                }
            }
        }
        assert_eq!(refusals, refused);
        assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 3);

        // The session that a sign-in replaces does not count.
        sessions.revoke_all(&1).await.unwrap();
        let mut last = sessions.sign_in_without_request(1).await.unwrap();
        for _ in 0..5 {
            let headers = cookie(sessions, last.token());
            last = sessions.sign_in(1, &headers).await.unwrap();
        }
        assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 1);

        // An expired session does not count.
        let _ = sessions.sign_in_without_request(1).await.unwrap();
        let _ = sessions.sign_in_without_request(1).await.unwrap();
        sql(&database, "UPDATE sessions SET expires_at = now()").await;
        let newest = sessions.sign_in_without_request(1).await.unwrap();
        assert!(sessions.user(newest.token()).await.unwrap().is_some());
        sessions.revoke_all(&1).await.unwrap();
    }
    assert!(SessionLimit::refuse_new(0).is_err() && SessionLimit::end_oldest(0).is_err());
}

/// The oldest sessions are evicted, and the newest stay.
#[tokio::test]
async fn the_oldest_sessions_are_evicted_at_the_limit() {
    let database = database().await;
    let limit = SessionLimit::end_oldest(2).unwrap();
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_session_limit(limit);
    let sessions = SessionService::new(store);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(sessions.sign_in_without_request(1).await.unwrap());
    }
    for (n, signed_in) in all.iter().enumerate() {
        assert_eq!(
            sessions.user(signed_in.token()).await.unwrap().is_some(),
            n >= 2
        );
    }
}

/// D13: the same for the sessions of all users at once. Lookups continue meanwhile.
#[tokio::test]
async fn revoke_everyone_waits_for_a_concurrent_sign_in() {
    let database = database().await;
    let sessions = sessions(&database);
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let mut client = pool(&database, 1).get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let slow = sessions
        .sign_in_without_request(1)
        .in_transaction(&transaction)
        .await
        .unwrap();
    let revocation = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.revoke_everyone().await }
    });
    until_waiting(&database, 1).await;
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    transaction.commit().await.unwrap();
    assert_eq!(revocation.await.unwrap().unwrap(), 2);
    assert_eq!(sessions.user(slow.token()).await.unwrap(), None);
}
