//! The pages in a real browser: headless Chromium, controlled by chromedriver.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ephemeral_postgres::skip;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::json;

use crate::support::Site;

/// The number of polls before a wait fails.
const PATIENCE: u32 = 400;
const MOMENT: Duration = Duration::from_millis(50);

/// The driver. On drop it is killed with its browsers, no matter how the test ends.
pub(crate) struct Driver {
    process: Child,
    url: String,
}

impl Driver {
    /// Returns `None` if chromedriver is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let driver = Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
        };
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

    /// Starts a new browser without cookies.
    async fn browser(&self) -> Browser {
        Browser(self.window(&[]).await)
    }

    /// Starts a new browser with more arguments.
    pub(crate) async fn window(&self, more: &[&str]) -> Client {
        let mut args = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ];
        args.extend(more);
        let options = json!({ "goog:chromeOptions": { "args": args } });
        let capabilities = options.as_object().unwrap().clone();
        let mut builder =
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Browser(Client);

impl Browser {
    async fn open(&self, site: &Site, path: &str) {
        self.0
            .goto(&format!("http://{}{path}", site.address))
            .await
            .unwrap();
    }

    async fn fill(&self, field: &str, text: &str) {
        self.0
            .find(Locator::Id(field))
            .await
            .unwrap()
            .send_keys(text)
            .await
            .unwrap();
    }

    /// Presses the button or the link with this text or title, and waits until the page is left.
    async fn press(&self, text: &str) {
        let path = format!(
            "//*[(self::button or self::a) and descendant-or-self::*[normalize-space()='{text}']]"
        );
        let pressed = self.0.find(Locator::XPath(&path)).await.unwrap();
        pressed.click().await.unwrap();
        for _ in 0..PATIENCE {
            if pressed.text().await.is_err() {
                return;
            }
            tokio::time::sleep(MOMENT).await;
        }
        panic!("nothing comes of pressing {text}");
    }

    async fn path(&self) -> String {
        self.0.current_url().await.unwrap().path().to_owned()
    }

    async fn heading(&self) -> String {
        self.read("h1").await
    }

    async fn text(&self) -> String {
        self.read("main").await
    }

    /// Returns the text of the page, which can still be loading.
    async fn read(&self, css: &str) -> String {
        for _ in 0..PATIENCE {
            if let Ok(element) = self.0.find(Locator::Css(css)).await
                && let Ok(text) = element.text().await
            {
                return text;
            }
            tokio::time::sleep(MOMENT).await;
        }
        panic!("there is no {css}");
    }

    /// Waits until the page contains this text, without a reload.
    async fn wait_for(&self, text: &str) {
        for _ in 0..PATIENCE {
            if self.text().await.contains(text) {
                return;
            }
            tokio::time::sleep(MOMENT).await;
        }
        panic!("{text} does not come: {}", self.text().await);
    }

    /// Marks the page. A reload removes the mark.
    async fn mark(&self) {
        self.0.execute("window.mark = 1", vec![]).await.unwrap();
    }

    async fn is_marked(&self) -> bool {
        let mark = self.0.execute("return window.mark === 1", vec![]).await;
        mark.unwrap() == json!(true)
    }

    async fn sign_in(&self, password: &str) {
        self.fill("email", "ada@example.com").await;
        self.fill("password", password).await;
        self.press("Sign in").await;
    }

    /// Returns the expiry of the session cookie, if there is a cookie and if it has an expiry.
    async fn cookie(&self) -> Option<bool> {
        let cookies = self.0.get_all_cookies().await.unwrap();
        cookies
            .iter()
            .find(|cookie| cookie.name() == "session")
            .map(|c| c.expires().is_some())
    }
}

/// H01, H10: sign-up, sign-in, a second device that the first one signs out, a change of the
/// password, sign-out, and the Back button after it.
#[tokio::test]
async fn a_person_lives_with_their_sessions() {
    let Some(driver) = Driver::start().await else {
        return skip(
            "browser::a_person_lives_with_their_sessions",
            "there is no chromedriver",
        );
    };
    let site = Site::open().await;
    let laptop = driver.browser().await;
    let phone = driver.browser().await;

    // Redirected to the sign-in page, without an account.
    laptop.open(&site, "/account").await;
    assert_eq!(laptop.path().await, "/sign-in");
    laptop.press("Sign up").await;
    laptop.fill("email", "ada@example.com").await;
    laptop.fill("password", "correct horse").await;
    laptop.press("Sign up").await;
    assert!(laptop.text().await.contains("ada@example.com"));
    assert_eq!(laptop.cookie().await, Some(false), "the sign-up signs in");
    laptop.press("Sign out").await;
    laptop.open(&site, "/sign-in").await;
    laptop.sign_in("wrong horse").await;
    assert!(
        laptop
            .text()
            .await
            .contains("The email or the password is wrong.")
    );
    assert_eq!(laptop.cookie().await, None);
    laptop.fill("password", "correct horse").await;
    laptop.press("Sign in").await;
    assert!(laptop.text().await.contains("ada@example.com"));
    assert_eq!(
        laptop.cookie().await,
        Some(false),
        "it goes with the browser's session"
    );

    // A second device, with "remember me" and a page to return to.
    phone.open(&site, "/sessions").await;
    assert_eq!(phone.heading().await, "Sign in");
    phone
        .0
        .find(Locator::Css("input[type=checkbox]"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    phone.sign_in("correct horse").await;
    assert_eq!(phone.path().await, "/sessions");
    assert_eq!(
        phone.cookie().await,
        Some(true),
        "it stays when the browser is closed"
    );

    // The first device ends the session.
    laptop.press("Account").await;
    laptop.press("Manage sessions").await;
    assert!(laptop.text().await.contains("This session"));
    laptop.press("End session").await;
    assert!(!laptop.text().await.contains("End session"));
    phone.0.refresh().await.unwrap();
    assert_eq!(phone.path().await, "/sign-in");
    phone.sign_in("correct horse").await;
    assert_eq!(phone.path().await, "/sessions");
    laptop.wait_for("End session").await;

    // A new password, after a re-authentication.
    let client = site.database.as_ref().unwrap().client().await;
    let age = "UPDATE sessions SET authenticated_at = now() - interval '6 minutes'";
    client.execute(age, &[]).await.unwrap();
    laptop.press("Account").await;
    laptop.press("Change password").await;
    assert_eq!(laptop.heading().await, "Confirm your password");
    laptop.fill("password", "correct horse").await;
    laptop.press("Confirm").await;
    assert_eq!(laptop.heading().await, "Change your password");
    laptop.fill("current", "correct horse").await;
    laptop.fill("password", "battery staple").await;
    laptop.press("Change password").await;
    assert_eq!(laptop.heading().await, "Sessions");
    phone.0.refresh().await.unwrap();
    assert_eq!(phone.path().await, "/sign-in");
    phone.sign_in("correct horse").await;
    assert!(
        phone
            .text()
            .await
            .contains("The email or the password is wrong.")
    );

    // Sign-out. The Back button shows no data of the account.
    laptop.press("Account").await;
    assert!(laptop.text().await.contains("ada@example.com"));
    laptop.press("Sign out").await;
    assert!(laptop.text().await.contains("Create an account"));
    assert_eq!(laptop.cookie().await, None);
    laptop.0.back().await.unwrap();
    assert_eq!(laptop.heading().await, "Sign in");
    assert!(!laptop.text().await.contains("ada@example.com"));

    for browser in [laptop, phone] {
        browser.0.close().await.unwrap();
    }
}

/// O04: a form that is sent after the session has ended leads to a page that explains it, and back.
#[tokio::test]
async fn a_form_that_was_not_sent_is_explained() {
    let name = "browser::a_form_that_was_not_sent_is_explained";
    let Some(driver) = Driver::start().await else {
        return skip(name, "there is no chromedriver");
    };
    let site = Site::open().await;
    site.adas_browser().await;
    let window = driver.browser().await;
    window.open(&site, "/sign-in?next=/password").await;
    window.sign_in("correct horse").await;
    assert_eq!(window.heading().await, "Change your password");
    window.fill("current", "correct horse").await;
    window.fill("password", "battery staple").await;
    site.sessions.revoke_all(&1).await.unwrap();
    window.press("Change password").await;
    assert_eq!(window.heading().await, "Sign in");
    assert!(window.text().await.contains("Your form was not sent."));
    // Nothing has changed, and the user returns to the form.
    window.sign_in("correct horse").await;
    assert_eq!(window.path().await, "/password");
    assert_eq!(window.heading().await, "Change your password");

    // The same if the authentication is too old.
    let client = site.database.as_ref().unwrap().client().await;
    let age = "UPDATE sessions SET authenticated_at = now() - interval '6 minutes'";
    window.fill("current", "correct horse").await;
    window.fill("password", "battery staple").await;
    client.execute(age, &[]).await.unwrap();
    window.press("Change password").await;
    assert_eq!(window.heading().await, "Confirm your password");
    assert!(window.text().await.contains("Your form was not sent."));
    window.fill("password", "correct horse").await;
    window.press("Confirm").await;
    assert_eq!(window.path().await, "/password");
    window.0.close().await.unwrap();
}

/// O05: another application on the host has set a cookie of the same name for a path. A dead token
/// in it does no harm. A live one makes the request ambiguous.
#[tokio::test]
async fn another_cookie_of_the_same_name_does_no_harm() {
    let name = "browser::another_cookie_of_the_same_name_does_no_harm";
    let Some(driver) = Driver::start().await else {
        return skip(name, "there is no chromedriver");
    };
    let site = Site::open().await;
    let other = site.adas_browser().await;
    let window = driver.browser().await;
    window.open(&site, "/sign-in?next=/account").await;
    window.sign_in("correct horse").await;
    let plant = async |value: &str| {
        let script = format!("document.cookie = 'session={value}; Path=/account'");
        window.0.execute(&script, vec![]).await.unwrap();
        window.open(&site, "/account").await;
        window.path().await
    };
    assert_eq!(plant("eyJ1c2VyIjoxfQ").await, "/account");
    let dead = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    assert_eq!(plant(dead).await, "/account");
    assert!(window.text().await.contains("ada@example.com"));
    let live = other.cookie.clone().unwrap();
    let live = live.strip_prefix("session=").unwrap();
    assert_eq!(plant(live).await, "/sign-in");
    let mut other = other;
    other.post("/sign-out", "").await;
    window.open(&site, "/account").await;
    assert_eq!(window.path().await, "/account");
    window.0.close().await.unwrap();
}

/// H17: a page shows at once that another process has ended its session, and the list of sessions
/// is updated, without a reload.
#[tokio::test]
async fn a_window_notices_that_another_one_signed_it_out() {
    let name = "browser::a_window_notices_that_another_one_signed_it_out";
    let Some(driver) = Driver::start().await else {
        return skip(name, "there is no chromedriver");
    };
    let site = Site::open().await;
    let elsewhere = site.beside().await;
    site.adas_browser().await;
    let (here, there) = (driver.browser().await, driver.browser().await);
    for (window, site, path) in [
        (&here, &site, "/sessions"),
        (&there, &elsewhere, "/account"),
    ] {
        window.open(site, &format!("/sign-in?next={path}")).await;
        window.sign_in("correct horse").await;
        assert_eq!(window.path().await, path);
        window.mark().await;
    }

    // One of the three sessions is not a window.
    let listed = "return document.querySelectorAll('.sessions li').length";
    let mut count = json!(0);
    for _ in 0..PATIENCE {
        count = here.0.execute(listed, vec![]).await.unwrap();
        if count == json!(3) {
            break;
        }
        tokio::time::sleep(MOMENT).await;
    }
    assert_eq!(count, json!(3));
    assert!(here.is_marked().await, "the list came with another page");

    here.press("Sign out everywhere else").await;
    there
        .wait_for("You were signed out on another device")
        .await;
    assert!(there.is_marked().await, "the text came with another page");
    assert_eq!(there.heading().await, "Signed out");
    assert!(!there.read("body").await.contains("ada@example.com"));
    assert!(!here.text().await.contains("End session"));
    there.press("Sign in").await;
    there.sign_in("correct horse").await;
    assert!(there.text().await.contains("ada@example.com"));

    // The stream breaks. When the browser reconnects, the session has ended.
    there.0.execute("events.close()", vec![]).await.unwrap();
    site.sessions.revoke_all(&1).await.unwrap();
    here.wait_for("You were signed out on another device").await;
    there.0.execute("listen()", vec![]).await.unwrap();
    there.wait_for("You are signed out.").await;

    for browser in [here, there] {
        browser.0.close().await.unwrap();
    }
}
