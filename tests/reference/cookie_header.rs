//! A reference parser of the `Cookie` header, in twenty lines, beside the crate's own.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, header::COOKIE};
use tower_user_session::cookie::{PresentedToken, SessionCookie};

use super::token;

pub const NAME: &str = "__Host-session";
pub const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
pub const OTHER: &str = "__________________________________________8";

/// What a request presents, by the reference or by the crate.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Nothing,
    Token(String),
    Malformed,
    Ambiguous,
}

/// The crate's reader.
pub fn read(headers: &HeaderMap) -> Read {
    match SessionCookie::default().read(headers) {
        PresentedToken::Nothing => Read::Nothing,
        PresentedToken::Token(token) => Read::Token(token.expose()),
        PresentedToken::Malformed => Read::Malformed,
        PresentedToken::Several(_) | PresentedToken::Ambiguous => Read::Ambiguous,
        other => panic!("unknown outcome {other:?}"),
    }
}

/// The reference: each pair with the name `__Host-session`, as a set of values.
pub fn reference<L: AsRef<[u8]>>(lines: &[L]) -> Read {
    let mut values: BTreeSet<Vec<u8>> = ours(lines).into_iter().collect();
    match values.pop_first() {
        None => Read::Nothing,
        Some(_) if !values.is_empty() => Read::Ambiguous,
        Some(value) if token::decode(&value).is_ok() => {
            Read::Token(String::from_utf8(value).unwrap())
        }
        Some(_) => Read::Malformed,
    }
}

fn ours<L: AsRef<[u8]>>(lines: &[L]) -> Vec<Vec<u8>> {
    let white = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let mut values = Vec::new();
    let pieces = lines
        .iter()
        .flat_map(|line| line.as_ref().split(|&byte| byte == b';'));
    for piece in pieces {
        let Some(start) = piece.iter().position(|byte| !white(byte)) else {
            continue;
        };
        let end = piece.iter().rposition(|byte| !white(byte)).unwrap();
        let piece = &piece[start..=end];
        let Some(equals) = piece.iter().position(|&byte| byte == b'=') else {
            continue;
        };
        if &piece[..equals] == NAME.as_bytes() {
            values.push(piece[equals + 1..].to_vec());
        }
    }
    values
}

/// Panics unless the crate reads these lines as the reference does, and returns their kind.
pub fn check<L: AsRef<[u8]>>(lines: &[L]) -> &'static str {
    let headers: HeaderMap = lines
        .iter()
        .map(|line| (COOKIE, HeaderValue::from_bytes(line.as_ref()).unwrap()))
        .collect();
    let right = reference(lines);
    assert_eq!(read(&headers), right, "{headers:?}");
    let bytes: Vec<u8> = lines.iter().flat_map(AsRef::as_ref).copied().collect();
    let nearly = NEAR_MISSES.iter().any(|name| {
        let name = name.trim().as_bytes();
        bytes.windows(name.len()).any(|window| window == name)
    });
    match (right, ours(lines).len()) {
        (Read::Nothing, _) if nearly => "cookie: nothing, but a near miss",
        (Read::Nothing, _) => "cookie: nothing",
        (Read::Token(_), 1) if nearly => "cookie: a token beside a near miss",
        (Read::Token(_), 1) => "cookie: a token",
        (Read::Token(_), _) => "cookie: a token several times",
        (Read::Malformed, 1) => "cookie: malformed",
        (Read::Malformed, _) => "cookie: malformed several times",
        (Read::Ambiguous, _) => "cookie: ambiguous",
    }
}

/// Names that a careless parser takes for the session cookie's.
pub const NEAR_MISSES: [&str; 25] = [
    "__host-session",
    "__HOST-session",
    "__Host-Session",
    "__Host-session ",
    "__Host-session\t",
    " __Host-session\u{a0}",
    "\u{2000}__Host-session",
    "\u{a0}__Host-session",
    "\u{feff}__Host-session",
    "\u{85}__Host-session",
    "__%48ost-session",
    "%5F%5FHost-session",
    "__Host%2Dsession",
    "\"__Host-session\"",
    "\"__Host-session",
    "__Host-session\"",
    "__Host-sessio",
    "__Host-sessions",
    "x__Host-session",
    "_Host-session",
    "__Secure-session",
    "session",
    "=__Host-session",
    "$Version=1,__Host-session",
    "__Host-session[]",
];

/// A byte that a header can contain: HTAB, and all from SP on except DEL.
pub fn visible(byte: u8) -> u8 {
    if byte == b'\t' || (byte >= 0x20 && byte != 0x7f) {
        byte
    } else {
        b';'
    }
}
