//! Several cookies of one name: after a change of the `Domain`, beside another application, and
//! partitioned.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, Request, Response, StatusCode, header};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    Error, ErrorKind, LoadUserLayer, SessionService, SignedIn, SignedOut,
    cookie::SessionCookie,
    rejection::Rejection,
    session::{SessionToken, TokenDigest},
    store::{LookupResult, MemorySessionStore, SessionLookup},
};

use crate::support::{Logs, MemorySessions, User, cookie_lines, reference::browser::Browser};

fn with(cookie: SessionCookie) -> MemorySessions {
    let store = MemorySessionStore::new();
    store.add_user(1, User::ada());
    store.add_user(2, User::eve());
    SessionService::builder(store)
        .cookie(cookie)
        .build()
        .unwrap()
}

fn partitioned() -> SessionCookie {
    let cookie = SessionCookie::default().same_site_none().unwrap();
    cookie.partitioned().unwrap()
}

/// Cookies of which a browser can hold several of one name.
fn several() -> Vec<SessionCookie> {
    vec![
        SessionCookie::insecure_for_local_development(),
        SessionCookie::insecure_for_local_development_named("sid").unwrap(),
        SessionCookie::shared_with_subdomains("sid", "example.com").unwrap(),
        partitioned(),
    ]
}

/// Cookies of which a browser holds one.
fn single() -> Vec<SessionCookie> {
    vec![
        SessionCookie::default(),
        SessionCookie::named("sid").unwrap(),
        SessionCookie::default().same_site_none().unwrap(),
    ]
}

/// Sends one request through the layer and returns who is signed in.
async fn seen<L: SessionLookup<User = User>>(
    sessions: &SessionService<L>,
    headers: HeaderMap,
) -> Response<String> {
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(|request: Request<String>| async move {
            let user = request.extensions().get::<User>();
            let email = user.map_or("anonymous".to_owned(), |user| user.email.clone());
            Ok::<_, Infallible>(Response::new(email))
        });
    let mut request = Request::new(String::new());
    *request.headers_mut() = headers;
    app.oneshot(request).await.unwrap()
}

/// One value in a `Cookie` header.
#[derive(Clone, Copy, Debug)]
enum Value {
    Ada,
    AdaElsewhere,
    Eve,
    Dead(usize),
    Foreign(usize),
}

/// A service with a value of each kind.
struct Values {
    sessions: MemorySessions,
    live: [SessionToken; 3],
    dead: Vec<SessionToken>,
}

impl Values {
    async fn new(cookie: SessionCookie) -> Self {
        let sessions = with(cookie);
        let mut live = Vec::new();
        for user in [1, 1, 2] {
            let signed_in = sessions.sign_in_without_request(user).await.unwrap();
            live.push(SessionToken::parse(signed_in.token().expose().as_bytes()).unwrap());
        }
        let dead = (0..10).map(|_| SessionToken::generate().unwrap());
        Self {
            live: live.try_into().unwrap(),
            dead: dead.collect(),
            sessions,
        }
    }

    fn text(&self, value: Value) -> String {
        match value {
            Value::Ada => self.live[0].expose(),
            Value::AdaElsewhere => self.live[1].expose(),
            Value::Eve => self.live[2].expose(),
            Value::Dead(n) => self.dead[n].expose(),
            Value::Foreign(n) => format!("eyJ1c2VyIjp7ImlkIjo{n}fX0"),
        }
    }

    fn headers(&self, values: &[Value]) -> HeaderMap {
        let name = self.sessions.cookie().name();
        let pairs = values
            .iter()
            .map(|value| format!("{name}={}", self.text(*value)));
        cookie_lines([pairs.collect::<Vec<_>>().join("; ")])
    }
}

/// O05, A16: under a name without `__Host-`, and for a partitioned cookie, a request is accepted if
/// exactly one of its sessions is live, in any order. All are looked up in one statement.
#[tokio::test]
async fn exactly_one_live_session_is_accepted() {
    use Value::{Ada, AdaElsewhere, Dead, Eve, Foreign};
    let seven_dead = [1, 2, 3, 4, 5, 6, 7].map(Dead);
    let eight = [&[Ada][..], &seven_dead].concat();
    let nine = [&eight[..], &[Dead(8)]].concat();
    let nine_with_foreign = [&eight[..], &[Foreign(1)]].concat();
    let foreign: Vec<_> = (0..7).map(Foreign).chain([Eve]).collect();
    let repeated = [Ada, Dead(0), Ada, Ada, Dead(0), Ada, Dead(0), Ada, Ada, Ada];
    for (values, user, statements) in [
        (&[Ada][..], Some("ada@example.com"), 1),
        (&[Ada, Dead(0)], Some("ada@example.com"), 1),
        (&[Ada, Dead(0), Dead(1)], Some("ada@example.com"), 1),
        (&[Eve, Foreign(0)], Some("eve@example.com"), 1),
        (&[Eve, Foreign(0), Dead(0)], Some("eve@example.com"), 1),
        (&eight, Some("ada@example.com"), 1),
        (&foreign, Some("eve@example.com"), 1),
        (&repeated, Some("ada@example.com"), 1),
        (&[Ada, Eve], None, 1),
        (&[Ada, AdaElsewhere], None, 1),
        (&[Ada, AdaElsewhere, Dead(0)], None, 1),
        (&[Dead(0), Dead(1)], None, 1),
        (&[Foreign(0), Foreign(1)], None, 0),
        (&nine, None, 0),
        (&nine_with_foreign, None, 0),
    ] {
        for cookie in several() {
            let reversed: Vec<_> = values.iter().rev().copied().collect();
            for values in [values, &reversed] {
                let values_of = Values::new(cookie.clone()).await;
                let sessions = &values_of.sessions;
                let response = seen(sessions, values_of.headers(values)).await;
                let case = format!("{} {values:?}", cookie.name());
                assert_eq!(response.body(), user.unwrap_or("anonymous"), "{case}");
                let counts = sessions.metrics();
                assert_eq!(counts.statements, statements, "{case}");
                assert_eq!(counts.authenticated, u64::from(user.is_some()), "{case}");
                assert_eq!(counts.rejected, u64::from(user.is_none()), "{case}");
            }
        }
    }
}

/// O05, A16: under a name with `__Host-`, different values stay ambiguous and make no lookup.
#[tokio::test]
async fn host_prefixed_names_accept_one_value_only() {
    for cookie in single() {
        let values = Values::new(cookie).await;
        for second in [Value::Dead(0), Value::Eve, Value::Foreign(0)] {
            let headers = values.headers(&[Value::Ada, second]);
            assert_eq!(seen(&values.sessions, headers).await.body(), "anonymous");
        }
        assert_eq!(values.sessions.metrics().statements, 0);
        assert_eq!(values.sessions.metrics().rejected, 3);
    }
}

/// O05: two live sessions log one security event, like every other ambiguous request.
#[tokio::test]
async fn two_live_sessions_are_reported() {
    let logs = Logs::capture();
    let values = Values::new(SessionCookie::insecure_for_local_development()).await;
    let headers = values.headers(&[Value::Ada, Value::Eve]);
    let _ = seen(&values.sessions, headers).await;
    let events = logs.events();
    let ambiguous = events.iter().filter(|line| line.contains("ambiguous"));
    assert_eq!(ambiguous.count(), 1, "{events:?}");
}

/// O05: only the accepted session counts as used.
#[tokio::test]
async fn only_the_accepted_session_counts_as_used() {
    use Value::{Ada, AdaElsewhere, Dead};
    for (values, used) in [
        (&[Ada][..], true),
        (&[Ada, Dead(0)], true),
        (&[Ada, AdaElsewhere], false),
    ] {
        let values_of = Values::new(SessionCookie::insecure_for_local_development()).await;
        let sessions = &values_of.sessions;
        let before = sessions.sessions_of(&1).await.unwrap();
        sessions.store().advance(Duration::from_secs(60 * 60));
        let _ = seen(sessions, values_of.headers(values)).await;
        sessions.close().await;
        let after = sessions.sessions_of(&1).await.unwrap();
        let touched = after.iter().filter(|session| {
            let same = before
                .iter()
                .find(|before| before.id == session.id)
                .unwrap();
            same.last_seen_at != session.last_seen_at
        });
        assert_eq!(touched.count(), usize::from(used), "{values:?}");
    }
}

/// A store in which one digest cannot be read.
struct OneBadRow(MemorySessionStore<i64, User>, TokenDigest);

impl SessionLookup for OneBadRow {
    type User = User;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<User>>, Error> {
        let mut answers = self.0.find(digests).await?;
        for answer in &mut answers {
            if answer.digest() == self.1 {
                let error = Error::new(ErrorKind::Decode, "made up");
                *answer = LookupResult::failed(self.1, error);
            }
        }
        Ok(answers)
    }
}

/// O05: if one of the lookups fails, the request is rejected with 503, because that session could
/// be live too.
#[tokio::test]
async fn one_failed_lookup_rejects_the_request() {
    let values = Values::new(SessionCookie::insecure_for_local_development()).await;
    let headers = values.headers(&[Value::Ada, Value::Dead(0)]);
    values.sessions.store().set_failing(true);
    let response = seen(&values.sessions, headers).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);

    let store = MemorySessionStore::new();
    store.add_user(1, User::ada());
    let ada = SessionService::new(store).cookie_for(1).await.unwrap();
    let ada = ada.to_str().unwrap().split_once('=').unwrap().1.to_owned();
    let bad = SessionToken::generate().unwrap();
    let store = OneBadRow(MemorySessionStore::new(), bad.digest());
    let sessions = SessionService::builder(store)
        .cookie(SessionCookie::insecure_for_local_development())
        .build()
        .unwrap();
    let headers = cookie_lines([format!("session={ada}; session={}", bad.expose())]);
    let response = seen(&sessions, headers).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.error().unwrap().kind(), ErrorKind::Decode);
}

fn signed_in(signed_in: &SignedIn) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed_in.write_to(&mut headers);
    headers
}

fn signed_out(signed_out: &SignedOut) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed_out.write_to(&mut headers);
    headers
}

const HOST: &str = "app.example.com";

/// O05: after a change of the `Domain`, a browser sends the old cookie and the new one. Signing in
/// again resolves this even if both sessions are live. With `former_domain` the old cookie is
/// removed.
#[tokio::test]
async fn a_domain_can_be_changed() {
    for named in [false, true] {
        let mut after = SessionCookie::shared_with_subdomains("sid", HOST).unwrap();
        if named {
            after = after.former_domain("example.com").unwrap();
        }
        let new = with(after);
        // Set by an earlier version of the application that shared its cookie with more subdomains.
        let old_in_new = new.sign_in_without_request(1).await.unwrap();
        let mut browser = Browser::default();
        let text = format!(
            "__Secure-sid={}; Domain=example.com; Path=/; Secure",
            old_in_new.token().expose()
        );
        browser.store(HOST, true, text.as_bytes()).unwrap();
        assert_eq!(
            seen(&new, browser.request(HOST)).await.body(),
            "ada@example.com"
        );

        // A second live session, in the cookie of the new domain.
        let second = new.sign_in_without_request(1).await.unwrap();
        let text = format!(
            "__Secure-sid={}; Domain={HOST}; Path=/; Secure",
            second.token().expose()
        );
        browser.store(HOST, true, text.as_bytes()).unwrap();
        assert_eq!(seen(&new, browser.request(HOST)).await.body(), "anonymous");

        let again = new.sign_in(1, &browser.request(HOST)).await.unwrap();
        browser.receive(HOST, &signed_in(&again)).unwrap();
        assert_eq!(browser.jar().len(), if named { 1 } else { 2 });
        assert_eq!(new.sessions_of(&1).await.unwrap().len(), 1);
        assert_eq!(
            seen(&new, browser.request(HOST)).await.body(),
            "ada@example.com"
        );

        let out = new.sign_out(&browser.request(HOST)).await;
        assert!(out.ended().unwrap());
        browser.receive(HOST, &signed_out(&out)).unwrap();
        assert_eq!(browser.jar().len(), usize::from(!named));
        assert_eq!(seen(&new, browser.request(HOST)).await.body(), "anonymous");
    }
}

/// O05: a partitioned cookie is set after the removal of the unpartitioned one, and both are
/// removed together.
#[tokio::test]
async fn partitioned_cookies_are_removed_with_and_without_the_attribute() {
    let sessions = with(partitioned());
    let in_ = signed_in(&sessions.sign_in_without_request(1).await.unwrap());
    let out = signed_out(&sessions.sign_out(&HeaderMap::new()).await);
    for (headers, sets) in [(in_, true), (out, false)] {
        let values: Vec<_> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        let [unpartitioned, partitioned] = values[..] else {
            panic!("{values:?}")
        };
        assert!(!unpartitioned.contains("Partitioned"), "{unpartitioned}");
        assert!(
            unpartitioned.starts_with("__Host-session=;"),
            "{unpartitioned}"
        );
        assert!(partitioned.ends_with("Partitioned") || partitioned.contains("Partitioned;"));
        assert_eq!(
            !partitioned.starts_with("__Host-session=;"),
            sets,
            "{partitioned}"
        );
        for value in values {
            for attribute in ["Secure", "SameSite=None", "Path=/", "HttpOnly"] {
                assert!(value.contains(attribute), "{value}");
            }
        }
    }
}

/// L03: cookie settings that browsers ignore are rejected.
#[tokio::test]
async fn settings_that_browsers_would_ignore_are_refused() {
    let shared = || SessionCookie::shared_with_subdomains("sid", HOST).unwrap();
    let development = SessionCookie::insecure_for_local_development_named;
    for refused in [
        SessionCookie::default().partitioned(),
        SessionCookie::default().same_site_strict().partitioned(),
        SessionCookie::insecure_for_local_development().partitioned(),
        SessionCookie::default().former_domain("example.com"),
        shared().former_domain("App.example.com"),
        shared().former_domain("127.0.0.1"),
        shared().former_domain("com"),
        SessionCookie::shared_with_subdomains("sid", "co.uk"),
        SessionCookie::shared_with_subdomains("sid", "localhost"),
        SessionCookie::shared_with_subdomains("sid", "127.0.0.1"),
        development("__Host-sid"),
        development("a b"),
        development(""),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration);
    }
    assert_eq!(development("other").unwrap().name(), "other");
}
