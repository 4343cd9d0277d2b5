//! An unknown email and a wrong password take the same time. The test has its own binary, so that
//! no other test runs concurrently.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

#[expect(dead_code, reason = "this test needs a part of it")]
#[path = "it/support.rs"]
mod support;

use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::support::{Answer, Browser, Site};

/// The body is compared too, except for the email.
#[tokio::test]
async fn an_unknown_email_and_a_wrong_password_look_the_same() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    browser.cookie = None;
    // Measures alternately and compares the minimum: other load can only increase a measurement.
    let (mut wrong_took, mut unknown_took) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        let mut wrong = try_to_sign_in(&mut browser, "ada", &mut wrong_took).await;
        let unknown = try_to_sign_in(&mut browser, "eve", &mut unknown_took).await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
        wrong.body = wrong.body.replace("ada@", "eve@");
        assert_eq!(wrong, unknown);
    }
    // Without hashing, a response takes a tenth of the time.
    assert!(
        unknown_took > wrong_took / 3 && wrong_took > unknown_took / 3,
        "{unknown_took:?} for an unknown email, {wrong_took:?} for a wrong password"
    );
}

async fn try_to_sign_in(browser: &mut Browser, name: &str, shortest: &mut Duration) -> Answer {
    let form = format!("email={name}%40example.com&password=wrong+horse");
    let begun = Instant::now();
    let answer = browser.post("/sign-in", &form).await;
    *shortest = begun.elapsed().min(*shortest);
    answer
}
