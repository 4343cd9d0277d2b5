//! The list of sessions, revocation and re-authentication.

use std::time::Instant;

use axum::http::{Method, StatusCode, header};
use tower_user_session::feed::DEFAULT_LEASE;

use crate::support::{ADA, Answer, Site};

const EVE: &str = "email=eve%40example.com&password=correct+horse";
const CHANGE: &str = "current=correct+horse&password=battery+staple";
const NAVIGATION: [(&str, &str); 1] = [("sec-fetch-mode", "navigate")];

/// Returns the public ids of the sessions in the forms of a page.
fn listed(page: &Answer) -> Vec<String> {
    let fields = page.body.split(r#"name="session" value=""#).skip(1);
    fields
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

fn location(answer: &Answer) -> &str {
    answer.headers[header::LOCATION].to_str().unwrap()
}

async fn age_the_proof(site: &Site) {
    let client = site.database.as_ref().unwrap().client().await;
    let update = "UPDATE sessions SET authenticated_at = now() - interval '6 minutes'";
    client.execute(update, &[]).await.unwrap();
}

/// The list marks the current session. Another session can be ended, and its token is rejected at
/// once.
#[tokio::test]
async fn a_person_ends_a_session_on_another_device() {
    let site = Site::open().await;
    let mut here = site.adas_browser().await;
    let mut there = site.browser();
    let agent = [("user-agent", "<b>Phone</b>")];
    there.send(Method::POST, "/sign-in", &agent, ADA).await;
    let page = here.get("/sessions").await;
    assert_eq!(page.body.matches("This session").count(), 1);
    assert!(page.body.contains("&lt;b&gt;Phone&lt;/b&gt;") && page.body.contains("127.0.0.1"));
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
    let others = listed(&page);
    assert_eq!(others.len(), 1);

    let ended = here
        .post("/sessions/end", &format!("session={}", others[0]))
        .await;
    assert_eq!(
        (ended.status, location(&ended)),
        (StatusCode::SEE_OTHER, "/sessions?done=ended")
    );
    assert_eq!(there.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(here.get("/api/me").await.status, StatusCode::OK);
}

/// The page shows recent activity. It shows a sign-in from a new client to the other sessions, and a
/// sign-in from a known client to none.
#[tokio::test]
async fn a_sign_in_from_a_new_client_is_shown_elsewhere() {
    const NOTICE: &str = "New sign-in from ";
    let site = Site::open().await;
    let mut here = site.adas_browser().await;
    assert!(!here.get("/sessions").await.body.contains(NOTICE));
    site.browser().post("/sign-in", ADA).await;
    assert!(!here.get("/sessions").await.body.contains(NOTICE));

    let agent = [("user-agent", "Mozilla/5.0 (iPhone) Safari/604.1")];
    let mut there = site.browser();
    for _ in 0..2 {
        there.send(Method::POST, "/sign-in", &agent, ADA).await;
        let page = here.get("/sessions").await.body;
        assert_eq!(page.matches(NOTICE).count(), 1, "{page}");
        assert!(page.contains("New sign-in from Safari on iPhone, <time"));
    }
    // The second sign-in was from a known client and is the current session.
    let mut fresh = site.browser();
    let other = [("user-agent", "curl/8.0")];
    fresh.send(Method::POST, "/sign-in", &other, ADA).await;
    let page = fresh.get("/sessions").await.body;
    assert!(!page.contains("New sign-in from curl") && page.contains("New sign-in from Safari"));

    here.post("/sessions/end-others", "").await;
    let page = here.get("/sessions").await.body;
    // Of the sign-up, and of four sign-ins.
    assert_eq!(page.matches("Session ended · ").count(), 5, "{page}");
    assert_eq!(page.matches("Signed in · ").count(), 6, "{page}");
}

/// I09: a session of another user, an unknown one and a malformed id get the same response.
#[tokio::test]
async fn a_foreign_session_is_not_found() {
    let site = Site::open().await;
    let mut ada = site.adas_browser().await;
    let mut eve = site.browser();
    eve.post("/sign-up", EVE).await;
    eve.post("/sign-in", EVE).await;
    let user = ada.get("/api/me").await.body;
    let id = site.sessions.sessions_of(&1).await.unwrap()[0].id;
    assert!(user.contains("ada"));
    let mut answers = Vec::new();
    for session in [
        id.to_string(),
        "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        "x".to_owned(),
    ] {
        answers.push(
            eve.post("/sessions/end", &format!("session={session}"))
                .await,
        );
    }
    assert_eq!(answers[0].status, StatusCode::NOT_FOUND);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(ada.get("/api/me").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_person_signs_out_everywhere_else() {
    let site = Site::open().await;
    let mut here = site.adas_browser().await;
    let mut there = site.browser();
    there.post("/sign-in", ADA).await;
    let ended = here.post("/sessions/end-others", "").await;
    assert_eq!(location(&ended), "/sessions?done=ended-others");
    assert_eq!(there.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(here.get("/api/me").await.status, StatusCode::OK);
}

/// An anonymous visitor is redirected to the sign-in page and back, never to another site.
#[tokio::test]
async fn signing_in_leads_back_to_where_one_was_going() {
    let site = Site::open().await;
    site.adas_browser().await;
    let mut browser = site.browser();
    let sent = browser
        .send(Method::GET, "/sessions", &NAVIGATION, "")
        .await;
    assert_eq!(
        (sent.status, location(&sent)),
        (StatusCode::SEE_OTHER, "/sign-in?next=/sessions")
    );
    let form = browser.get(location(&sent)).await;
    assert!(form.body.contains(r#"name="next" value="/sessions""#));
    let back = browser
        .post("/sign-in", &format!("{ADA}&next=%2Fsessions"))
        .await;
    assert_eq!(location(&back), "/sessions");

    for elsewhere in [
        "%2F%2Fevil.example",
        "https%3A%2F%2Fevil.example",
        "%2F%5Cevil.example",
        "x",
    ] {
        let answer = browser
            .post("/sign-in", &format!("{ADA}&next={elsewhere}"))
            .await;
        assert_eq!(location(&answer), "/", "{elsewhere}");
        let form = browser.get(&format!("/sign-in?next={elsewhere}")).await;
        assert!(!form.body.contains("evil") && !form.body.contains(r#"name="next""#));
    }
}

#[tokio::test]
async fn a_session_is_remembered_only_where_it_was_asked_for() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    for (field, remembered) in [("", false), ("&remember=yes", true)] {
        let answer = browser.post("/sign-in", &format!("{ADA}{field}")).await;
        let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
        assert_eq!(cookie.contains("Max-Age=2592000"), remembered, "{cookie}");
    }
}

/// An authentication that is too old must be repeated. The change of the password then ends the
/// other sessions, and the old password is invalid.
#[tokio::test]
async fn changing_the_password_wants_a_fresh_proof_and_ends_the_others() {
    let site = Site::open().await;
    let mut here = site.adas_browser().await;
    let mut there = site.browser();
    there.post("/sign-in", ADA).await;
    age_the_proof(&site).await;

    let refused = here.post("/password", CHANGE).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let sent = here.send(Method::GET, "/password", &NAVIGATION, "").await;
    assert_eq!(location(&sent), "/confirm?next=/password");
    let wrong = here
        .post("/confirm", "password=wrong+horse&next=%2Fpassword")
        .await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let old = here.cookie.clone();
    let confirmed = here
        .post("/confirm", "password=correct+horse&next=%2Fpassword")
        .await;
    assert_eq!(location(&confirmed), "/password");
    assert_ne!(here.cookie, old, "the token is a new one");

    let short = here
        .post("/password", "current=correct+horse&password=short")
        .await;
    assert_eq!(short.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(there.get("/api/me").await.status, StatusCode::OK);
    let wrong = here
        .post("/password", "current=wrong+horse&password=battery+staple")
        .await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let mut copied = here.clone();
    let changed = here.post("/password", CHANGE).await;
    assert_eq!(location(&changed), "/sessions?done=password");
    assert_eq!(copied.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
    // The other session was ended in the application's transaction. It may be cached until the
    // notification arrives, at the latest until the lease has ended.
    let changed = Instant::now();
    while there.get("/api/me").await.status == StatusCode::OK {
        assert!(changed.elapsed() < 2 * DEFAULT_LEASE, "it does not end");
    }
    assert_eq!(there.get("/api/me").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(here.get("/api/me").await.status, StatusCode::OK);
    assert_eq!(
        there.post("/sign-in", ADA).await.status,
        StatusCode::UNAUTHORIZED
    );
    let new = "email=ada%40example.com&password=battery+staple";
    assert_eq!(
        there.post("/sign-in", new).await.status,
        StatusCode::SEE_OTHER
    );
}

/// K04: none of these requests works from another site.
#[tokio::test]
async fn another_site_cannot_touch_sessions_or_passwords() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    for path in [
        "/sessions/end",
        "/sessions/end-others",
        "/confirm",
        "/password",
    ] {
        let from_elsewhere = [("sec-fetch-site", "cross-site")];
        let form = "password=correct+horse&session=x";
        let answer = browser
            .send(Method::POST, path, &from_elsewhere, form)
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
}
