//! The session cookie: its one owner reads it, sets it and clears it.

mod name;

use std::time::Duration;

use cookie::{Cookie, SameSite, time};
use http::{HeaderMap, HeaderValue, header};

use self::name::{Name, trim};
use crate::{Error, ErrorKind, SessionToken, session::Session};

/// The cookie's name, unless the application chooses another.
const DEFAULT_NAME: &str = "__Host-session";
/// The longest life of a cookie: 400 days (RFC 6265bis §5.5); a browser would cut it.
const LONGEST_LIFE: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// More values of our name than an honest client sends; sign-out ends the sessions of so many.
pub(crate) const MOST_PRESENTED: usize = 8;

/// The session cookie's name and attributes. One value reads, sets and clears, so that the three
/// cannot disagree.
///
/// The default is `__Host-session` with `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/` and no
/// `Domain`. Browsers accept the `__Host-` prefix only on such a cookie (RFC 6265bis §4.1.3.2), so
/// that a sibling subdomain can neither read nor plant it (OWASP ASVS 5.0, 3.3.1 to 3.3.4).
///
/// # How a request is read
///
/// On the raw bytes of every `Cookie` header, in whatever order and however they are split over
/// header lines (RFC 9113 §8.2.3): pieces end at `;`, SP and HTAB around a piece are trimmed, the
/// name is compared byte for byte, and nothing is decoded or unquoted. A strange byte in another
/// cookie does no harm. Reading allocates nothing and takes time linear in the headers' length.
///
/// | the request has | it is |
/// |---|---|
/// | no cookie of this name | [`Presented::Nothing`] |
/// | one value, or several equal ones, that is a token | [`Presented::Token`] |
/// | a value that cannot be a token | [`Presented::Malformed`] |
/// | several values that differ | [`Presented::Ambiguous`]: nobody can say which is meant |
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::COOKIE};
/// use tower_user_session::{Presented, SessionCookie};
///
/// let mut headers = HeaderMap::new();
/// let text = "theme=dark; __Host-session=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// headers.insert(COOKIE, HeaderValue::from_static(text));
/// assert!(matches!(SessionCookie::default().read(&headers), Presented::Token(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCookie {
    name: Name,
    domain: Option<String>,
    same_site: SameSite,
    secure: bool,
}

/// What a request presents as its session.
#[derive(Debug)]
#[non_exhaustive]
pub enum Presented {
    /// Nothing of ours.
    Nothing,
    /// A token, whose session may or may not exist.
    Token(SessionToken),
    /// Something that cannot be a token.
    Malformed,
    /// Several different values.
    Ambiguous,
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self {
            name: Name::new(DEFAULT_NAME),
            domain: None,
            same_site: SameSite::Lax,
            secure: true,
        }
    }
}

impl SessionCookie {
    /// A cookie called `__Host-` and then `name`, otherwise like the default.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when `name` is empty, longer than 64 bytes or not a token of
    /// RFC 9110 §5.6.2.
    pub fn named(name: &str) -> Result<Self, Error> {
        Ok(Self {
            name: Name::prefixed("__Host-", name)?,
            ..Self::default()
        })
    }

    /// A cookie called `__Secure-` and then `name`, that **every subdomain of `domain` can read and
    /// plant**: a foothold on any of them reaches the session. For applications that are spread
    /// over subdomains on purpose (OWASP ASVS 5.0, 3.3.3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when the name (see [`named`](Self::named)) or the domain cannot
    /// be used.
    pub fn shared_with_subdomains(name: &str, domain: &str) -> Result<Self, Error> {
        let labels = domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
        if domain.len() > 253 || !labels {
            let context =
                "the cookie's domain is not a host name (in ASCII, without a leading dot)";
            return Err(Error::bare(ErrorKind::Configuration).saying(context));
        }
        Ok(Self {
            name: Name::prefixed("__Secure-", name)?,
            domain: Some(domain.to_owned()),
            ..Self::default()
        })
    }

    /// A cookie called `session` without `Secure` and without a prefix, for development over plain
    /// http: **anyone on the network can read it, and any other site on the host can plant it**.
    ///
    /// Logs a warning. Browsers treat `http://localhost` as secure to different degrees; with this
    /// cookie nothing depends on that.
    pub fn insecure_for_local_development() -> Self {
        tracing::warn!(
            "the session cookie is insecure: it is sent over plain http and can be planted by \
             other sites on this host; use it for local development only"
        );
        Self {
            name: Name::new("session"),
            secure: false,
            ..Self::default()
        }
    }

    /// Sends the cookie on no request that another site caused, not even on following a link
    /// (RFC 6265bis §5.6.7): the person arrives signed out and is signed in on the next click.
    pub fn same_site_strict(mut self) -> Self {
        self.same_site = SameSite::Strict;
        self
    }

    /// Sends the cookie on **every request that any other site causes**, for an application that is
    /// embedded in others' pages. Then only a CSRF check stands between them and the session.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a cookie without `Secure`, which browsers would refuse.
    pub fn same_site_none(mut self) -> Result<Self, Error> {
        if !self.secure {
            let context = "a cookie with SameSite=None must have Secure";
            return Err(Error::bare(ErrorKind::Configuration).saying(context));
        }
        self.same_site = SameSite::None;
        Ok(self)
    }

    /// The cookie's whole name, prefix included.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What `headers` present under this cookie's name. See [How a request is read](#how-a-request-is-read).
    pub fn read(&self, headers: &HeaderMap) -> Presented {
        let mut first: Option<&[u8]> = None;
        for line in headers.get_all(header::COOKIE) {
            for value in self.name.values(line.as_bytes()) {
                match first {
                    None => first = Some(value),
                    Some(first) if first == value => {}
                    Some(_) => return Presented::Ambiguous,
                }
            }
        }
        match first.map(SessionToken::parse) {
            None => Presented::Nothing,
            Some(None) => Presented::Malformed,
            Some(Some(token)) => Presented::Token(token),
        }
    }

    /// Every token that `headers` present, for ending them all. A flood of them is cut off.
    pub(crate) fn tokens<'a>(
        &'a self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = SessionToken> + 'a {
        let lines = headers.get_all(header::COOKIE).iter();
        lines
            .flat_map(|line| self.name.values(line.as_bytes()))
            .filter_map(SessionToken::parse)
            .take(MOST_PRESENTED)
    }

    /// Writes the cookie with this token, and what caches must know about such a response:
    /// `Cache-Control: no-store` and `Vary: Cookie`.
    pub(crate) fn set(
        &self,
        headers: &mut HeaderMap,
        token: &SessionToken,
        session: &Session,
        remembered: bool,
    ) {
        let mut cookie = self.cookie(token.expose());
        if remembered {
            // Whole seconds, rounded down: the cookie never outlives the session.
            let life = session.remaining().min(LONGEST_LIFE).as_secs();
            let life = i64::try_from(life).unwrap_or(i64::MAX).max(1);
            cookie.set_max_age(time::Duration::seconds(life));
        }
        self.write(headers, &cookie);
    }

    /// Writes the removal of the cookie, with the same attributes, since a browser applies the
    /// rules of the prefix to a removal too (RFC 6265bis §5.7).
    pub(crate) fn clear(&self, headers: &mut HeaderMap) {
        let mut cookie = self.cookie(String::new());
        cookie.set_max_age(time::Duration::ZERO);
        cookie.set_expires(time::OffsetDateTime::UNIX_EPOCH);
        self.write(headers, &cookie);
    }

    fn cookie(&self, value: String) -> Cookie<'_> {
        let mut cookie = Cookie::build((self.name(), value))
            .path("/")
            .http_only(true)
            .secure(self.secure)
            .same_site(self.same_site);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(domain);
        }
        cookie.build()
    }

    fn write(&self, headers: &mut HeaderMap, cookie: &Cookie<'_>) {
        // The name was checked, the value is base64url or empty: it is always a header's value.
        let Ok(mut value) = HeaderValue::try_from(cookie.to_string()) else {
            return;
        };
        // Never indexed by HPACK, never printed.
        value.set_sensitive(true);
        self.remove_earlier(headers);
        headers.append(header::SET_COOKIE, value);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        vary_by(headers, "cookie");
    }

    /// A response must not set one cookie twice (RFC 6265bis §4.1.1).
    fn remove_earlier(&self, headers: &mut HeaderMap) {
        // Whoever wrote it, it is ours if a browser takes it for ours (RFC 6265bis §5.6).
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
                headers.append(header::SET_COOKIE, other);
            }
        }
    }
}

/// Adds a header's name, in lower case, to `Vary`, unless it is there or `*` is.
pub(crate) fn vary_by(headers: &mut HeaderMap, name: &'static str) {
    let named = headers.get_all(header::VARY).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|field| {
            let field = field.trim_ascii();
            field == b"*" || field.eq_ignore_ascii_case(name.as_bytes())
        })
    });
    if !named {
        headers.append(header::VARY, HeaderValue::from_static(name));
    }
}
