//! A store from a connection URL.

use tower_user_session::{ErrorKind, PgSessionStore, SessionService};

use crate::support::{User, database, number, patiently};

const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'tower-user-session'";

/// A URL is all that a store needs, and the store uses as many connections as documented.
#[tokio::test]
async fn a_url_is_all_that_a_store_needs() {
    let database = database().await;
    let store = PgSessionStore::<User>::connect(&database.url()).await;
    let store = store.unwrap();
    let closed = async {
        while number(&database, CONNECTIONS).await > 0 {
            tokio::task::yield_now().await;
        }
    };
    patiently(closed).await;
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let sessions = SessionService::new(store);
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let user = sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user, Some(User::ada()));
    sessions.delete_expired().await.unwrap();
    assert!(number(&database, CONNECTIONS).await <= 5);
}

/// A URL that cannot work is an error at once, one line each.
#[tokio::test]
async fn an_unusable_url_is_an_error() {
    for (url, kind) in [
        ("mysql://localhost/app", ErrorKind::Configuration),
        (
            "postgres://db.example/app?sslmode=disable",
            ErrorKind::Configuration,
        ),
        ("postgres://127.0.0.1:1/app", ErrorKind::Connection),
    ] {
        let error = PgSessionStore::<User>::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}");
    }
}
