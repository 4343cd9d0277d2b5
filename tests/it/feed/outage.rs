//! The database cannot be queried: what is served from the cache, and for how long.

use std::time::Instant;

use http::StatusCode;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, SessionService, feed::EndReason, session::SessionToken,
    tokio_postgres::NoTls,
};

use crate::support::{
    PATIENCE, PgSessions,
    caching::{LEASE, announced_database, until_cached},
    cookie, current, patiently, poll_once,
    proxy::{Line, Proxy},
    sql, who,
};

/// F01, F02: a cached session is served no longer than the lease, and then rejected with 503. No
/// request is anonymous. A session that ends meanwhile is rejected, and its stream closes, as soon
/// as the database can be queried again.
#[tokio::test]
async fn a_cached_session_is_served_for_a_lease_and_then_rejected() {
    for line in [Line::Cut, Line::Silent] {
        let database = announced_database().await;
        let proxy = Proxy::before(&database).await;
        let store = PgSessionStore::new(proxy.pool(4));
        let builder = SessionService::builder(store).lease(LEASE);
        let sessions: PgSessions = builder.build().unwrap();
        let feed = sessions.store().feed(proxy.config(), NoTls);
        sessions.enable_cache(feed, 10).await.unwrap();
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let mut stream = Box::pin(sessions.ended(&current(&ada)));
        until_cached(&sessions, ada.token()).await;
        let request = async |token: &SessionToken| {
            let app = ServiceBuilder::new()
                .layer(LoadUserLayer::new(sessions.clone()))
                .service_fn(who::<String>);
            let mut request = http::Request::new(String::new());
            *request.headers_mut() = cookie(&sessions, token);
            app.oneshot(request).await.unwrap()
        };

        proxy.set(line);
        // After its last heartbeat was sent.
        let lost = Instant::now();
        assert_eq!(sql(&database, "DELETE FROM sessions").await, 1);
        loop {
            let began = lost.elapsed();
            let response = request(ada.token()).await;
            if response.status() != StatusCode::OK {
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
                break;
            }
            assert_eq!(response.body(), "ada@example.com", "{line:?}");
            assert!(began < LEASE, "{line:?}: served after {began:?}");
            tokio::task::yield_now().await;
        }
        let unknown = SessionToken::generate().unwrap();
        let (known, unknown) = tokio::join!(request(ada.token()), request(&unknown));
        for response in [known, unknown] {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        let open = poll_once(stream.as_mut());
        assert!(open.is_pending(), "{line:?}: the stream closed early");

        proxy.set(Line::Open);
        let response = loop {
            let response = request(ada.token()).await;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                break response;
            }
            assert!(lost.elapsed() < 2 * PATIENCE);
        };
        assert_eq!(response.body(), "anonymous", "{line:?}");
        assert_eq!(patiently(stream).await, EndReason::Revoked);
    }
}
