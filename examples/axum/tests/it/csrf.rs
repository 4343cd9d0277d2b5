//! Requests that another site causes have no effect.

use axum::http::{Method, StatusCode};
use tower_user_session::metrics::SessionMetrics;

use crate::support::{ADA, Browser, Site};

/// Signs out with these headers. Returns the status, and whether Ada is still signed in.
async fn sign_out(browser: &mut Browser, headers: &[(&str, &str)]) -> (StatusCode, bool) {
    let cookie = browser.cookie.clone();
    let answer = browser.send(Method::POST, "/sign-out", headers, "").await;
    browser.cookie = cookie;
    let me = browser.get("/api/me").await;
    (answer.status, me.status == StatusCode::OK)
}

const REFUSED: (StatusCode, bool) = (StatusCode::FORBIDDEN, true);
const SIGNED_OUT: (StatusCode, bool) = (StatusCode::SEE_OTHER, false);

/// K01: a link from another site works and changes nothing.
#[tokio::test]
async fn safe_methods_are_allowed() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    for method in [Method::GET, Method::HEAD] {
        let headers = [
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://evil.example"),
        ];
        let answer = browser.send(method, "/account", &headers, "").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let headers = [("sec-fetch-site", "cross-site")];
    let answer = browser
        .send(Method::OPTIONS, "/sign-out", &headers, "")
        .await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(browser.get("/api/me").await.status, StatusCode::OK);
}

/// K02, even if `Origin` differs: `Sec-Fetch-Site` is more reliable than the `Host` of a proxy.
#[tokio::test]
async fn the_same_origin_is_allowed() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let headers = [
        ("sec-fetch-site", "same-origin"),
        ("origin", "https://behind.example"),
    ];
    assert_eq!(sign_out(&mut browser, &headers).await, SIGNED_OUT);
}

/// K03: a request from the address bar or a bookmark.
#[tokio::test]
async fn what_no_site_caused_is_allowed() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let headers = [("sec-fetch-site", "none")];
    assert_eq!(sign_out(&mut browser, &headers).await, SIGNED_OUT);
}

/// K04, even if `Origin` matches.
#[tokio::test]
async fn any_other_site_is_refused() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let origin = format!("http://{}", site.address);
    for said in ["cross-site", "same-site", "anything else"] {
        let headers = [("sec-fetch-site", said)];
        assert_eq!(sign_out(&mut browser, &headers).await, REFUSED);
        let headers = [("sec-fetch-site", said), ("origin", &*origin)];
        assert_eq!(sign_out(&mut browser, &headers).await, REFUSED);
    }
}

/// K05: curl and other programs that are not browsers.
#[tokio::test]
async fn what_is_no_browser_is_allowed() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    assert_eq!(sign_out(&mut browser, &[]).await, SIGNED_OUT);
}

/// K06: an older browser, and a browser over plain http to another host.
#[tokio::test]
async fn an_origin_like_the_host_is_allowed() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let origin = format!("http://{}", site.address);
    assert_eq!(
        sign_out(&mut browser, &[("origin", &origin)]).await,
        SIGNED_OUT
    );
}

/// K07: another host, another port, and `null`.
#[tokio::test]
async fn any_other_origin_is_refused() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    for origin in ["https://evil.example", "http://127.0.0.1:1", "null"] {
        assert_eq!(sign_out(&mut browser, &[("origin", origin)]).await, REFUSED);
    }
}

/// K08: another site cannot sign a user in.
#[tokio::test]
async fn another_site_signs_nobody_in() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    browser.cookie = None;
    let headers = [("sec-fetch-site", "cross-site")];
    let answer = browser.send(Method::POST, "/sign-in", &headers, ADA).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.cookie, None);
}

/// K12: the CSRF layer is outside `LoadUserLayer`.
#[tokio::test]
async fn what_is_refused_costs_no_lookup() {
    let site = Site::open().await;
    let mut browser = site.adas_browser().await;
    let before = site.sessions.metrics();
    let headers = [("sec-fetch-site", "cross-site")];
    let answer = browser.send(Method::POST, "/sign-up", &headers, ADA).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let counts = |metrics: SessionMetrics| {
        let requests = (metrics.authenticated, metrics.anonymous, metrics.rejected);
        (requests, metrics.lookups, metrics.statements)
    };
    assert_eq!(counts(site.sessions.metrics()), counts(before));

    browser.post("/sign-up", ADA).await;
    assert_eq!(site.sessions.metrics().statements, before.statements + 1);
}
