//! The session cookie: its one owner reads it, sets it and clears it.

pub(crate) mod credentials;
mod domain;
mod name;

use std::time::Duration;

use cookie::{Cookie, SameSite, time};
use http::{
    HeaderMap, HeaderValue,
    header::{self, Entry},
};
use smallvec::SmallVec;

use crate::{
    cookie::name::{Name, trim},
    error::{Error, ErrorKind},
    session::{Session, SessionToken},
};

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
/// | no cookie of this name | [`PresentedToken::Nothing`] |
/// | one value, or several equal ones, that is a token | [`PresentedToken::Token`] |
/// | a value that cannot be a token | [`PresentedToken::Malformed`] |
/// | several values that differ, under a name with `__Host-` | [`PresentedToken::Ambiguous`] |
/// | several values that differ, under another name, and more than one is a token | [`PresentedToken::Several`] |
/// | the same, and one is a token | [`PresentedToken::Token`] |
/// | more than eight different values | [`PresentedToken::Ambiguous`] |
///
/// # Several cookies of one name
///
/// A browser sends several cookies of one name if they differ in `Domain` or `Path`: after the `Domain`
/// was changed, or if another application on the host uses the name. With `__Host-` neither can differ, so
/// that a second value is an attack or a defect. Without it, [`LoadUserLayer`](crate::load_user::LoadUserLayer) looks
/// all the tokens up in one query and accepts the request if exactly one of their sessions is live.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::COOKIE};
/// use tower_user_session::cookie::{PresentedToken, SessionCookie};
///
/// let mut headers = HeaderMap::new();
/// let text = "theme=dark; __Host-session=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// headers.insert(COOKIE, HeaderValue::from_static(text));
/// assert!(matches!(SessionCookie::default().read(&headers), PresentedToken::Token(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCookie {
    name: Name,
    domain: Option<String>,
    former_domains: Vec<String>,
    same_site: SameSite,
    secure: bool,
    partitioned: bool,
}

/// What a request presents as its session.
#[derive(Debug)]
#[non_exhaustive]
pub enum PresentedToken {
    /// Nothing of ours.
    Nothing,
    /// A token, whose session may or may not exist.
    Token(SessionToken),
    /// Something that cannot be a token.
    Malformed,
    /// Several tokens, of whose sessions at most one may be live. Never under a name with `__Host-`.
    Several(Vec<SessionToken>),
    /// Several different values that cannot be told apart.
    Ambiguous,
}

impl Default for SessionCookie {
    fn default() -> Self {
        Self {
            name: Name::new(DEFAULT_NAME),
            domain: None,
            former_domains: Vec::new(),
            same_site: SameSite::Lax,
            secure: true,
            partitioned: false,
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
    /// be used: an IP address, a single label such as `localhost`, a public suffix such as `co.uk` (RFC
    /// 6265bis §5.7). Only well-known public suffixes are recognized here; a browser knows all of them and
    /// stores no cookie for one.
    ///
    /// # Changing the domain
    ///
    /// The browser keeps the cookie with the former `Domain` until it expires, and sends both. Such requests
    /// are accepted as long as one of the two sessions is live ([How a request is
    /// read](#how-a-request-is-read)). Name the former `Domain` with
    /// [`former_domain`](Self::former_domain) until its last cookie has expired: the sessions end and the
    /// cookies go at the next sign-in or sign-out.
    pub fn shared_with_subdomains(name: &str, domain: &str) -> Result<Self, Error> {
        domain::check(domain)?;
        Ok(Self {
            name: Name::prefixed("__Secure-", name)?,
            domain: Some(domain.to_owned()),
            ..Self::default()
        })
    }

    /// Also tells the browser, at each sign-in and sign-out, to drop the cookie of this name with this
    /// `Domain`, which an earlier version of the application has set. It can be called several times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a cookie with `__Host-`, which has no `Domain`, for the present
    /// `Domain`, and for one that cannot be used.
    pub fn former_domain(mut self, domain: &str) -> Result<Self, Error> {
        domain::check(domain)?;
        let present = self.domain.as_deref();
        if self.name().starts_with("__Host-")
            || present.is_some_and(|present| present.eq_ignore_ascii_case(domain))
        {
            let context = "the cookie's former domain is its present one, or its name excludes any";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.former_domains.push(domain.to_owned());
        Ok(self)
    }

    /// A cookie called `session` without `Secure` and without a prefix, for development over plain
    /// http: **anyone on the network can read it, and any other site on the host can plant it**.
    ///
    /// Logs a warning. Browsers treat `http://localhost` as secure to different degrees; with this
    /// cookie nothing depends on that.
    ///
    /// Browsers do not tell ports apart: two applications on `localhost` with one cookie name sign each
    /// other out. Give each a name of its own with
    /// [`insecure_for_local_development_named`](Self::insecure_for_local_development_named).
    pub fn insecure_for_local_development() -> Self {
        Self::insecure(Name::new("session"))
    }

    /// Like [`insecure_for_local_development`](Self::insecure_for_local_development), with another name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when the name cannot be used: see [`named`](Self::named).
    pub fn insecure_for_local_development_named(name: &str) -> Result<Self, Error> {
        Name::prefixed("", name).map(Self::insecure)
    }

    fn insecure(name: Name) -> Self {
        tracing::warn!(
            "the session cookie is insecure: it is sent over plain http and can be planted by \
             other sites on this host; use it for local development only"
        );
        Self {
            name,
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
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.same_site = SameSite::None;
        Ok(self)
    }

    /// Sets the attribute `Partitioned` (CHIPS): the browser keeps a cookie for each site that embeds the
    /// application, and still sends it where it blocks the cookies of embedded sites. A person is then signed
    /// in on each embedding site separately.
    ///
    /// A browser can hold a partitioned and an older unpartitioned cookie of one name and send both. They are
    /// read as [several cookies of one name](#several-cookies-of-one-name), under a name with `__Host-` too. A
    /// sign-in tells the browser to drop the unpartitioned one, and a sign-out both.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] without [`same_site_none`](Self::same_site_none): the browser sends the
    /// cookie of an embedded application only with `SameSite=None; Secure`.
    pub fn partitioned(mut self) -> Result<Self, Error> {
        if self.same_site != SameSite::None {
            let context = "a partitioned cookie must have SameSite=None";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.partitioned = true;
        Ok(self)
    }

    /// The cookie's whole name, prefix included.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What `headers` present under this cookie's name. See [How a request is read](#how-a-request-is-read).
    pub fn read(&self, headers: &HeaderMap) -> PresentedToken {
        let mut first: Option<&[u8]> = None;
        for line in headers.get_all(header::COOKIE) {
            for value in self.name.values(line.as_bytes()) {
                match first {
                    None => first = Some(value),
                    Some(first) if first == value => {}
                    Some(_) => return self.read_several(headers),
                }
            }
        }
        match first.map(SessionToken::parse) {
            None => PresentedToken::Nothing,
            Some(None) => PresentedToken::Malformed,
            Some(Some(token)) => PresentedToken::Token(token),
        }
    }

    /// Reads a request that presents more than one value.
    fn read_several(&self, headers: &HeaderMap) -> PresentedToken {
        if !self.may_be_several() {
            return PresentedToken::Ambiguous;
        }
        let mut distinct = SmallVec::<[&[u8]; MOST_PRESENTED]>::new();
        for value in self.values(headers) {
            if distinct.contains(&value) {
                continue;
            }
            if distinct.len() == MOST_PRESENTED {
                return PresentedToken::Ambiguous;
            }
            distinct.push(value);
        }
        let mut tokens: Vec<_> = distinct
            .into_iter()
            .filter_map(SessionToken::parse)
            .collect();
        match tokens.len() {
            0 => PresentedToken::Malformed,
            1 => tokens
                .pop()
                .map_or(PresentedToken::Malformed, PresentedToken::Token),
            _ => PresentedToken::Several(tokens),
        }
    }

    /// Whether a browser can hold several cookies of this name that this application has set.
    fn may_be_several(&self) -> bool {
        self.partitioned || !self.name().starts_with("__Host-")
    }

    fn values<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> + 'a {
        let lines = headers.get_all(header::COOKIE).iter();
        lines.flat_map(|line| self.name.values(line.as_bytes()))
    }

    /// Every token that `headers` present, for ending them all. A flood of them is cut off.
    pub(crate) fn tokens<'a>(
        &'a self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = SessionToken> + 'a {
        self.values(headers)
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

    /// The cookies of this name that the browser may hold besides the present one, each with the attributes
    /// under which it was set.
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

    /// Writes the removal of the cookie, with the same attributes, since a browser applies the
    /// rules of the prefix to a removal too (RFC 6265bis §5.7).
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

    /// Writes the removals of earlier cookies, then this one: a browser that takes two of them for one cookie
    /// keeps the last.
    fn write(&self, headers: &mut HeaderMap, cookie: &Cookie<'_>) {
        self.remove_earlier(headers);
        // First, so that no cookie is written that a cache could keep.
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
                // There is room: more than these have just been removed.
                let _ = headers.try_append(header::SET_COOKIE, other);
            }
        }
    }
}

/// The names of the header fields with credentials, as `Vary` lists them.
pub(crate) static VARY_COOKIE: HeaderValue = HeaderValue::from_static("cookie");
pub(crate) static VARY_AUTHORIZATION: HeaderValue = HeaderValue::from_static("authorization");

/// Adds a header's name, in lower case, to `Vary`, unless it is there or `*` is.
pub(crate) fn vary_by(headers: &mut HeaderMap, name: &'static HeaderValue) {
    // A full map has no room for a field of any name. Nothing that a cache could keep passes through a server
    // or a proxy with so many of them.
    match headers.try_entry(header::VARY) {
        Ok(Entry::Vacant(entry)) => {
            let _ = entry.try_insert(name.clone());
        }
        Ok(Entry::Occupied(mut entry)) if !entry.iter().any(|value| lists(value, name)) => {
            entry.append(name.clone());
        }
        Ok(Entry::Occupied(_)) | Err(_) => {}
    }
}

/// Whether this value of `Vary` lists the name, or everything.
fn lists(value: &HeaderValue, name: &HeaderValue) -> bool {
    value.as_bytes().split(|&byte| byte == b',').any(|field| {
        let field = field.trim_ascii();
        field == b"*" || field.eq_ignore_ascii_case(name.as_bytes())
    })
}

fn append(headers: &mut HeaderMap, cookie: &Cookie<'_>) {
    // The name was checked, the value is base64url or empty: it is always a header's value.
    let Ok(mut value) = HeaderValue::try_from(cookie.to_string()) else {
        return;
    };
    // Never indexed by HPACK, never printed.
    value.set_sensitive(true);
    if headers.try_append(header::SET_COOKIE, value).is_err() {
        report_full();
    }
}

fn report_full() {
    tracing::error!("writing the session cookie failed: the response has too many header fields");
}
