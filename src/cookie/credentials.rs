//! Extraction of tokens from a request: the cookie, and bearer tokens.

use http::{HeaderMap, header};

use crate::{
    cookie::{PresentedToken, SessionCookie, read::MAX_PRESENTED},
    session::{SessionToken, TokenDigest},
};

/// The sources of tokens: the cookie and, if enabled, the `Authorization` header.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) cookie: SessionCookie,
    pub(crate) bearer: bool,
}

impl Credentials {
    /// Reads the token of a request.
    ///
    /// If the bearer token and the cookie's token differ, the result is ambiguous. A value that
    /// cannot be a session token, such as a proxy's JSON Web Token, is ignored if the other source
    /// has a token.
    pub(crate) fn read(&self, headers: &HeaderMap) -> PresentedToken {
        let by_cookie = self.cookie.read(headers);
        if !self.bearer {
            return by_cookie;
        }
        match (by_cookie, by_bearer(headers)) {
            (by_cookie, PresentedToken::Nothing) => by_cookie,
            (PresentedToken::Nothing | PresentedToken::Malformed, by_bearer) => by_bearer,
            (by_cookie, PresentedToken::Malformed) => by_cookie,
            // `SessionToken` has no `PartialEq`. Therefore the digests are compared.
            (PresentedToken::Token(by_cookie), PresentedToken::Token(token))
                if by_cookie.digest() == token.digest() =>
            {
                PresentedToken::Token(token)
            }
            _ => PresentedToken::Ambiguous,
        }
    }

    /// Returns the digests of all tokens that a request presents, for a sign-out. At most
    /// [`MAX_PRESENTED`] tokens of each source are used.
    pub(crate) fn digests(&self, headers: &HeaderMap) -> Vec<TokenDigest> {
        let bearer = self
            .bearer
            .then(|| bearer_values(headers))
            .into_iter()
            .flatten();
        let by_bearer = bearer.filter_map(SessionToken::parse).take(MAX_PRESENTED);
        let tokens = self.cookie.tokens(headers).chain(by_bearer);
        let mut digests: Vec<_> = tokens.map(|token| token.digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }
}

/// Reads the token of the `Authorization` headers. Two tokens are ambiguous, even if they are
/// equal, because the header is not a list.
fn by_bearer(headers: &HeaderMap) -> PresentedToken {
    let mut presented = PresentedToken::Nothing;
    for value in bearer_values(headers) {
        presented = match (presented, SessionToken::parse(value)) {
            (PresentedToken::Nothing | PresentedToken::Malformed, Some(token)) => {
                PresentedToken::Token(token)
            }
            (PresentedToken::Nothing, None) => PresentedToken::Malformed,
            (presented, None) => presented,
            (_, Some(_)) => return PresentedToken::Ambiguous,
        };
    }
    presented
}

/// Returns the credentials of the scheme `Bearer` (RFC 6750 §2.1). The scheme's name is
/// case-insensitive (RFC 9110 §11.1). Other schemes are ignored.
fn bearer_values(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(|value| {
            let (scheme, credentials) = value.as_bytes().split_at_checked(6)?;
            let credentials = credentials.strip_prefix(b" ")?;
            scheme
                .eq_ignore_ascii_case(b"bearer")
                .then(|| credentials.trim_ascii())
        })
}
