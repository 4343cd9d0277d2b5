//! The behavior that every store has, asserted of one.

use std::{collections::HashMap, time::Duration};

use tower_user_session::{
    ErrorKind, SessionService,
    session::TokenDigest,
    store::{EndedSession, SessionStore},
};

use super::users::{User, two_limits};

pub async fn conforms<S: SessionStore<User = User, UserId = i64>>(sessions: &SessionService<S>) {
    let store = sessions.store();
    // Each digest gets one result, also an unknown one.
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let digests = [
        ada.token().digest(),
        TokenDigest::from_bytes([1; 32]),
        TokenDigest::from_bytes([2; 32]),
    ];
    let answers = store.find(&digests).await.unwrap();
    let mut found: HashMap<_, _> = answers
        .into_iter()
        .map(|answer| (answer.digest(), answer.into_outcome().unwrap()))
        .collect();
    assert_eq!(found.len(), 3);
    let live = found.remove(&digests[0]).unwrap().unwrap();
    assert_eq!(live.user, User::ada());
    assert_eq!(live.session.id(), ada.session().id());
    assert!(found.values().all(Option::is_none));

    // A deletion returns the sessions that it ended, and a missing session is no error.
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    let ended = [EndedSession::new(digests[0], ada.session().id())];
    assert_eq!(store.delete(&digests).await.unwrap(), ended);
    assert_eq!(store.delete(&digests).await.unwrap(), []);
    assert_eq!(store.delete(&[]).await.unwrap(), []);
    let digests = [digests[1], eve.token().digest()];
    let ended = [EndedSession::new(digests[1], eve.session().id())];
    assert_eq!(store.delete(&digests).await.unwrap(), ended);

    // The times follow the policy, by one clock.
    let ada = sessions
        .sign_in_without_request(1)
        .max_lifetime(Duration::from_secs(60))
        .await
        .unwrap()
        .session();
    assert_eq!(ada.remaining(), Duration::from_secs(60));
    assert_eq!(ada.since_authentication(), Duration::ZERO);
    assert_eq!(ada.times().created_at, ada.times().now);
    assert_eq!(store.lifetime(), two_limits());

    // A user who does not exist cannot sign in.
    assert_eq!(
        sessions
            .sign_in_without_request(99)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::UserNotAllowed
    );
    assert_eq!(sessions.sessions_of(&99).await.unwrap(), []);
    assert_eq!(sessions.revoke_all(&99).await.unwrap(), 0);
    assert_eq!(sessions.revoke_everyone().await.unwrap(), 1);
    assert_eq!(sessions.delete_expired().await.unwrap(), 0);
}
