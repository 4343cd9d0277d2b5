//! Which bytes of a request are read as the session cookie.

use std::{
    convert::Infallible,
    hint::black_box,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt};
use tower_user_session::{LoadUserLayer, cookie::SessionCookie, session::SessionToken};

use crate::support::{
    Logs, User, WatchedSessions, cases, cookie_lines,
    reference::{
        browser::Browser,
        cookie_header::{NAME, NEAR_MISSES, OTHER, Read, TOKEN, read, reference, visible},
        token,
    },
    signed_in_cookie, watched, who,
};

fn read_lines<L: AsRef<[u8]>>(lines: &[L]) -> Read {
    read(&cookie_lines(lines))
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(NAME.as_bytes().to_vec()),
        2 => proptest::sample::select(&NEAR_MISSES[..])
            .prop_map(|name| name.bytes().map(visible).collect()),
        1 => proptest::collection::vec(any::<u8>().prop_map(visible), 0..20),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (0..43_usize, any::<u8>()).prop_map(|(at, byte)| {
        let mut value = TOKEN.as_bytes().to_vec();
        value[at] = visible(byte);
        value
    });
    prop_oneof![
        4 => Just(TOKEN.as_bytes().to_vec()),
        2 => Just(OTHER.as_bytes().to_vec()),
        2 => mutated,
        1 => (0..64_usize).prop_map(|length| vec![b'A'; length]),
        1 => proptest::collection::vec(any::<u8>().prop_map(visible), 0..60),
    ]
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let between = proptest::sample::select(&["=", "=", "=", "=", "", " =", "= ", "==", "\t="][..]);
    (name(), between, value())
        .prop_map(|(name, between, value)| [&name, between.as_bytes(), &value].concat())
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let glue = proptest::sample::select(&["; ", "; ", ";", " ;\t ", ";;", ",", "  "][..]);
    let pieces = (proptest::collection::vec(piece(), 0..5), glue)
        .prop_map(|(pieces, glue)| pieces.join(glue.as_bytes()));
    prop_oneof![
        6 => pieces,
        1 => proptest::collection::vec(any::<u8>().prop_map(visible), 0..200),
    ]
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// A02, A05, A06, A15, A16, A18, A19: each header that `HeaderValue` admits is read as the
    /// reference parser reads it.
    #[test]
    fn any_bytes_read_as_the_reference_parser_reads_them(
        lines in proptest::collection::vec(line(), 0..4),
    ) {
        prop_assert_eq!(read_lines(&lines), reference(&lines));
    }

    /// A17: neither the order of the cookies nor their split over header lines changes the result.
    #[test]
    fn order_and_header_split_change_nothing(
        (pieces, shuffled) in proptest::collection::vec(piece(), 0..6)
            .prop_flat_map(|pieces| (Just(pieces.clone()), Just(pieces).prop_shuffle())),
        splits in proptest::collection::vec(any::<bool>(), 6),
    ) {
        let mut lines = vec![Vec::new()];
        for (piece, split) in shuffled.iter().zip(splits) {
            let last = lines.last_mut().unwrap();
            if split && !last.is_empty() {
                lines.push(piece.clone());
            } else {
                if !last.is_empty() {
                    last.extend_from_slice(b"; ");
                }
                last.extend_from_slice(piece);
            }
        }
        prop_assert_eq!(read_lines(&[pieces.join(&b"; "[..])]), read_lines(&lines));
    }

    /// A27: no cookie that a sibling subdomain can make a browser store and send is read as the
    /// session cookie, alone or beside a genuine one. The browser is a model of RFC 6265bis.
    #[test]
    fn cookies_planted_by_a_sibling_subdomain_are_never_read(
        planted in proptest::collection::vec(
            (piece(), proptest::sample::select(&["", "; Secure", "; Secure; Path=/", "; Path=/"][..])),
            1..4,
        ),
        signed_in in any::<bool>(),
    ) {
        let mut browser = Browser::default();
        if signed_in {
            let ours = format!("{NAME}={TOKEN}; Secure; Path=/; HttpOnly");
            prop_assert_eq!(browser.store("app.example.com", true, ours.as_bytes()), Ok(()));
        }
        for (pair, attributes) in &planted {
            let text = [pair, attributes.as_bytes(), b"; Domain=example.com"].concat();
            let _ = browser.store("evil.example.com", true, &text);
        }
        let seen = read(&browser.request("app.example.com"));
        let right = if signed_in { Read::Token(TOKEN.to_owned()) } else { Read::Nothing };
        prop_assert_eq!(seen, right);
    }
}

/// A27: the browser model exempts a name from its prefix checks exactly if the crate does not match
/// that name.
#[test]
fn similar_names_without_prefix_checks_are_not_matched() {
    let mut stored = 0;
    for name in NEAR_MISSES {
        let mut browser = Browser::default();
        let planted = format!("{name}={TOKEN}; Secure; Path=/; Domain=example.com");
        if browser
            .store("evil.example.com", true, planted.as_bytes())
            .is_ok()
        {
            stored += 1;
            let headers = browser.request("app.example.com");
            assert_eq!(read(&headers), Read::Nothing, "{name:?}");
        }
    }
    assert!(stored >= 12, "the model stored only {stored} of the names");
}

/// A01, A08, A10, A12: only an exactly equal name matches.
#[test]
fn a_similar_cookie_name_is_not_matched() {
    assert_eq!(read(&HeaderMap::new()), Read::Nothing);
    for name in NEAR_MISSES {
        let line: Vec<u8> = format!("a=b; {name}={TOKEN}")
            .bytes()
            .map(visible)
            .collect();
        let headers = cookie_lines([&line]);
        assert_eq!(read(&headers), Read::Nothing, "{name:?}");
    }
    let headers = cookie_lines([[b"\xe2\x80\x80__Host-session=", TOKEN.as_bytes()].concat()]);
    assert_eq!(read(&headers), Read::Nothing);
}

/// A03, A04: the contents of other cookies change nothing.
#[test]
fn strange_bytes_in_other_cookies_change_nothing() {
    let strange: [&[u8]; 9] = [
        b"theme=\xff",
        b"theme=\xff\xfe\x80",
        "name=Zoë 你好".as_bytes(),
        b"x=%ff%00%3B",
        b"x=\"a",
        b"\"=\"",
        b"=",
        b"",
        b"====",
    ];
    for other in strange {
        let ours = format!("{NAME}={TOKEN}").into_bytes();
        for line in [
            [other, b"; ", &ours].concat(),
            [&ours, b"; ".as_slice(), other].concat(),
            [other, b";", &ours, b";", other].concat(),
        ] {
            assert_eq!(
                read_lines(&[&line]),
                Read::Token(TOKEN.to_owned()),
                "{line:?}"
            );
        }
        assert_eq!(
            read_lines(&[other, &ours, other]),
            Read::Token(TOKEN.to_owned())
        );
    }
}

/// Values of the session cookie that cannot be a token.
fn malformed() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        "",
        " ",
        "\"\"",
        "%41AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%00",
        "%41AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd",
        "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"",
        "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdH\"",
        " AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
        "++++++++++++++++++++++++++++++++++++++++++A",
        "//////////////////////////////////////////8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8, x",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    values.extend(
        (0..=64)
            .filter(|length| *length != 43)
            .map(|length| vec![b'A'; length]),
    );
    values.push(vec![b'A'; 4 * 1024]);
    values.push(vec![b'A'; 64 * 1024]);
    for byte in 0..=u8::MAX {
        // A trailing HTAB would be trimmed, so this one is in the middle.
        let mut value = TOKEN.as_bytes().to_vec();
        value[20] = byte;
        if token::decode(&value).is_err() && visible(byte) == byte && byte != b';' {
            values.push(value);
        }
    }
    values
}

/// A05, A06, A18, A19: a value that is not a canonical token is rejected without decoding and
/// without a lookup.
#[tokio::test]
async fn a_malformed_value_is_rejected_without_a_lookup() {
    let sessions = watched();
    let values = malformed();
    assert!(values.len() > 200);
    for value in &values {
        let headers = cookie_lines([[b"__Host-session=".as_slice(), value].concat()]);
        assert_eq!(read(&headers), Read::Malformed, "{value:?}");
        assert_eq!(seen_by_inner(&sessions, headers).await, "anonymous");
    }
    assert_eq!(sessions.store().finds(), 0);
    assert_eq!(sessions.metrics().rejected, values.len() as u64);
}

/// A01, A08, A10, A12: a request without the session cookie makes no lookup.
#[tokio::test]
async fn an_anonymous_request_makes_no_lookup() {
    let sessions = watched();
    assert_eq!(
        seen_by_inner(&sessions, HeaderMap::new()).await,
        "anonymous"
    );
    for name in NEAR_MISSES {
        let line: Vec<u8> = format!("{name}={TOKEN}").bytes().map(visible).collect();
        assert_eq!(
            seen_by_inner(&sessions, cookie_lines([line])).await,
            "anonymous"
        );
    }
    assert_eq!(sessions.store().finds(), 0);
    assert_eq!(sessions.metrics().rejected, 0);
}

/// A14, A15: cookies split over many header lines, and one value repeated, make one lookup.
#[tokio::test]
async fn repeated_values_make_one_lookup() {
    let sessions = watched();
    let ours = signed_in_cookie(&sessions, 1).await;
    let requests: [Vec<String>; 6] = [
        vec![ours.clone()],
        vec!["a=b".into(), ours.clone(), "c=d".into()],
        vec![format!("{ours}; {ours}")],
        vec![ours.clone(), ours.clone()],
        vec![format!("a=b; {ours}"), format!("{ours}; c=d"), ours.clone()],
        vec![format!("  {ours}\t ;;"), String::new()],
    ];
    for (n, lines) in requests.into_iter().enumerate() {
        let headers = cookie_lines(&lines);
        assert_eq!(
            seen_by_inner(&sessions, headers).await,
            User::ada().email,
            "{lines:?}"
        );
        assert_eq!(sessions.store().finds(), n + 1);
    }
}

/// A16: different values under the session cookie's name are ambiguous in any order, valid or not,
/// and make no lookup. They log one event in total.
#[tokio::test]
async fn different_values_are_ambiguous_in_any_order_and_split() {
    let logs = Logs::capture();
    let sessions = watched();
    let ours = signed_in_cookie(&sessions, 1).await;
    let before = logs.events().len();
    let mut requests = 0;
    for other in [
        signed_in_cookie(&sessions, 2).await,
        format!("{NAME}={TOKEN}"),
        format!("{NAME}="),
        format!("{NAME}=x"),
        format!("{ours}x"),
    ] {
        for lines in [
            vec![format!("{ours}; {other}")],
            vec![format!("{other}; {ours}")],
            vec![ours.clone(), other.clone()],
            vec![other.clone(), ours.clone()],
            vec![format!("{ours}; a=b"), format!("c=d; {ours}; {other}")],
        ] {
            let headers = cookie_lines(&lines);
            assert_eq!(read(&headers), Read::Ambiguous, "{lines:?}");
            assert_eq!(seen_by_inner(&sessions, headers).await, "anonymous");
            requests += 1;
        }
    }
    assert_eq!(sessions.store().finds(), 0);
    assert_eq!(sessions.metrics().rejected, requests);
    let events = logs.events();
    let warned: Vec<_> = events[before..]
        .iter()
        .filter(|line| line.contains("WARN"))
        .collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].contains("ambiguous"), "{warned:?}");
}

/// A24: a token outside the `Cookie` header is ignored.
#[tokio::test]
async fn a_token_outside_the_cookie_header_is_ignored() {
    let sessions = watched();
    let cookie = signed_in_cookie(&sessions, 1).await;
    let token = cookie.split_once('=').unwrap().1;
    let mut trailers = HeaderMap::new();
    trailers.insert(header::COOKIE, HeaderValue::try_from(&cookie).unwrap());
    let frames: Vec<Result<_, Infallible>> = vec![
        Ok(Frame::data(Bytes::from(cookie.clone()))),
        Ok(Frame::trailers(trailers)),
    ];
    let request = Request::post(format!("/?{cookie}&token={token}&{NAME}={token}"))
        .header("authorization", format!("Bearer {token}"))
        .header("x-session", token)
        .header("cookie2", &cookie)
        .header("set-cookie", &cookie)
        .header("x-cookie", &cookie)
        .header("session", token)
        .header(NAME, token)
        .body(StreamBody::new(tokio_stream(frames)).boxed_unsync())
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(|request: Request<_>| async move {
            let user = request.extensions().get::<User>().cloned();
            // The inner service receives the whole body and its trailers.
            let body = BodyExt::collect(request.into_body()).await?;
            assert!(
                body.trailers()
                    .is_some_and(|trailers| trailers.contains_key("cookie"))
            );
            Ok::<_, Infallible>(Response::new(format!("{user:?}")))
        });
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.body(), "None");
    assert_eq!(sessions.store().finds(), 0);
    assert_eq!(sessions.metrics().anonymous, 1);
}

fn tokio_stream<T>(
    items: Vec<T>,
) -> impl tonic::codegen::tokio_stream::Stream<Item = T> + Send + 'static
where
    T: Send + 'static,
{
    tonic::codegen::tokio_stream::iter(items)
}

/// A26: `HeaderValue` rejects bytes that would break a header or a log line. Other invalid values
/// are rejected and never logged.
#[tokio::test]
async fn control_characters_are_rejected_and_not_logged() {
    for byte in (0..=31).chain([127]).filter(|&byte| byte != b'\t') {
        let mut line = format!("{NAME}={TOKEN}").into_bytes();
        line.insert(30, byte);
        assert!(HeaderValue::from_bytes(&line).is_err(), "{byte:#x}");
    }
    let logs = Logs::capture();
    let sessions = watched();
    let values: [&[u8]; 4] = [
        b"smuggled\tvalue",
        b"smuggled\xff\xfevalue",
        "smuggled\u{2028}value\u{85}".as_bytes(),
        b"smuggled\x80\x9bvalue[31m",
    ];
    for value in values {
        let headers = cookie_lines([[b"__Host-session=", value].concat()]);
        assert_eq!(read(&headers), Read::Malformed);
        assert_eq!(seen_by_inner(&sessions, headers).await, "anonymous");
    }
    assert!(logs.text().contains("malformed"), "{}", logs.text());
    assert!(!logs.text().contains("smuggled"), "{}", logs.text());
}

/// Header shapes that a flood or a scanner sends, each with this many cookies.
const SHAPES: [fn(usize) -> HeaderMap; 10] = [
    |n| cookie_lines([";".repeat(n)]),
    |n| cookie_lines([" ".repeat(n)]),
    |n| cookie_lines(["; ".repeat(n)]),
    |n| cookie_lines(["=".repeat(n)]),
    |n| cookie_lines([format!("{NAME}={}", "A".repeat(n))]),
    |n| cookie_lines([format!("{NAME}=;").repeat(n / 16)]),
    // As many header lines as a header map can hold.
    |n| cookie_lines([format!("{NAME}=").repeat(n / 15)]),
    |n| cookie_lines([format!("x{}", format!(" {NAME}=").repeat(n / 16))]),
    |n| cookie_lines([format!("{NAME}={}", " ".repeat(n))]),
    |n| cookie_lines(vec!["__Host-sessio=x"; (n / 16).min(16_384)]),
];

/// A02, A21, A22, A23: forty times the cookies take about forty times as long. A quadratic scan
/// would take 1,600 times as long.
#[test]
fn reading_takes_time_linear_in_the_header() {
    let time = |headers: &HeaderMap, rounds: u32| {
        let cookie = SessionCookie::default();
        let start = Instant::now();
        for _ in 0..rounds {
            let _ = black_box(cookie.read(black_box(headers)));
        }
        start.elapsed() / rounds
    };
    for (n, shape) in SHAPES.into_iter().enumerate() {
        let (small, large) = (shape(500), shape(20_000));
        // Another process may use the processor, so one good measurement out of a few is enough.
        let linear = (0..5).any(|_| {
            let floor = Duration::from_nanos(100);
            time(&large, 1) < 400 * time(&small, 100).max(floor)
        });
        assert!(linear, "shape {n}");
    }
}

/// A02, A14, A21, A22, A23, J04: reading allocates nothing, for every header.
#[test]
fn reading_allocates_nothing() {
    let filler = "name=value; ".repeat(1_000);
    let ours = format!("{NAME}={TOKEN}");
    let mut requests: Vec<HeaderMap> = SHAPES.iter().map(|shape| shape(20_000)).collect();
    requests.extend([
        HeaderMap::new(),
        cookie_lines([&ours]),
        cookie_lines([format!("{ours}; {filler}")]),
        cookie_lines([format!("{filler}{ours}; {filler}")]),
        cookie_lines([format!("{filler}{ours}")]),
        cookie_lines([filler.clone()]),
        cookie_lines([format!("{filler}{ours}; {NAME}={OTHER}")]),
        cookie_lines(["a=b", "c=d", &ours, "e=\u{ff}"]),
    ]);
    let cookie = SessionCookie::default();
    for (n, headers) in requests.iter().enumerate() {
        let allocated = allocation_counter::measure(|| {
            let _ = black_box(cookie.read(black_box(headers)));
        });
        assert_eq!(allocated.count_total, 0, "request {n}");
    }
}

/// A22: the session cookie is found as the first, last or middle one of a thousand cookies, and is
/// not found if it is missing.
#[test]
fn the_session_cookie_is_found_among_a_thousand() {
    let ours = format!("{NAME}={TOKEN}");
    for place in [0, 499, 999] {
        let mut cookies: Vec<_> = (0..999).map(|n| format!("name{n}=value{n}")).collect();
        cookies.insert(place, ours.clone());
        assert_eq!(
            read_lines(&[cookies.join("; ")]),
            Read::Token(TOKEN.to_owned())
        );
        assert_eq!(read_lines(&cookies), Read::Token(TOKEN.to_owned()));
        cookies.remove(place);
        assert_eq!(read_lines(&[cookies.join("; ")]), Read::Nothing);
    }
}

/// A19: a new token in a cookie is read back as the same token.
#[test]
fn a_new_token_reads_back() {
    for _ in 0..1_000 {
        let token = SessionToken::generate().unwrap();
        let headers = cookie_lines([format!("{NAME}={}", token.expose())]);
        assert_eq!(read(&headers), Read::Token(token.expose()));
    }
}

async fn seen_by_inner(sessions: &WatchedSessions, headers: HeaderMap) -> String {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.headers_mut() = headers;
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(who);
    service.oneshot(request).await.unwrap().into_body()
}
