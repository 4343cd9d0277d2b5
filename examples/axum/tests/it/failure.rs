//! Requests while the database is down.

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
    assert_eq!(signed_out.status, StatusCode::SEE_OTHER);
    assert!(signed_out.headers.contains_key(header::SET_COOKIE));
    assert_eq!(browser.cookie, None);

    // The database could not delete the session, so it is still live, as the log reports.
    server.restart().unwrap();
    browser.cookie = cookie;
    assert_eq!(browser.get("/api/me").await.status, StatusCode::OK);
}
