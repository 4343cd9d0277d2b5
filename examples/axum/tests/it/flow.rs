//! Sign-up, sign-in, the current user and sign-out.

use axum::http::{Method, StatusCode, header};

use crate::support::{ADA, Site};

#[tokio::test]
async fn a_person_signs_up_signs_in_sees_who_they_are_and_signs_out() {
    let site = Site::open().await;
    let mut browser = site.browser();
    assert!(browser.get("/").await.body.contains("Create an account"));
    assert_eq!(
        browser.get("/account").await.status,
        StatusCode::UNAUTHORIZED
    );

    let signed_up = browser.post("/sign-up", ADA).await;
    assert_eq!(signed_up.status, StatusCode::SEE_OTHER);
    assert_eq!(signed_up.headers[header::LOCATION], "/");
    assert!(browser.get("/").await.body.contains("ada@example.com"));

    let signed_in = browser.post("/sign-in", ADA).await;
    assert_eq!(signed_in.status, StatusCode::SEE_OTHER);
    assert_eq!(signed_in.headers[header::LOCATION], "/");
    assert_eq!(signed_in.headers[header::CACHE_CONTROL], "no-store");
    assert!(browser.get("/").await.body.contains("ada@example.com"));
    assert!(
        browser
            .get("/account")
            .await
            .body
            .contains("ada@example.com")
    );
    let me = browser.get("/api/me").await;
    assert_eq!(me.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(me.body, r#"{"id":1,"email":"ada@example.com"}"#);

    let signed_out = browser.post("/sign-out", "").await;
    assert_eq!(signed_out.status, StatusCode::SEE_OTHER);
    assert_eq!(browser.cookie, None);
    assert!(browser.get("/").await.body.contains("Create an account"));
    assert_eq!(
        browser.get("/api/me").await.status,
        StatusCode::UNAUTHORIZED
    );
}

/// D01, D07: a sign-out and another sign-in each end the session on the server.
#[tokio::test]
async fn an_old_cookie_is_dead() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let mut thief = browser.clone();
    assert_eq!(thief.get("/api/me").await.status, StatusCode::OK);

    browser.post("/sign-in", ADA).await;
    assert_ne!(browser.cookie, thief.cookie);
    assert_eq!(thief.get("/api/me").await.status, StatusCode::UNAUTHORIZED);

    thief.cookie.clone_from(&browser.cookie);
    browser.post("/sign-out", "").await;
    assert_eq!(thief.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn whoever_is_disabled_is_signed_out_and_cannot_sign_in() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let client = site.database.as_ref().unwrap().client().await;
    client
        .batch_execute("UPDATE users SET disabled_at = now()")
        .await
        .unwrap();
    assert_eq!(
        browser.get("/api/me").await.status,
        StatusCode::UNAUTHORIZED
    );
    let answer = browser.post("/sign-in", ADA).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.body.contains("The email or the password is wrong."));
}

#[tokio::test]
async fn what_cannot_be_signed_up_says_why() {
    let site = Site::open().await;
    let mut browser = site.browser();
    let long = format!("email=a%40b&password={}", "x".repeat(257));
    for (form, status, problem) in [
        ("", StatusCode::UNPROCESSABLE_ENTITY, "not an email"),
        (
            "email=ada&password=12345678",
            StatusCode::UNPROCESSABLE_ENTITY,
            "not an email",
        ),
        (
            "email=a%00b%40c&password=12345678",
            StatusCode::UNPROCESSABLE_ENTITY,
            "not an email",
        ),
        (
            "email=a%40b&password=1234567",
            StatusCode::UNPROCESSABLE_ENTITY,
            "at least 8",
        ),
        (&long, StatusCode::UNPROCESSABLE_ENTITY, "too long"),
        (ADA, StatusCode::SEE_OTHER, ""),
        (&ADA.replace("ada", "ADA"), StatusCode::CONFLICT, "already"),
    ] {
        let answer = browser.post("/sign-up", form).await;
        assert_eq!(answer.status, status, "{form}");
        assert!(answer.body.contains(problem), "{form}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_is_typed_is_escaped() {
    let site = Site::open().await;
    let form = "email=%22%3E%3Cscript%3E&password=12345678";
    let answer = site.browser().post("/sign-in", form).await;
    assert!(!answer.body.contains("<script"), "{}", answer.body);
    assert!(answer.body.contains("&quot;&gt;&lt;script&gt;"));
    let policy = &answer.headers[header::CONTENT_SECURITY_POLICY];
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
}

#[tokio::test]
async fn a_page_costs_one_lookup_and_what_needs_no_user_none() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    for (method, path, lookups) in [
        (Method::GET, "/", 1),
        (Method::HEAD, "/", 1),
        (Method::GET, "/account", 1),
        (Method::GET, "/api/me", 1),
        (Method::GET, "/style.css", 0),
        (Method::GET, "/favicon.ico", 0),
        (Method::GET, "/healthz", 0),
        (Method::POST, "/sign-out", 0),
    ] {
        let before = site.sessions.metrics().lookups;
        let answer = browser.send(method, path, &[], "").await;
        assert!(!answer.status.is_client_error() && !answer.status.is_server_error());
        assert_eq!(site.sessions.metrics().lookups - before, lookups, "{path}");
    }
}
