//! Each `Set-Cookie` has the intended effect in a browser, and caches do not store the response.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use tower_user_session::{
    Error, ErrorKind, SessionService, SignedIn, SignedOut,
    cookie::{PresentedToken, SessionCookie},
    session::{
        Lifetime, Session, SessionId, SessionInfo, SessionTimestamps, SessionToken, TokenDigest,
    },
    store::{
        EndedSession, ExpiredBatch, InsertOutcome, LookupResult, MemorySessionStore, NewSession,
        RemainingLifetime, RevokeScope, RotateOutcome, SessionLookup, SessionStore,
    },
};

use crate::support::{
    Logs, User, cases, cookie_lines, memory,
    reference::browser::{Browser, SameSite, Stored, parse},
};

const HOST: &str = "app.example.com";
const LONGEST_LIFE: i64 = 34_560_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Each kind of cookie that can be configured for https.
fn cookies() -> Vec<SessionCookie> {
    let shared = || SessionCookie::shared_with_subdomains("sid", "Example.com").unwrap();
    vec![
        SessionCookie::default(),
        SessionCookie::default().same_site_strict(),
        SessionCookie::default().same_site_none().unwrap(),
        SessionCookie::named("sid").unwrap(),
        SessionCookie::named("!#$%&'*+-.^_`|~09azAZ").unwrap(),
        SessionCookie::named(&"n".repeat(64)).unwrap(),
        shared(),
        shared().same_site_strict(),
        shared().same_site_none().unwrap(),
    ]
}

fn with(cookie: SessionCookie) -> SessionService<MemorySessionStore<i64, User>> {
    let store = MemorySessionStore::new();
    store.add_user(1, User::ada());
    SessionService::builder(store)
        .cookie(cookie)
        .build()
        .unwrap()
}

fn written(signed_in: &SignedIn) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed_in.write_to(&mut headers);
    headers
}

fn removal(signed_out: &SignedOut) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed_out.write_to(&mut headers);
    headers
}

fn set_cookies(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SET_COOKIE).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

/// Passes a response to a browser and returns the one cookie that the browser then holds.
fn stored(headers: &HeaderMap) -> Stored {
    let mut browser = Browser::default();
    browser.receive(HOST, headers).unwrap();
    let [stored] = browser.jar() else {
        panic!("the jar holds {:?}", browser.jar())
    };
    stored.clone()
}

/// H01: a browser stores each cookie with the attributes that its name prefix requires, and sends
/// back a value that is read as the token.
#[tokio::test]
async fn a_browser_stores_the_cookie_and_sends_it_back() {
    for cookie in cookies() {
        for remembered in [false, true] {
            let sessions = with(cookie.clone());
            let signed_in = sessions
                .sign_in_without_request(1)
                .remember(remembered)
                .await
                .unwrap();
            let headers = written(&signed_in);
            let stored = stored(&headers);
            assert_eq!(stored.name, cookie.name().as_bytes());
            assert!(stored.secure && stored.http_only, "{stored:?}");
            assert_eq!(stored.path, "/");
            assert_ne!(stored.same_site, SameSite::Default, "{stored:?}");
            let shared = cookie.name().starts_with("__Secure-");
            assert_eq!(stored.host_only, !shared, "{stored:?}");
            let text = set_cookies(&headers)[0].to_ascii_lowercase();
            assert_eq!(text.contains("domain"), shared, "{text}");
            assert!(shared || cookie.name().starts_with("__Host-"));
            assert_eq!(stored.life.is_some(), remembered, "{stored:?}");

            let mut browser = Browser::default();
            browser.receive(HOST, &headers).unwrap();
            let token = signed_in.token();
            match cookie.read(&browser.request(HOST)) {
                PresentedToken::Token(read) => assert_eq!(read.expose(), token.expose()),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// H01: each attribute occurs once in the header, and there are no others.
#[tokio::test]
async fn each_attribute_is_written_once() {
    for cookie in cookies() {
        let sessions = with(cookie);
        let headers = written(
            &sessions
                .sign_in_without_request(1)
                .remember(true)
                .await
                .unwrap(),
        );
        let parsed = parse(set_cookies(&headers)[0].as_bytes()).unwrap();
        let mut names: Vec<_> = parsed.attributes.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.retain(|name| *name != "domain");
        assert_eq!(names, ["httponly", "max-age", "path", "samesite", "secure"]);
    }
}

/// H02: `SameSite=None` is set by an explicit call only, and never without `Secure`.
#[tokio::test]
async fn same_site_none_is_explicit_and_secure() {
    let same_site = async |cookie: SessionCookie| {
        let sessions = with(cookie);
        stored(&written(
            &sessions.sign_in_without_request(1).await.unwrap(),
        ))
        .same_site
    };
    assert_eq!(same_site(SessionCookie::default()).await, SameSite::Lax);
    let named = SessionCookie::named("a").unwrap();
    assert_eq!(same_site(named).await, SameSite::Lax);
    let strict = SessionCookie::default().same_site_strict();
    assert_eq!(same_site(strict).await, SameSite::Strict);
    let none = SessionCookie::default().same_site_none().unwrap();
    assert_eq!(same_site(none).await, SameSite::None);

    let refused = SessionCookie::insecure_for_local_development().same_site_none();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration);
}

/// H16, H01, L03: the insecure cookie logs a warning and works over plain http, where no other
/// does. Its name has no prefix.
#[tokio::test]
async fn only_the_insecure_cookie_is_stored_over_plain_http() {
    let over_http = async |cookie: SessionCookie| {
        let sessions = with(cookie);
        let headers = written(&sessions.sign_in_without_request(1).await.unwrap());
        Browser::default().store(HOST, false, set_cookies(&headers)[0].as_bytes())
    };
    for cookie in cookies() {
        assert!(over_http(cookie).await.is_err());
    }
    let logs = Logs::capture();
    let insecure = SessionCookie::insecure_for_local_development();
    assert!(logs.events().iter().any(|line| line.contains("WARN")));
    assert_eq!(insecure.name(), "session");
    assert_eq!(over_http(insecure).await, Ok(()));
}

/// H01: no name can escape its prefix or the header.
#[test]
fn names_and_domains_that_break_the_header_are_rejected() {
    let long = "n".repeat(65);
    for name in [
        "",
        " ",
        "a b",
        "a=b",
        "a;b",
        "a,b",
        "a\tb",
        "a\r\nb",
        "\"a\"",
        "é",
        "a\0",
        "__Host-a",
        "__host-a",
        "__Secure-a",
        "__Http-a",
        "a/b",
        "(a)",
        "a:b",
        "a@b",
        "[a]",
        "{a}",
        "a\\b",
        &long,
    ] {
        assert!(SessionCookie::named(name).is_err(), "{name:?}");
        let shared = SessionCookie::shared_with_subdomains(name, "example.com");
        assert!(shared.is_err(), "{name:?}");
    }
    let long = format!("{}.com", "a".repeat(64));
    let longer = "a.".repeat(130) + "com";
    for domain in [
        "",
        ".",
        ".example.com",
        "example.com.",
        "a..b",
        "exa mple.com",
        "a;b",
        "a=b",
        "é.com",
        "example.com:443",
        "example.com/",
        "[::1]",
        "*.example.com",
        &long,
        &longer,
    ] {
        let shared = SessionCookie::shared_with_subdomains("sid", domain);
        assert!(shared.is_err(), "{domain:?}");
    }
}

proptest! {
    #![proptest_config(cases(500))]

    /// H03: for every lifetime, a remembered cookie has a positive `Max-Age`, no longer than the
    /// session and no longer than browsers allow. The browser has removed it when the session
    /// expires.
    #[test]
    fn a_cookie_never_outlives_its_session(
        absolute in prop_oneof![
            (0..=u64::MAX).prop_map(Duration::from_secs),
            (1..40_000_000_u64).prop_map(Duration::from_secs),
            (0..5_000_u64).prop_map(Duration::from_millis),
            Just(Duration::MAX),
        ],
        shorter in proptest::option::of(prop_oneof![
            (0..=u64::MAX).prop_map(Duration::from_secs),
            (0..5_000_u64).prop_map(Duration::from_millis),
            (1..40_000_000_u64).prop_map(Duration::from_secs),
            Just(Duration::MAX),
        ]),
    ) {
        let Ok(lifetime) = Lifetime::absolute(absolute) else {
            prop_assert!(absolute < Duration::from_secs(1) || absolute > 400 * DAY);
            return Ok(());
        };
        let store = MemorySessionStore::new().with_lifetime(lifetime);
        store.add_user(1, User::ada());
        let sessions = SessionService::new(store);
        let mut sign_in = sessions.sign_in_without_request(1).remember(true);
        if let Some(shorter) = shorter {
            sign_in = sign_in.max_lifetime(shorter);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let signed_in = match runtime.block_on(async { sign_in.await }) {
            Ok(signed_in) => signed_in,
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::Configuration);
                prop_assert!(shorter.unwrap() < Duration::from_secs(1));
                return Ok(());
            }
        };
        let remaining = signed_in.session().remaining();
        prop_assert!(remaining <= absolute && remaining <= shorter.unwrap_or(absolute));
        let headers = written(&signed_in);
        let life = stored(&headers).life.unwrap();
        prop_assert!(life > 0 && life <= LONGEST_LIFE, "{}", life);
        prop_assert!(u64::try_from(life).unwrap() <= remaining.as_secs());
        let mut browser = Browser::default();
        browser.receive(HOST, &headers).unwrap();
        browser.wait(remaining);
        prop_assert_eq!(browser.jar(), &[]);
    }
}

/// A store that returns the remaining time that the test sets.
struct Remaining(Duration);

impl SessionLookup for Remaining {
    type User = ();

    async fn find(&self, _: &[TokenDigest]) -> Result<Vec<LookupResult<()>>, Error> {
        unreachable!("never called")
    }
}

impl SessionStore for Remaining {
    type UserId = ();
    type Condition = ();
    type SessionValues = ();

    fn lifetime(&self) -> Lifetime {
        Lifetime::default()
    }

    async fn insert(&self, _: NewSession<'_, Self>) -> Result<InsertOutcome, Error> {
        let now = SystemTime::UNIX_EPOCH;
        let mut times = SessionTimestamps::at(now);
        times.expires_at += self.0;
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
        Ok(InsertOutcome::Inserted {
            session: Session::new(id, times),
            ended: Vec::new(),
            over_limit: Vec::new(),
        })
    }

    async fn rotate(
        &self,
        (): &(),
        _: &[TokenDigest],
        _: TokenDigest,
        (): &(),
    ) -> Result<RotateOutcome, Error> {
        Ok(RotateOutcome::NotFound)
    }

    async fn list(&self, (): &()) -> Result<Vec<SessionInfo>, Error> {
        Ok(Vec::new())
    }

    async fn revoke(&self, (): &(), _: RevokeScope) -> Result<Vec<SessionId>, Error> {
        Ok(Vec::new())
    }

    async fn revoke_everyone(&self) -> Result<u64, Error> {
        Ok(0)
    }

    async fn remaining_lifetimes(&self, _: &[SessionId]) -> Result<Vec<RemainingLifetime>, Error> {
        Ok(Vec::new())
    }

    async fn delete_expired(&self, _: Option<u64>) -> Result<ExpiredBatch, Error> {
        Ok(ExpiredBatch::new(0, None))
    }

    async fn delete(&self, _: &[TokenDigest]) -> Result<Vec<EndedSession>, Error> {
        Ok(Vec::new())
    }
}

/// H03: `Max-Age` is derived from the remaining time that the store returns, and is bounded for
/// every value.
#[tokio::test]
async fn max_age_is_bounded_for_every_store() {
    let century = 100 * 365 * DAY;
    let most = Duration::from_secs(i64::MAX as u64 / 2);
    for (remaining, life) in [
        (Duration::ZERO, 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(1_999), 1),
        (Duration::from_secs(7), 7),
        (400 * DAY, LONGEST_LIFE),
        (400 * DAY + Duration::from_secs(1), LONGEST_LIFE),
        (century, LONGEST_LIFE),
        (most, LONGEST_LIFE),
    ] {
        let sessions = SessionService::new(Remaining(remaining));
        let signed_in = sessions
            .sign_in_without_request(())
            .remember(true)
            .await
            .unwrap();
        // Read from the header itself, because a browser and its model would cap it.
        let headers = written(&signed_in);
        let parsed = parse(set_cookies(&headers)[0].as_bytes()).unwrap();
        let max_age: i64 = parsed.attribute("max-age").unwrap().parse().unwrap();
        assert_eq!(max_age, life, "{remaining:?}");
    }
}

/// H04: no cache stores a response that sets the cookie, whatever the handler allowed.
#[tokio::test]
async fn a_response_that_sets_the_cookie_is_not_cacheable() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    for cached in [
        "public, max-age=600",
        "s-maxage=600",
        "immutable",
        "private",
        "no-cache",
    ] {
        let mut headers = HeaderMap::new();
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static(cached));
        headers.append(header::CACHE_CONTROL, HeaderValue::from_static("public"));
        let mut out = headers.clone();
        signed_in.write_to(&mut headers);
        signed_out.write_to(&mut out);
        for headers in [headers, out] {
            let control: Vec<_> = headers.get_all(header::CACHE_CONTROL).iter().collect();
            assert_eq!(control, ["no-store"]);
        }
    }
}

/// H04, H06: `Vary` names the cookie once and keeps its earlier values.
#[tokio::test]
async fn vary_is_appended_and_never_replaced() {
    let signed_in = memory().sign_in_without_request(1).await.unwrap();
    for (before, after) in [
        (vec![], vec!["cookie"]),
        (vec!["*"], vec!["*"]),
        (vec!["Cookie"], vec!["Cookie"]),
        (vec!["COOKIE"], vec!["COOKIE"]),
        (
            vec!["accept, cookie , origin"],
            vec!["accept, cookie , origin"],
        ),
        (vec!["accept", "cookie"], vec!["accept", "cookie"]),
        (vec!["accept", "a, *"], vec!["accept", "a, *"]),
        (vec!["Accept-Encoding"], vec!["Accept-Encoding", "cookie"]),
        (vec!["origin, accept"], vec!["origin, accept", "cookie"]),
        (vec!["x-cookie"], vec!["x-cookie", "cookie"]),
        (vec!["cookie2"], vec!["cookie2", "cookie"]),
        (vec![""], vec!["", "cookie"]),
    ] {
        let mut headers = HeaderMap::new();
        for value in &before {
            headers.append(header::VARY, HeaderValue::from_static(value));
        }
        signed_in.write_to(&mut headers);
        signed_in.write_to(&mut headers);
        let vary: Vec<_> = headers.get_all(header::VARY).iter().collect();
        assert_eq!(vary, after, "{before:?}");
    }
}

/// H10: a browser accepts the removal of each cookie, under the rules of its prefix, and deletes
/// it.
#[tokio::test]
async fn a_browser_accepts_the_removal() {
    for cookie in cookies() {
        let sessions = with(cookie.clone());
        let mut browser = Browser::default();
        browser
            .store(HOST, true, b"theme=dark; Secure; Path=/")
            .unwrap();
        let signed_in = sessions
            .sign_in_without_request(1)
            .remember(true)
            .await
            .unwrap();
        browser.receive(HOST, &written(&signed_in)).unwrap();
        assert_eq!(browser.jar().len(), 2);

        let request = browser.request(HOST);
        let signed_out = sessions.sign_out(&request).await;
        assert!(signed_out.ended().unwrap());
        let headers = removal(&signed_out);
        browser.receive(HOST, &headers).unwrap();
        assert_eq!(browser.jar().len(), 1, "{:?}", browser.jar());
        assert!(matches!(
            cookie.read(&browser.request(HOST)),
            PresentedToken::Nothing
        ));

        // Either attribute alone is enough for current browsers; together they work in all.
        let parsed = parse(set_cookies(&headers)[0].as_bytes()).unwrap();
        assert_eq!(parsed.value, b"");
        assert_eq!(parsed.attribute("max-age"), Some("0"));
        let expires = parsed.attribute("expires");
        assert_eq!(expires, Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        for attribute in ["secure", "httponly"] {
            assert_eq!(parsed.attribute(attribute), Some(""));
        }
        assert_eq!(parsed.attribute("path"), Some("/"));
    }
}

/// H23: the header's value is sensitive, so that HPACK does not index it and `Debug` does not print
/// it.
#[tokio::test]
async fn set_cookie_values_are_sensitive() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    for headers in [written(&signed_in), removal(&signed_out)] {
        let value = &headers[header::SET_COOKIE];
        assert!(value.is_sensitive());
        assert!(!format!("{headers:?}").contains(&signed_in.token().expose()));
    }
}

/// A response sets the session cookie once (RFC 6265bis §4.1.1): the last value wins, and other
/// cookies keep their values and order.
#[tokio::test]
async fn one_response_sets_the_cookie_once() {
    let sessions = memory();
    let first = sessions.sign_in_without_request(1).await.unwrap();
    let second = sessions.sign_in_without_request(2).await.unwrap();
    let signed_out = sessions.sign_out(&HeaderMap::new()).await;
    let others = [
        "theme=dark; Path=/",
        "__Host-sessions=x; Secure; Path=/",
        "__Host-sessio=x; Secure; Path=/",
        "theme=light; Path=/app",
        "__host-session=x; Secure; Path=/",
    ];
    let mut headers = HeaderMap::new();
    headers.append(header::SET_COOKIE, HeaderValue::from_static(others[0]));
    first.write_to(&mut headers);
    for other in &others[1..4] {
        headers.append(header::SET_COOKIE, HeaderValue::from_static(other));
    }
    signed_out.write_to(&mut headers);
    signed_out.write_to(&mut headers);
    headers.append(header::SET_COOKIE, HeaderValue::from_static(others[4]));
    second.write_to(&mut headers);

    let all = set_cookies(&headers);
    assert_eq!(all[..5], others);
    assert_eq!(all.len(), 6);
    assert!(all[5].starts_with(&format!("__Host-session={};", second.token().expose())));
}

/// A session cookie that a handler set itself, in any spelling that browsers accept, is replaced
/// and not duplicated.
#[tokio::test]
async fn an_earlier_set_cookie_of_the_same_name_is_replaced() {
    let signed_in = memory().sign_in_without_request(1).await.unwrap();
    for earlier in [
        "__Host-session=x; Secure; Path=/",
        "__Host-session=",
        " __Host-session=x; Secure; Path=/",
        "\t__Host-session =x; Secure; Path=/",
        "__Host-session\t= x; Secure; Path=/",
    ] {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_static(earlier));
        signed_in.write_to(&mut headers);
        let names: Vec<_> = set_cookies(&headers)
            .into_iter()
            .map(|text| parse(text.as_bytes()).unwrap().name)
            .collect();
        assert_eq!(names, [b"__Host-session"], "{earlier:?}");
    }
}

/// D03, H01: signing in never adopts a token that the request presents.
#[tokio::test]
async fn signing_in_sets_a_new_token() {
    let sessions = memory();
    let planted = SessionToken::generate().unwrap();
    let request = cookie_lines([format!("__Host-session={}", planted.expose())]);
    let signed_in = sessions.sign_in(1, &request).await.unwrap();
    assert_ne!(signed_in.token().expose(), planted.expose());
    assert!(!set_cookies(&written(&signed_in))[0].contains(&planted.expose()));
    assert_eq!(sessions.user(&planted).await.unwrap(), None);
}
