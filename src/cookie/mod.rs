//! The session cookie: its name and attributes, and how a request is read.
//!
//! [`SessionCookie`] configures the cookie, and reads, sets and removes it. The default is for an
//! application on one host. [`PresentedToken`] is the result of reading a request.
//!
//! # Example
//!
//! ```
//! use tower_user_session::{SessionService, cookie::SessionCookie, store::MemorySessionStore};
//!
//! # fn main() -> Result<(), tower_user_session::Error> {
//! # let store = MemorySessionStore::<i64, ()>::new();
//! let sessions = SessionService::builder(store)
//!     .cookie(SessionCookie::named("shop")?)
//!     .build()?;
//! assert_eq!(sessions.cookie().name(), "__Host-shop");
//! # Ok(())
//! # }
//! ```

pub(crate) mod credentials;
mod domain;
mod name;
mod read;
pub(crate) mod vary;
mod write;

use cookie::SameSite;

pub use self::read::PresentedToken;
use crate::{
    cookie::name::Name,
    error::{Error, ErrorKind},
};

/// The default name of the cookie.
const DEFAULT_NAME: &str = "__Host-session";

/// The session cookie's name and attributes. The same value reads, sets and removes the cookie.
///
/// The default is `__Host-session` with `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/` and no
/// `Domain`. Browsers accept the prefix `__Host-` only on such a cookie (RFC 6265bis §4.1.3.2). A
/// sibling subdomain can therefore neither read nor set the cookie (OWASP ASVS 5.0, 3.3.1 to
/// 3.3.4).
///
/// # How a request is read
///
/// The raw bytes of all `Cookie` headers are searched. Neither the order of the cookies nor their
/// distribution over header lines (RFC 9113 §8.2.3) matters.
///
/// * Pieces end at `;`. SP and HTAB around a piece are trimmed.
/// * The name is compared byte for byte. Nothing is decoded or unquoted.
/// * Invalid bytes in other cookies are ignored.
/// * Reading takes time linear in the length of the headers. It allocates nothing, unless a name
///   without `__Host-` or a partitioned cookie has several different values.
///
/// | the request has | result |
/// |---|---|
/// | no cookie of this name | [`PresentedToken::Nothing`] |
/// | one value, or several equal values, in the format of a token | [`PresentedToken::Token`] |
/// | a value that cannot be a token | [`PresentedToken::Malformed`] |
/// | several values that differ, under a name with `__Host-`, if the cookie is not partitioned | [`PresentedToken::Ambiguous`] |
/// | several values that differ, under another name or of a partitioned cookie: more than one is a token | [`PresentedToken::Several`] |
/// | several values that differ, under another name or of a partitioned cookie: exactly one is a token | [`PresentedToken::Token`] |
/// | several values that differ, under another name or of a partitioned cookie: none is a token | [`PresentedToken::Malformed`] |
/// | more than eight different values | [`PresentedToken::Ambiguous`] |
///
/// # Several cookies of one name
///
/// A browser sends several cookies of one name if they differ in `Domain` or `Path`. This happens
/// after a change of the `Domain`, or if another application on the host uses the name.
///
/// With the prefix `__Host-`, neither attribute can differ. A second value is therefore an attack
/// or a defect. Without the prefix, [`LoadUserLayer`](crate::load_user::LoadUserLayer) looks up all
/// tokens in one query. The layer accepts the request if exactly one of the sessions is live.
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
    /// Creates a cookie named `__Host-{name}`, with the default attributes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if `name` is empty, longer than 64 bytes, not a token of RFC
    /// 9110 §5.6.2, or begins with `__`.
    pub fn named(name: &str) -> Result<Self, Error> {
        Ok(Self {
            name: Name::prefixed("__Host-", name)?,
            ..Self::default()
        })
    }

    /// Creates a cookie named `__Secure-{name}` that **every subdomain of `domain` can read and
    /// set**.
    ///
    /// An attacker who controls one subdomain gets the session. Use this cookie only for an
    /// application that is deliberately spread over subdomains (OWASP ASVS 5.0, 3.3.3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the name is invalid (see [`named`](Self::named)), or the
    /// domain is an IP address, a single label such as `localhost`, or a public suffix such as
    /// `co.uk` (RFC 6265bis §5.7). Only well-known public suffixes are recognized. A browser knows
    /// all public suffixes, and stores no cookie for a public suffix.
    ///
    /// # Changing the domain
    ///
    /// The browser keeps the cookie with the former `Domain` until that cookie expires. Until then,
    /// the browser sends both cookies. A request with both cookies is accepted if exactly one of
    /// the two sessions is live ([How a request is read](#how-a-request-is-read)).
    ///
    /// Pass the former `Domain` to [`former_domain`](Self::former_domain) until the last cookie
    /// with that `Domain` has expired. The next sign-in or sign-out then ends the sessions of both
    /// cookies and removes the former cookie.
    pub fn shared_with_subdomains(name: &str, domain: &str) -> Result<Self, Error> {
        domain::check(domain)?;
        Ok(Self {
            name: Name::prefixed("__Secure-", name)?,
            domain: Some(domain.to_owned()),
            ..Self::default()
        })
    }

    /// Also removes, at each sign-in and sign-out, the cookie of this name with this `Domain`.
    ///
    /// Use it if an earlier version of the application has set such a cookie. The method can be
    /// called several times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] in three cases: the cookie's name begins with `__Host-` and the
    /// cookie therefore has no `Domain`; `domain` is the present `Domain`; or `domain` is invalid.
    pub fn former_domain(mut self, domain: &str) -> Result<Self, Error> {
        domain::check(domain)?;
        let present = self.domain.as_deref();
        if self.name().starts_with("__Host-")
            || present.is_some_and(|present| present.eq_ignore_ascii_case(domain))
        {
            let context =
                "invalid former domain: it is the present one, or the name allows no domain";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.former_domains.push(domain.to_owned());
        Ok(self)
    }

    /// Creates a cookie named `session` without `Secure` and without a prefix, for local
    /// development.
    ///
    /// **An attacker on the network can read the cookie, and every other site on the host can set
    /// it.** The method logs a warning.
    ///
    /// Browsers differ in whether they treat `http://localhost` as secure. This cookie works in all
    /// browsers.
    ///
    /// Cookies ignore ports. Two applications on `localhost` with one cookie name therefore
    /// overwrite each other's cookie. Use
    /// [`insecure_for_local_development_named`](Self::insecure_for_local_development_named) to give
    /// them different names.
    pub fn insecure_for_local_development() -> Self {
        Self::insecure(Name::new("session"))
    }

    /// Like [`insecure_for_local_development`](Self::insecure_for_local_development), with this
    /// name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the name is invalid: see [`named`](Self::named).
    pub fn insecure_for_local_development_named(name: &str) -> Result<Self, Error> {
        Name::prefixed("", name).map(Self::insecure)
    }

    fn insecure(name: Name) -> Self {
        tracing::warn!(
            target: "tower_user_session",
            event = "insecure_cookie",
            "the session cookie is insecure: it is sent over plain http, and other sites on this \
             host can set it; use it for local development only"
        );
        Self {
            name,
            secure: false,
            ..Self::default()
        }
    }

    /// Sets `SameSite=Strict`: the browser sends the cookie on no cross-site request, not even on a
    /// link from another site (RFC 6265bis §5.6.7).
    ///
    /// A user who follows such a link appears signed out until their next request.
    pub fn same_site_strict(mut self) -> Self {
        self.same_site = SameSite::Strict;
        self
    }

    /// Sets `SameSite=None`: the browser sends the cookie on **every cross-site request**.
    ///
    /// Use it for an application that other sites embed. Only a CSRF check then protects the
    /// session from these sites.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a cookie without `Secure`, because browsers reject
    /// `SameSite=None` on such a cookie.
    pub fn same_site_none(mut self) -> Result<Self, Error> {
        if !self.secure {
            let context = "a cookie with SameSite=None must have Secure";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.same_site = SameSite::None;
        Ok(self)
    }

    /// Sets `Partitioned` (CHIPS): the browser keeps one cookie for each site that embeds the
    /// application.
    ///
    /// A browser that blocks third-party cookies sends this cookie, too. A user signs in separately
    /// on each embedding site.
    ///
    /// A browser can have a partitioned and an older unpartitioned cookie of one name. It then
    /// sends both cookies. The service reads them as [several cookies of one
    /// name](#several-cookies-of-one-name), also under a name with `__Host-`. A sign-in removes the
    /// unpartitioned cookie, and a sign-out removes both cookies.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if [`same_site_none`](Self::same_site_none) was not called
    /// before. The browser sends the cookie of an embedded application only with
    /// `SameSite=None; Secure`.
    pub fn partitioned(mut self) -> Result<Self, Error> {
        if self.same_site != SameSite::None {
            let context = "a partitioned cookie must have SameSite=None";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        self.partitioned = true;
        Ok(self)
    }

    /// Returns the cookie's complete name, with its prefix.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}
