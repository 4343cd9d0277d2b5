//! An impersonation in headless Chromium, controlled by chromedriver.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ephemeral_postgres::{TestDatabase, skip};
use example_session_columns::{App, demonstration, router};
use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use serde_json::json;

use crate::visit::code;

/// The number of polls before a wait fails.
const PATIENCE: u32 = 400;
const MOMENT: Duration = Duration::from_millis(50);

/// The driver. On drop it is killed with its browsers.
struct Driver(Child, u16);

impl Driver {
    /// Returns `None` if chromedriver is not installed.
    async fn start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let driver = Self(command.spawn().ok()?, port);
        for _ in 0..PATIENCE {
            if tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
            {
                return Some(driver);
            }
            tokio::time::sleep(MOMENT).await;
        }
        panic!("chromedriver does not answer");
    }

    async fn browser(&self) -> Client {
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ];
        let options = json!({ "goog:chromeOptions": { "args": args } });
        let connector = hyper_util::client::legacy::connect::HttpConnector::new();
        let mut builder = ClientBuilder::new(connector);
        builder.capabilities(options.as_object().unwrap().clone());
        let url = format!("http://127.0.0.1:{}", self.1);
        builder.connect(&url).await.unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Finds an element of a page that can still be loading.
async fn find(browser: &Client, css: &str) -> Element {
    for _ in 0..PATIENCE {
        if let Ok(element) = browser.find(Locator::Css(css)).await {
            return element;
        }
        tokio::time::sleep(MOMENT).await;
    }
    panic!("there is no {css}: {}", browser.source().await.unwrap());
}

/// Fills the fields of the form with this action, submits it and waits until the page is left.
async fn submit(browser: &Client, action: &str, fields: &[(&str, &str)]) {
    let form = format!("form[action='{action}']");
    for (name, value) in fields {
        let field = find(browser, &format!("{form} [name={name}]")).await;
        field.send_keys(value).await.unwrap();
    }
    let button = find(browser, &format!("{form} button")).await;
    button.click().await.unwrap();
    for _ in 0..PATIENCE {
        if button.text().await.is_err() {
            return;
        }
        tokio::time::sleep(MOMENT).await;
    }
    panic!("submitting {action} has no effect");
}

async fn cookies(browser: &Client) -> Vec<String> {
    let cookies = browser.get_all_cookies().await.unwrap();
    let mut names: Vec<_> = cookies
        .iter()
        .map(|cookie| cookie.name().to_owned())
        .collect();
    names.sort_unstable();
    names
}

/// The text of the element in the middle of the top edge of the window.
const AT_THE_TOP: &str = "return document.elementFromPoint(innerWidth / 2, 5).textContent";

/// P04: an administrator with a second factor acts as a user, sees the banner at the top of each
/// page, also after scrolling, and returns.
#[tokio::test]
async fn an_administrator_acts_as_a_user_and_returns() {
    let Some(driver) = Driver::start().await else {
        let name = "browser::an_administrator_acts_as_a_user_and_returns";
        return skip(name, "there is no chromedriver");
    };
    let database = TestDatabase::create("").await;
    let app = App::open(database.config()).await.unwrap();
    demonstration(&app).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async { axum::serve(listener, router(app)).await.unwrap() });

    let browser = driver.browser().await;
    browser.goto(&site).await.unwrap();
    let ada = [("email", "ada@example.com"), ("password", "correct horse")];
    submit(&browser, "/sign-in", &ada).await;
    // The page with payments leads to the page for the code.
    browser.goto(&format!("{site}/payments")).await.unwrap();
    submit(&browser, "/code", &[("code", &code(0))]).await;
    find(&browser, "h1").await;
    assert!(browser.current_url().await.unwrap().path() == "/payments");
    assert_eq!(cookies(&browser).await, ["__Host-session"]);

    browser.goto(&site).await.unwrap();
    submit(&browser, "/impersonate", &[("email", "eve@example.com")]).await;
    let banner = find(&browser, "#impersonation").await;
    assert!(banner.is_displayed().await.unwrap());
    assert_eq!(cookies(&browser).await, ["__Host-admin", "__Host-session"]);
    // No script can read either cookie.
    let visible = browser.execute("return document.cookie", vec![]).await;
    assert_eq!(visible.unwrap(), json!(""));
    let scroll = "document.body.style.height = '9000px'; scrollTo(0, 5000)";
    browser.execute(scroll, vec![]).await.unwrap();
    let top = browser.execute(AT_THE_TOP, vec![]).await.unwrap();
    let acts = "ada@example.com acts as eve@example.com.";
    assert!(top.as_str().unwrap().contains(acts), "{top}");

    submit(&browser, "/impersonate/stop", &[]).await;
    let main = find(&browser, "main").await.text().await.unwrap();
    assert!(main.contains("Signed in as ada@example.com."), "{main}");
    assert_eq!(cookies(&browser).await, ["__Host-session"]);
    assert!(browser.find(Locator::Css("#impersonation")).await.is_err());
    browser.close().await.unwrap();
}
