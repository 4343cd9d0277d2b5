//! Where a request's token is looked for.

use http::{HeaderMap, header};

use crate::{
    cookie::{MOST_PRESENTED, PresentedToken, SessionCookie},
    session::{SessionToken, TokenDigest},
};

/// The cookie, and the `Authorization` header where the application asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) cookie: SessionCookie,
    pub(crate) bearer: bool,
}

impl Credentials {
    /// What a request presents. A bearer token and a cookie's token that differ are ambiguous. What cannot be
    /// one of our tokens, such as a proxy's JSON Web Token, does not compete with one that can.
    pub(crate) fn read(&self, headers: &HeaderMap) -> PresentedToken {
        let by_cookie = self.cookie.read(headers);
        if !self.bearer {
            return by_cookie;
        }
        match (by_cookie, by_bearer(headers)) {
            (by_cookie, PresentedToken::Nothing) => by_cookie,
            (PresentedToken::Nothing | PresentedToken::Malformed, by_bearer) => by_bearer,
            (by_cookie, PresentedToken::Malformed) => by_cookie,
            // Digests, because tokens are never compared.
            (PresentedToken::Token(by_cookie), PresentedToken::Token(token))
                if by_cookie.digest() == token.digest() =>
            {
                PresentedToken::Token(token)
            }
            _ => PresentedToken::Ambiguous,
        }
    }

    /// The digests of all that a request presents, for ending them. A flood of them is cut off.
    pub(crate) fn digests(&self, headers: &HeaderMap) -> Vec<TokenDigest> {
        let bearer = self
            .bearer
            .then(|| bearer_values(headers))
            .into_iter()
            .flatten();
        let by_bearer = bearer.filter_map(SessionToken::parse).take(MOST_PRESENTED);
        let tokens = self.cookie.tokens(headers).chain(by_bearer);
        let mut digests: Vec<_> = tokens.map(|token| token.digest()).collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }
}

/// What the `Authorization` headers present. Two tokens are ambiguous, equal ones too: the header is not a list.
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

/// The credentials of the scheme `Bearer` (RFC 6750 §2.1), whose name is in any case (RFC 9110
/// §11.1). Other schemes are somebody else's.
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
