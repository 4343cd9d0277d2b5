//! Reauthentication, and the application's own writes in the same transaction.

use http::HeaderMap;
use tower_user_session::ErrorKind;

use crate::support::{User, cookie, current, database, number, pool, sessions, sql, until_waiting};

/// D05, I10: the old token is invalid, the new one belongs to the same session, and the
/// authentication is recent.
#[tokio::test]
async fn confirming_gives_the_session_a_new_token() {
    let database = database().await;
    let sessions = sessions(&database);
    let old = sessions
        .sign_in_without_request(1)
        .remember(true)
        .await
        .unwrap();
    sql(
        &database,
        "UPDATE sessions SET authenticated_at = now() - interval '1 hour',
                             created_at = created_at - interval '1 hour',
                             expires_at = expires_at - interval '1 hour'",
    )
    .await;
    let headers = cookie(&sessions, old.token());
    let new = sessions.reauthenticate(1, &headers).await.unwrap();
    assert_eq!(sessions.user(old.token()).await.unwrap(), None);
    let live = sessions.resolve(new.token()).await.unwrap().unwrap();
    assert_eq!(live.user, User::ada());
    assert_eq!(live.session.id(), old.session().id());
    let hour = std::time::Duration::from_secs(60 * 60);
    let (times, before) = (live.session.times(), old.session().times());
    assert_eq!(times.created_at, before.created_at - hour);
    assert_eq!(times.expires_at, before.expires_at - hour);
    assert!(live.session.since_authentication().as_secs() < 60);
    let mut response = HeaderMap::new();
    new.write_to(&mut response);
    assert!(
        response["set-cookie"]
            .to_str()
            .unwrap()
            .contains("Max-Age="),
        "the session is still remembered"
    );
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
}

/// Only a live session of the user who reauthenticated is confirmed.
#[tokio::test]
async fn invalid_sessions_are_not_confirmed() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(&sessions, ada.token());
    let refused = async |user, headers: &HeaderMap| {
        let error = sessions.reauthenticate(user, headers).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionNotFound);
        assert!(!error.is_outcome_unknown());
    };
    refused(2, &headers).await;
    refused(1, &HeaderMap::new()).await;
    sql(
        &database,
        "UPDATE users SET disabled_at = now() WHERE id = 1",
    )
    .await;
    refused(1, &headers).await;
    sql(&database, "UPDATE users SET disabled_at = NULL").await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    sql(&database, "UPDATE sessions SET expires_at = now()").await;
    refused(1, &headers).await;
}

/// A password change and the revocation of the other sessions are one transaction.
#[tokio::test]
async fn revoking_joins_the_applications_transaction() {
    let database = database().await;
    let sessions = sessions(&database);
    let this = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    for (commit, left) in [(false, true), (true, false)] {
        let mut client = pool(&database, 1).get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        transaction
            .execute("UPDATE users SET role = 'new' WHERE id = 1", &[])
            .await
            .unwrap();
        let ended = sessions
            .revoke_others_in_transaction(&transaction, &1, &current(&this))
            .await
            .unwrap();
        assert_eq!(ended, 1);
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(sessions.user(other.token()).await.unwrap().is_some(), left);
        assert!(sessions.user(this.token()).await.unwrap().is_some());
    }
}

/// A sign-in that checked the old password waits for the change, and its condition rejects it.
#[tokio::test]
async fn a_sign_in_with_the_old_password_fails_after_a_password_change() {
    let database = database().await;
    let sessions = sessions(&database);
    let mut client = pool(&database, 1).get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("UPDATE users SET role = 'new' WHERE id = 1", &[])
        .await
        .unwrap();
    sessions
        .revoke_all_in_transaction(&transaction, &1)
        .await
        .unwrap();
    let sign_in = tokio::spawn({
        let sessions = sessions.clone();
        async move {
            sessions
                .sign_in_without_request(1)
                .if_unchanged("u.role", "member")
                .await
        }
    });
    until_waiting(&database, 1).await;
    transaction.commit().await.unwrap();
    let error = sign_in.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UserNotAllowed);
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 0);
    assert!(
        sessions
            .sign_in_without_request(1)
            .if_unchanged("u.role", "new")
            .await
            .is_ok()
    );
}

/// An account and its first session are created together, or not at all.
#[tokio::test]
async fn signing_in_joins_the_applications_transaction() {
    let database = database().await;
    let sessions = sessions(&database);
    for (commit, users) in [(false, 2), (true, 3)] {
        let mut client = pool(&database, 1).get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let id: i64 = transaction
            .query_one(
                "INSERT INTO users (id, email) VALUES (3, 'new') RETURNING id",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        let signed_in = sessions
            .sign_in_without_request(id)
            .in_transaction(&transaction)
            .await
            .unwrap();
        assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(
            sessions.user(signed_in.token()).await.unwrap().is_some(),
            commit
        );
        assert_eq!(number(&database, "SELECT count(*) FROM users").await, users);
    }
}

/// A rejected sign-in ends nothing, also if the application commits afterwards.
#[tokio::test]
async fn a_refused_sign_in_changes_nothing_in_the_applications_transaction() {
    let database = database().await;
    let sessions = sessions(&database);
    let old = sessions.sign_in_without_request(1).await.unwrap();
    sql(
        &database,
        "UPDATE users SET disabled_at = now() WHERE id = 2",
    )
    .await;
    let mut client = pool(&database, 1).get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let sign_in = sessions.sign_in(2, &cookie(&sessions, old.token()));
    let error = sign_in.in_transaction(&transaction).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UserNotAllowed);
    transaction.commit().await.unwrap();
    assert_eq!(sessions.user(old.token()).await.unwrap(), Some(User::ada()));
}

/// A transaction of any pool, or of none, is accepted.
#[tokio::test]
async fn a_transaction_of_a_plain_client_is_accepted() {
    let database = database().await;
    let sessions = sessions(&database);
    let this = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(1).await.unwrap();
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let ended = sessions
        .revoke_others_in_transaction(&transaction, &1, &current(&this))
        .await;
    assert_eq!(ended.unwrap(), 1);
    let new = sessions
        .sign_in_without_request(2)
        .in_transaction(&transaction)
        .await;
    assert_eq!(
        sessions.user(other.token()).await.unwrap(),
        Some(User::ada())
    );
    transaction.commit().await.unwrap();
    assert_eq!(sessions.user(other.token()).await.unwrap(), None);
    let new = new.unwrap();
    assert_eq!(sessions.user(new.token()).await.unwrap(), Some(User::eve()));
}
