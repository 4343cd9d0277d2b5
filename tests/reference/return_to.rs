//! The allowed return paths, by the documented rule and by a browser's reading of them.

use http::Uri;
use tower_user_session::require_user::ReturnTo;
use url::Url;

/// Whether this path is on this site for each reading of a browser, or why it is rejected.
pub fn allowed(place: &str) -> Result<(), &'static str> {
    if place.len() > 2048 {
        return Err("place: too long");
    }
    let (mut path, mut query) = (Vec::new(), false);
    for sign in place.chars() {
        match sign {
            '\\' => return Err("place: a backslash"),
            '#' => return Err("place: a fragment"),
            '?' => query = true,
            '!'..='~' if query => {}
            '!'..='~' => path.push(sign.to_ascii_lowercase()),
            _ => return Err("place: a sign that is not graphic"),
        }
    }
    if path.first() != Some(&'/') {
        return Err("place: no path");
    }
    if path.windows(2).any(|two| two == ['/', '/']) {
        return Err("place: two slashes");
    }
    let path: String = path.into_iter().collect();
    for segment in path.split('/') {
        if segment == "." || segment == ".." {
            return Err("place: a segment of dots");
        }
        for after in segment.split('%').skip(1) {
            let code = after.get(..2).unwrap_or(after);
            if code.len() < 2 || !code.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err("place: a stray percent sign");
            }
            if ["2f", "5c", "2e", "25"].contains(&code) {
                return Err("place: a slash, backslash, dot or percent sign in disguise");
            }
            if after.starts_with(['0', '1']) || code == "7f" {
                return Err("place: a control character in disguise");
            }
        }
    }
    Ok(())
}

/// Panics unless the crate allows this path if the rule does, and a browser that follows it stays
/// on the site. Returns the kind of path.
pub fn check(place: &str) -> &'static str {
    let parsed = ReturnTo::parse(place);
    let kind = allowed(place).map_or_else(|why| why, |()| "place: on this site");
    assert_eq!(parsed.is_some(), allowed(place).is_ok(), "{place:?} {kind}");
    if let Some(parsed) = parsed {
        assert_eq!(parsed.as_str(), place);
        stays(place);
    }
    // A request's target may be a whole URL, of which the path and the query remain.
    if let Ok(uri) = Uri::try_from(place)
        && let Some(parsed) = ReturnTo::from_uri(&uri)
    {
        stays(parsed.as_str());
    }
    kind
}

/// The URL standard, by an implementation of it, also if a program on the way decodes the path once
/// or twice.
fn stays(place: &str) {
    let here = Url::parse("https://app.example.com/sign-in?next=x").unwrap();
    let (path, query) = place.split_at(place.find('?').unwrap_or(place.len()));
    let mut path = path.to_owned();
    for times_decoded in 0..3 {
        let place = format!("{path}{query}");
        let there = here.join(&place).unwrap();
        assert_eq!(there.origin(), here.origin(), "{place:?}");
        assert!(!there.path().starts_with("//"), "{place:?}");
        if times_decoded == 0 {
            let segments = there.path().split('/').count();
            assert_eq!(segments, path.split('/').count(), "{place:?}");
        }
        path = decoded(&path);
    }
}

fn decoded(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let [first, after @ ..] = rest {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            // A decoded one of these is not a separator any more.
            Some(byte) if *first == b'%' && !b"#?".contains(&byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
