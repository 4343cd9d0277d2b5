//! Whose session is it?

use tower_user_session::SessionToken;

use crate::support::{User, database, sessions};

#[tokio::test]
async fn a_live_token_is_its_owner_and_any_other_nobody() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in(1).await.unwrap();
    let eve = sessions.sign_in(2).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    assert_eq!(
        sessions
            .user(&SessionToken::generate().unwrap())
            .await
            .unwrap(),
        None
    );
}
