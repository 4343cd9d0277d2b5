//! Requests while the database is down.

use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use ephemeral_postgres::{Server, StopMode};
use example_application::Application;

use crate::support::{ADA, Site};

/// D09, F01
#[tokio::test]
async fn without_the_database_nobody_is_taken_for_somebody_else() {
    let server = Server::start_private(&[]).unwrap();
    let application = Application::open(server.config()).await.unwrap();
    let site = Site::serve(application).await;
    let mut browser = site.adas_browser().await;
    server.stop(StopMode::Immediate).unwrap();

    for path in ["/", "/account", "/api/me"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.contains("Back in a moment"));
    }
    let mut stranger = site.browser();
    assert_eq!(stranger.get("/").await.status, StatusCode::OK);
    let answer = stranger.post("/sign-in", ADA).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains("Please try again later."));

    let cookie = browser.cookie.clone();
    let signed_out = browser.post("/sign-out", "").await;
    assert_eq!(signed_out.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(signed_out.body.contains("signed out on this device"));
    assert!(signed_out.headers.contains_key(header::SET_COOKIE));
    assert_eq!(browser.cookie, None);

    // The session is live until the application has retried the sign-out.
    server.restart().unwrap();
    browser.cookie = cookie;
    let deadline = Instant::now() + Duration::from_secs(20);
    while browser.get("/api/me").await.status != StatusCode::UNAUTHORIZED {
        assert!(Instant::now() < deadline, "the session never ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
