//! A visit to the site: a table of rules has one visit a line.

use std::collections::BTreeMap;

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use ephemeral_postgres::TestDatabase;
use example_session_columns::{App, SECRET, demonstration, router};
use http_body_util::BodyExt as _;
use totp_rs::Builder;
use tower::ServiceExt as _;

/// One step of a visit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Signs in with the right password.
    SignIn(&'static str),
    /// Sends a new code.
    Code,
    /// Sends the last code again.
    SameCode,
    /// Sends a code that was valid five minutes ago.
    OldCode,
    Get(&'static str),
    Post(&'static str, &'static str),
    Sql(&'static str),
    /// Stores the cookies of the browser.
    Remember,
    /// Replaces the cookies by the stored ones.
    Recall,
    /// Deletes the cookies.
    Forget,
    /// Replaces the cookie of this name by the stored cookie of that name.
    Swap(&'static str, &'static str),
}

/// A rule: its name, the steps before, the step that it is about, the status of its response, a text
/// of the home page afterwards, and the number of sessions that are left.
pub(crate) type Rule = (&'static str, &'static [Act], Act, u16, &'static str, i64);

pub(crate) async fn check(rules: &[Rule]) {
    for (name, before, act, status, home, sessions) in rules {
        let mut visit = Visit::begin().await;
        for act in *before {
            let status = visit.act(*act).await;
            assert!(status < 400, "{name}: {act:?} yields {status}");
        }
        assert_eq!(visit.act(*act).await, *status, "{name}");
        let (_, page) = visit.send(Method::GET, "/", "").await;
        assert!(page.contains(home), "{name}: {page}");
        let count = "SELECT count(*) FROM sessions";
        let left = visit.database.client().await.query_one(count, &[]).await;
        assert_eq!(left.unwrap().get::<_, i64>(0), *sessions, "{name}");
    }
}

pub(crate) struct Visit {
    pub(crate) database: TestDatabase,
    router: Router,
    cookies: BTreeMap<String, String>,
    remembered: BTreeMap<String, String>,
    code: String,
}

impl Visit {
    /// Opens the site, with the users of the demonstration and one more.
    pub(crate) async fn begin() -> Self {
        let database = TestDatabase::create("").await;
        let app = App::open(database.config()).await.unwrap();
        demonstration(&app).await.unwrap();
        Self {
            router: router(app),
            database,
            cookies: BTreeMap::new(),
            remembered: BTreeMap::new(),
            code: String::new(),
        }
    }

    /// Takes a step and returns the status of the response.
    pub(crate) async fn act(&mut self, act: Act) -> u16 {
        match act {
            Act::SignIn(name) => {
                let form = format!("email={name}%40example.com&password=correct+horse");
                self.post("/sign-in", &form).await
            }
            Act::Code => {
                // The last code of the test may be of the same time step.
                self.sql("UPDATE users SET totp_step = 0").await;
                self.code = code(0);
                self.send_code().await
            }
            Act::SameCode => self.send_code().await,
            Act::OldCode => {
                self.code = code(300);
                self.send_code().await
            }
            Act::Get(path) => self.send(Method::GET, path, "").await.0.as_u16(),
            Act::Post(path, form) => self.post(path, form).await,
            Act::Sql(statement) => {
                self.sql(statement).await;
                200
            }
            Act::Remember => {
                self.remembered.clone_from(&self.cookies);
                200
            }
            Act::Recall => {
                self.cookies.clone_from(&self.remembered);
                200
            }
            Act::Forget => {
                self.cookies.clear();
                200
            }
            Act::Swap(cookie, stored) => {
                let value = self.remembered[stored].clone();
                self.cookies.insert(cookie.to_owned(), value);
                200
            }
        }
    }

    async fn send_code(&mut self) -> u16 {
        let form = format!("code={}", self.code);
        self.post("/code", &form).await
    }

    async fn sql(&self, statement: &str) {
        let client = self.database.client().await;
        client.batch_execute(statement).await.unwrap();
    }

    async fn post(&mut self, path: &str, form: &str) -> u16 {
        self.send(Method::POST, path, form).await.0.as_u16()
    }

    /// Sends a request with the cookies, and stores the cookies of the response as a browser does.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        form: &str,
    ) -> (StatusCode, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in &self.cookies {
            request = request.header(header::COOKIE, format!("{name}={value}"));
        }
        let request = request.body(Body::from(form.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie::Cookie::parse(cookie.to_str().unwrap().to_owned()).unwrap();
            let secure = [cookie.secure(), cookie.http_only()];
            let name = cookie.name().to_owned();
            assert!(name.starts_with("__Host-") && cookie.domain().is_none());
            assert_eq!(cookie.path(), Some("/"));
            if cookie.value().is_empty() {
                self.cookies.remove(&name);
            } else {
                assert_eq!(secure, [Some(true), Some(true)], "{name}");
                self.cookies.insert(name, cookie.value().to_owned());
            }
        }
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

/// The code of this many seconds ago.
pub(crate) fn code(seconds_ago: u64) -> String {
    let totp = Builder::new().with_secret(SECRET).build().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    totp.generate(now.unwrap().as_secs() - seconds_ago)
        .to_string()
}
