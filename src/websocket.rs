//! Origin checks for WebSocket handshakes.
//!
//! A page of any site can open a WebSocket to your server. With `SameSite=Lax` or `Strict`, the
//! browser sends the session cookie with the handshake if the page is of the same site, such as a
//! sibling subdomain. With `SameSite=None`, it sends the cookie for pages of every site. A CSRF
//! layer does not reject the handshake, because it is a `GET` request. A handler must therefore
//! check the origin before it accepts a WebSocket (RFC 6455 §10.2).
//!
//! To end a WebSocket with its session, see [`feed`](crate::feed).
//!
//! # Example
//!
//! ```
//! use http::{HeaderMap, Request, StatusCode};
//! use tower_user_session::websocket::is_same_origin;
//!
//! fn check<B>(request: &Request<B>) -> Result<(), StatusCode> {
//!     if is_same_origin(request.headers(), request.uri()) {
//!         Ok(())
//!     } else {
//!         Err(StatusCode::FORBIDDEN)
//!     }
//! }
//!
//! let request = Request::get("/events")
//!     .header("host", "example.com")
//!     .header("origin", "https://evil.example")
//!     .body(())
//!     .unwrap();
//! assert_eq!(check(&request), Err(StatusCode::FORBIDDEN));
//! ```

use std::net::IpAddr;

use http::{HeaderMap, Uri, header, uri::Authority};

/// Returns whether the request has no `Origin`, or was sent to the origin that `Origin` names.
///
/// If it returns `false`, respond to the WebSocket handshake with 403.
///
/// * `Origin` must have the host and port of the request. `null`, an invalid origin and more than
///   one `Origin` are rejected. A client that sends no `Origin` is not a browser and is accepted.
/// * `Origin` must be `https:`, unless the host is a loopback address or `localhost`. A server
///   behind a proxy that terminates TLS does not know its own scheme. Without this rule, the
///   function would accept a page that a network attacker serves over plain http on the same host.
///   A browser can send the session cookie on the `wss:` handshake of such a page, because `Secure`
///   depends only on the scheme of the handshake.
/// * `Sec-Fetch-Site`, if present, must be `same-origin`. If it is absent, only `Origin` is
///   checked.
///
/// The request's host is the host of the URI, if the URI has one (HTTP/2). Otherwise it is the host
/// in the header `Host`. Use [`is_from_origin`] behind a proxy that changes the host, and for an
/// application that uses plain http on a host that is not loopback.
///
/// ```
/// use http::{HeaderMap, HeaderValue, Uri, header};
/// use tower_user_session::websocket::is_same_origin;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::HOST, HeaderValue::from_static("example.com"));
/// headers.insert(header::ORIGIN, HeaderValue::from_static("https://example.com"));
/// assert!(is_same_origin(&headers, &Uri::from_static("/events")));
/// headers.insert(header::ORIGIN, HeaderValue::from_static("http://example.com"));
/// assert!(!is_same_origin(&headers, &Uri::from_static("/events")));
/// headers.insert(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
/// assert!(!is_same_origin(&headers, &Uri::from_static("/events")));
/// ```
#[doc(alias("csrf", "cross-site", "origin"))]
pub fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    is_from(headers, |origin| {
        let to = match uri.authority() {
            Some(authority) => Some(authority.clone()),
            None => only_host(headers),
        };
        to.is_some_and(|to| origin.is_at(&to) && (origin.https || is_loopback(to.host())))
    })
}

/// Returns whether the request has no `Origin`, or an `Origin` that equals `expected`.
///
/// `expected` is the origin that browsers use: `https://app.example.com`, or
/// `http://intranet.example:8080` for an application that uses plain http. Scheme, host and port
/// must be equal. If `expected` or the request's `Origin` is invalid, the two are not equal.
/// `Sec-Fetch-Site` is checked as in [`is_same_origin`].
///
/// ```
/// use http::{HeaderMap, HeaderValue, header};
/// use tower_user_session::websocket::is_from_origin;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::ORIGIN, HeaderValue::from_static("https://app.example.com"));
/// assert!(is_from_origin(&headers, "https://app.example.com"));
/// assert!(!is_from_origin(&headers, "http://app.example.com"));
/// ```
pub fn is_from_origin(headers: &HeaderMap, expected: &str) -> bool {
    let expected = Origin::parse(expected.as_bytes());
    is_from(headers, |origin| {
        expected.is_some_and(|expected| {
            origin.https == expected.https && origin.is_at(&expected.authority)
        })
    })
}

fn is_from(headers: &HeaderMap, is_expected: impl FnOnce(&Origin) -> bool) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    if !sites.all(|site| site == "same-origin") {
        return false;
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            Origin::parse(origin.as_bytes()).is_some_and(|origin| is_expected(&origin))
        }
        (Some(_), Some(_)) => false,
    }
}

/// A web origin (RFC 6454 §4).
struct Origin {
    https: bool,
    authority: Authority,
}

impl Origin {
    fn parse(text: &[u8]) -> Option<Self> {
        let uri = Uri::try_from(text).ok()?;
        let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        bare.then(|| Self::of(&uri)).flatten()
    }

    /// Returns the origin of a page.
    fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.clone();
        (!authority.as_str().contains('@')).then_some(Self { https, authority })
    }

    /// Returns whether the host and the port are equal. The default port depends on the scheme.
    fn is_at(&self, to: &Authority) -> bool {
        let standard = if self.https { 443 } else { 80 };
        self.authority.host().eq_ignore_ascii_case(to.host())
            && self.authority.port_u16().unwrap_or(standard) == to.port_u16().unwrap_or(standard)
    }
}

/// Returns whether the page has the host and port of the request. The scheme is ignored.
pub(crate) fn is_page_of_host(page: &Uri, headers: &HeaderMap, uri: &Uri) -> bool {
    let to = uri.authority().cloned().or_else(|| only_host(headers));
    Origin::of(page).is_some_and(|origin| to.is_some_and(|to| origin.is_at(&to)))
}

/// Returns whether the host is this machine (RFC 6761 §6.3).
fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

fn only_host(headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, None) = (hosts.next()?, hosts.next()) else {
        return None;
    };
    Authority::try_from(host.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn same_origin(host: &str, uri: &'static str, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(header::HOST, HeaderValue::try_from(host).unwrap());
        }
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::try_from(*origin).unwrap());
        }
        is_same_origin(&headers, &Uri::from_static(uri))
    }

    /// K10, O07
    #[test]
    fn only_pages_of_the_same_origin_can_open_a_websocket() {
        for (host, uri, origin) in [
            ("example.com", "/", "https://example.com"),
            ("EXAMPLE.com", "/", "https://example.COM"),
            ("example.com:443", "/", "https://example.com"),
            ("example.com", "/", "https://example.com:443"),
            ("example.com:8443", "/", "https://example.com:8443"),
            ("127.0.0.1:3000", "/", "http://127.0.0.1:3000"),
            ("[::1]:3000", "/", "http://[::1]:3000"),
            ("LOCALHOST:3000", "/", "http://localhost:3000"),
            ("app.localhost", "/", "http://app.localhost"),
            ("127.9.9.9", "/", "http://127.9.9.9"),
            (
                "other.example",
                "https://example.com/",
                "https://example.com",
            ),
        ] {
            assert!(same_origin(host, uri, &[origin]), "{host} {uri} {origin}");
        }
        assert!(same_origin("example.com", "/", &[]));
        for (host, origin) in [
            // O07: plain http is accepted on loopback only.
            ("example.com", "http://example.com"),
            ("example.com:80", "http://example.com"),
            ("example.com:8080", "http://example.com:8080"),
            ("128.0.0.1", "http://128.0.0.1"),
            ("[::2]:3000", "http://[::2]:3000"),
            ("localhost.example", "http://localhost.example"),
            ("example.com", "http://localhost"),
            ("localhost", "ws://localhost"),
            ("example.com", "https://evil.example"),
            ("example.com", "https://sub.example.com"),
            ("example.com", "https://example.com.evil.example"),
            ("example.com", "https://example.com:8443"),
            ("example.com:8443", "https://example.com"),
            ("example.com", "https://example.com@evil.example"),
            ("example.com", "https://evil@example.com"),
            ("example.com", "https://example.com/path"),
            ("example.com", "https://example.com?query"),
            ("example.com", "ftp://example.com"),
            ("example.com", "file://example.com"),
            ("example.com", "example.com"),
            ("example.com", "null"),
            ("example.com", ""),
            ("", "https://example.com"),
            ("not a host", "https://example.com"),
        ] {
            assert!(!same_origin(host, "/", &[origin]), "{host} {origin}");
        }
        let twice = ["https://example.com", "https://example.com"];
        assert!(!same_origin("example.com", "/", &twice));
    }

    /// K10: proxies differ in which of two `Host` fields they use, so neither is accepted.
    #[test]
    fn a_request_with_two_hosts_has_no_origin_of_its_own() {
        for hosts in [
            ["example.com", "evil.example"],
            ["evil.example", "example.com"],
            ["example.com", "example.com"],
        ] {
            let mut headers: HeaderMap = hosts
                .map(|host| (header::HOST, HeaderValue::from_static(host)))
                .into_iter()
                .collect();
            let origin = HeaderValue::from_static("https://example.com");
            headers.insert(header::ORIGIN, origin);
            assert!(!is_same_origin(&headers, &Uri::from_static("/")));
        }
    }

    /// O07: `Sec-Fetch-Site` can only reject a request. A request without it is checked by its
    /// `Origin`.
    #[test]
    fn fetch_metadata_of_another_site_is_rejected() {
        for (sites, allowed) in [
            (&[][..], true),
            (&["same-origin"], true),
            (&["same-origin", "same-origin"], true),
            (&["same-site"], false),
            (&["cross-site"], false),
            (&["none"], false),
            (&[""], false),
            (&["SAME-ORIGIN"], false),
            (&["same-origin", "cross-site"], false),
        ] {
            for origin in [Some("https://example.com"), None] {
                let mut headers = HeaderMap::new();
                headers.insert(header::HOST, HeaderValue::from_static("example.com"));
                if let Some(origin) = origin {
                    headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
                }
                for site in sites {
                    headers.append("sec-fetch-site", HeaderValue::from_static(site));
                }
                let same = is_same_origin(&headers, &Uri::from_static("/"));
                assert_eq!(same, allowed, "{sites:?} {origin:?}");
                let expected = is_from_origin(&headers, "https://example.com");
                assert_eq!(expected, allowed, "{sites:?} {origin:?}");
            }
        }
    }

    /// O07: the expected origin is compared with its scheme, and the request's host is ignored.
    #[test]
    fn an_expected_origin_is_compared_with_its_scheme() {
        for (expected, origin, same) in [
            (
                "http://intranet.example:8080",
                "http://intranet.example:8080",
                true,
            ),
            (
                "https://app.example.com",
                "https://APP.example.com:443",
                true,
            ),
            ("https://app.example.com/", "https://app.example.com", true),
            ("https://app.example.com", "http://app.example.com", false),
            (
                "https://app.example.com",
                "http://app.example.com:443",
                false,
            ),
            ("http://app.example.com", "https://app.example.com", false),
            ("https://app.example.com", "https://example.com", false),
            ("https://app.example.com", "null", false),
            ("app.example.com", "https://app.example.com", false),
            ("null", "null", false),
            ("", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("proxied.internal"));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(
                is_from_origin(&headers, expected),
                same,
                "{expected} {origin}"
            );
        }
    }
}
