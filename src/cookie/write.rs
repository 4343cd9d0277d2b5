//! Writes the session cookie, and its removal, to a response.

use std::time::Duration;

use cookie::{Cookie, time};
use http::{HeaderMap, HeaderValue, header};

use crate::{
    cookie::{
        SessionCookie,
        name::trim,
        vary::{VARY_COOKIE, vary_by},
    },
    session::{Session, SessionToken},
};

/// Maximum age of a cookie: 400 days, as in browsers (RFC 6265bis §5.5).
const MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

impl SessionCookie {
    /// Sets the cookie with this token, `Cache-Control: no-store` and `Vary: Cookie`.
    pub(crate) fn set(
        &self,
        headers: &mut HeaderMap,
        token: &SessionToken,
        session: &Session,
        remembered: bool,
    ) {
        let mut cookie = self.cookie(token.expose());
        if remembered {
            // The time is rounded down to seconds. The cookie therefore never outlives the session.
            let life = session.remaining().min(MAX_AGE).as_secs();
            let life = i64::try_from(life).unwrap_or(i64::MAX).max(1);
            cookie.set_max_age(time::Duration::seconds(life));
        }
        self.write(headers, &cookie);
    }

    /// Returns the other cookies of this name that the browser may have, each with the attributes
    /// with which it was set.
    fn earlier_cookies(&self) -> impl Iterator<Item = Self> + '_ {
        let unpartitioned = self.partitioned.then(|| Self {
            partitioned: false,
            ..self.clone()
        });
        let elsewhere = self.former_domains.iter().map(|domain| Self {
            domain: Some(domain.clone()),
            ..self.clone()
        });
        unpartitioned.into_iter().chain(elsewhere)
    }

    fn removal(&self) -> Cookie<'_> {
        let mut cookie = self.cookie(String::new());
        cookie.set_max_age(time::Duration::ZERO);
        cookie.set_expires(time::OffsetDateTime::UNIX_EPOCH);
        cookie
    }

    /// Removes the cookie. The removal has the same attributes, because a browser applies the rules
    /// of the prefix to the removal, too (RFC 6265bis §5.7).
    pub(crate) fn clear(&self, headers: &mut HeaderMap) {
        self.write(headers, &self.removal());
    }

    fn cookie(&self, value: String) -> Cookie<'_> {
        let mut cookie = Cookie::build((self.name(), value))
            .path("/")
            .http_only(true)
            .secure(self.secure)
            .same_site(self.same_site)
            .partitioned(self.partitioned);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(domain);
        }
        cookie.build()
    }

    /// Writes the removals of earlier cookies, then this cookie. If a browser treats two of these
    /// cookies as one, it keeps the last one.
    fn write(&self, headers: &mut HeaderMap, cookie: &Cookie<'_>) {
        self.remove_earlier(headers);
        // `no-store` is set before any cookie is appended. If it cannot be set, no cookie is
        // written, because a cache could store the response.
        let no_store = HeaderValue::from_static("no-store");
        if headers.try_insert(header::CACHE_CONTROL, no_store).is_err() {
            return report_full();
        }
        for earlier in self.earlier_cookies() {
            append(headers, &earlier.removal());
        }
        append(headers, cookie);
        vary_by(headers, &VARY_COOKIE);
    }

    /// Removes earlier `Set-Cookie` fields of this name: a response must not set one cookie twice
    /// (RFC 6265bis §4.1.1).
    fn remove_earlier(&self, headers: &mut HeaderMap) {
        // The name is parsed as a browser parses it (RFC 6265bis §5.6).
        let ours = |value: &HeaderValue| {
            let value = value.as_bytes();
            memchr::memchr(b'=', value)
                .is_some_and(|equals| trim(&value[..equals]) == self.name().as_bytes())
        };
        if headers.get_all(header::SET_COOKIE).iter().any(ours) {
            let others: Vec<_> = headers
                .get_all(header::SET_COOKIE)
                .iter()
                .filter(|value| !ours(value))
                .cloned()
                .collect();
            headers.remove(header::SET_COOKIE);
            for other in others {
                // This cannot fail, because at least as many fields have just been removed.
                let _ = headers.try_append(header::SET_COOKIE, other);
            }
        }
    }
}

fn append(headers: &mut HeaderMap, cookie: &Cookie<'_>) {
    // This cannot fail: the name was validated, and the value is base64url or empty.
    let Ok(mut value) = HeaderValue::try_from(cookie.to_string()) else {
        return;
    };
    // HPACK does not index a sensitive value, and `Debug` does not print it.
    value.set_sensitive(true);
    if headers.try_append(header::SET_COOKIE, value).is_err() {
        report_full();
    }
}

fn report_full() {
    tracing::error!(
        target: "tower_user_session",
        event = "cookie_not_written",
        "writing the session cookie failed: the response has too many header fields"
    );
}
