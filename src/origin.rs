//! Where a WebSocket's handshake comes from.

use http::{HeaderMap, Uri, header, uri::Authority};

/// Whether this request comes from a page of the host that it is sent to, or from no page at all: for
/// WebSocket handshakes, which a browser sends with cookies from any site, and which a CSRF layer lets
/// through because they are `GET` requests (RFC 6455 §10.2). Answer 403 where this is `false`.
///
/// `Origin` must name the request's own host and port; without an `Origin` the client is not a browser.
/// More than one, `null`, and what is not an origin are refused.
///
/// The host is that of the URI where it has one (HTTP/2), else of `Host`. Behind a proxy that changes
/// it, compare `Origin` with the name that browsers see instead. The scheme is not compared, because
/// a server behind a proxy that ends TLS does not know its own: a page over plain http on the same
/// host passes, and the session cookie's `Secure` is what keeps it out.
///
/// ```
/// use http::{HeaderMap, HeaderValue, Uri, header};
/// use tower_user_session::is_same_origin;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::HOST, HeaderValue::from_static("example.com"));
/// headers.insert(header::ORIGIN, HeaderValue::from_static("https://example.com"));
/// assert!(is_same_origin(&headers, &Uri::from_static("/events")));
/// headers.insert(header::ORIGIN, HeaderValue::from_static("https://evil.example"));
/// assert!(!is_same_origin(&headers, &Uri::from_static("/events")));
/// ```
pub fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return true,
        (Some(origin), None) => origin,
        (Some(_), Some(_)) => return false,
    };
    let Ok(origin) = Uri::try_from(origin.as_bytes()) else {
        return false;
    };
    let bare = origin.path().trim_end_matches('/').is_empty() && origin.query().is_none();
    let (Some(scheme), Some(from), true) = (origin.scheme_str(), origin.authority(), bare) else {
        return false;
    };
    let to = match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => only_host(headers),
    };
    let standard = match scheme {
        "https" | "wss" => 443,
        "http" | "ws" => 80,
        _ => return false,
    };
    let same = |to: &Authority| {
        from.host().eq_ignore_ascii_case(to.host())
            && from.port_u16().unwrap_or(standard) == to.port_u16().unwrap_or(standard)
            && !from.as_str().contains('@')
    };
    to.as_ref().is_some_and(same)
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

    fn asked(host: &str, uri: &'static str, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(header::HOST, HeaderValue::try_from(host).unwrap());
        }
        for origin in origins {
            headers.append(header::ORIGIN, HeaderValue::try_from(*origin).unwrap());
        }
        is_same_origin(&headers, &Uri::from_static(uri))
    }

    /// K10
    #[test]
    fn only_pages_of_the_same_host_and_port_may_open_a_websocket() {
        for (host, uri, origin) in [
            ("example.com", "/", "https://example.com"),
            ("example.com", "/", "http://example.com"),
            ("EXAMPLE.com", "/", "https://example.COM"),
            ("example.com:443", "/", "https://example.com"),
            ("example.com", "/", "https://example.com:443"),
            ("example.com:8443", "/", "https://example.com:8443"),
            ("127.0.0.1:3000", "/", "http://127.0.0.1:3000"),
            ("[::1]:3000", "/", "http://[::1]:3000"),
            (
                "other.example",
                "https://example.com/",
                "https://example.com",
            ),
        ] {
            assert!(asked(host, uri, &[origin]), "{host} {uri} {origin}");
        }
        assert!(asked("example.com", "/", &[]));
        for (host, origin) in [
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
            assert!(!asked(host, "/", &[origin]), "{host} {origin}");
        }
        let twice = ["https://example.com", "https://example.com"];
        assert!(!asked("example.com", "/", &twice));
    }

    /// K10: whoever takes the one `Host` for the request's must not be told of the other.
    #[test]
    fn a_request_with_two_hosts_comes_from_no_page_of_its_own() {
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
}
