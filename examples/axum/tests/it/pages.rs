//! The pages as a product: names of clients, errors, limits, and the address behind a proxy.

use axum::http::{Method, StatusCode, header};
use axum_client_ip::ClientIpSource;
use ephemeral_postgres::{Server, StopMode, TestDatabase};
use example_application::Application;

use crate::support::{ADA, Answer, Browser, Site};

const CHROME: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Safari/537.36";

/// Returns the text between two tags that follow each other, without the tags.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let rest = page.split(before).nth(1).unwrap();
    rest.split(after).next().unwrap()
}

/// The list names the browser and the system. The raw text is in the details.
#[tokio::test]
async fn a_session_is_named_after_its_client_and_the_current_one_is_first() {
    let site = Site::open().await;
    let mut here = site.browser();
    let agent = [("user-agent", CHROME)];
    here.send(Method::POST, "/sign-up", &agent, ADA).await;
    let mut there = site.browser();
    let agent = [("user-agent", "curl/8.10.1")];
    there.send(Method::POST, "/sign-in", &agent, ADA).await;

    for (browser, first) in [(&mut here, "Chrome on Linux"), (&mut there, "curl")] {
        let page = browser.get("/sessions").await.body;
        let names = page
            .split("<h2>")
            .skip(1)
            .map(|rest| rest.split(['<', '\n']).next().unwrap());
        let names: Vec<_> = names.map(str::trim).collect();
        assert_eq!(names.len(), 3, "{page}");
        assert_eq!((names[0], names[2]), (first, "Recent activity"));
        let visible = page.split("<details>").next().unwrap();
        assert!(!visible.contains("AppleWebKit") && page.contains("AppleWebKit"));
    }
}

/// Errors of the API are problem details. Errors of pages are pages.
#[tokio::test]
async fn an_error_has_the_format_of_its_route() {
    let server = Server::start_private(&[]).unwrap();
    let application = Application::open(server.config()).await.unwrap();
    let site = Site::serve(application).await;
    let mut browser = site.adas_browser().await;
    let mut visitor = site.browser();
    let foreign = [("sec-fetch-site", "cross-site")];
    let check = |answer: &Answer, status: StatusCode, page: &str| {
        assert_eq!(answer.status, status);
        let content_type = answer.headers[header::CONTENT_TYPE].to_str().unwrap();
        if page.is_empty() {
            assert_eq!(content_type, "application/problem+json");
            let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(problem["status"], status.as_u16());
            assert!(!problem["detail"].as_str().unwrap().is_empty());
        } else {
            assert_eq!(content_type, "text/html; charset=utf-8");
            let heading = between(&answer.body, "<h1>", "</h1>");
            assert_eq!(heading, page);
        }
    };
    for (path, status, page) in [
        ("/api/me", StatusCode::UNAUTHORIZED, ""),
        ("/api/nothing", StatusCode::NOT_FOUND, ""),
        ("/account", StatusCode::UNAUTHORIZED, "Please sign in"),
        ("/nothing", StatusCode::NOT_FOUND, "Page not found"),
        ("/sign-out", StatusCode::METHOD_NOT_ALLOWED, "Not possible"),
    ] {
        check(&visitor.get(path).await, status, page);
    }
    for (path, page) in [("/api/me", ""), ("/sign-in", "Request blocked")] {
        let answer = visitor.send(Method::POST, path, &foreign, ADA).await;
        check(&answer, StatusCode::FORBIDDEN, page);
    }
    let answer = browser.get("/nothing").await;
    check(&answer, StatusCode::NOT_FOUND, "Page not found");
    assert!(answer.body.contains("ada@example.com"), "who is signed in");
    server.stop(StopMode::Immediate).unwrap();
    for (path, page) in [("/api/me", ""), ("/account", "Back in a moment")] {
        let answer = browser.get(path).await;
        check(&answer, StatusCode::SERVICE_UNAVAILABLE, page);
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
    }
}

/// The limits apply to one email address and to one client. The right password is limited too.
#[tokio::test]
async fn guesses_of_a_password_are_limited() {
    let site = Site::open().await;
    site.adas_browser().await;
    let mut browser = site.browser();
    let guess = "email=ada%40example.com&password=x";
    let limited = until_limited(&mut browser, guess, 22).await;
    let wait = limited.headers[header::RETRY_AFTER].to_str().unwrap();
    let wait: u64 = wait.parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert!(limited.body.contains("Too many attempts."));
    assert!(
        limited.body.contains("ada@example.com"),
        "the form keeps the email"
    );
    let answer = browser.post("/sign-in", ADA).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    // Another email address, from the same client.
    let guess = "email=eve%40example.com&password=x";
    until_limited(&mut browser, guess, 15).await;
}

/// Sends the form until the response is 429, which must be one of the first `most` responses.
async fn until_limited(browser: &mut Browser, form: &str, most: usize) -> Answer {
    for _ in 0..most {
        let answer = browser.post("/sign-in", form).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return answer;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    panic!("{most} guesses are possible");
}

/// A header counts only if the operator has named it.
#[tokio::test]
async fn the_address_behind_a_proxy_is_that_of_the_client() {
    let claimed = [("x-real-ip", "192.0.2.7")];
    for (source, address) in [
        (ClientIpSource::ConnectInfo, "127.0.0.1"),
        (ClientIpSource::XRealIp, "192.0.2.7"),
    ] {
        let database = TestDatabase::create("").await;
        let application = Application::open(database.config()).await.unwrap();
        let site = Site::serve_behind(source, application).await;
        let mut browser = site.browser();
        browser.send(Method::POST, "/sign-up", &claimed, ADA).await;
        let page = browser.get("/sessions").await.body;
        assert!(page.contains(address), "{page}");
        assert_eq!(page.contains("192.0.2.7"), address == "192.0.2.7");
    }
}
