//! Reads the session cookie of a request.

use http::{HeaderMap, header};
use smallvec::SmallVec;

use crate::{cookie::SessionCookie, session::SessionToken};

/// Maximum number of values that are read from a request. An honest client sends fewer.
pub(crate) const MAX_PRESENTED: usize = 8;

/// The result of reading the session cookie of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum PresentedToken {
    /// The request has no cookie of this name.
    Nothing,
    /// One token. Its session may not exist.
    Token(SessionToken),
    /// A value that cannot be a token.
    Malformed,
    /// Several tokens. The request is accepted only if exactly one of their sessions is live.
    ///
    /// This variant does not occur under a name with `__Host-`, unless the cookie is
    /// [partitioned](SessionCookie::partitioned).
    Several(Vec<SessionToken>),
    /// Several different values. No rule prefers one of them.
    Ambiguous,
}

impl SessionCookie {
    /// Reads the cookie of a request. See [How a request is read](#how-a-request-is-read).
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

    /// Reads the cookie of a request that has more than one value.
    fn read_several(&self, headers: &HeaderMap) -> PresentedToken {
        if !self.may_be_several() {
            return PresentedToken::Ambiguous;
        }
        let mut distinct = SmallVec::<[&[u8]; MAX_PRESENTED]>::new();
        for value in self.values(headers) {
            if distinct.contains(&value) {
                continue;
            }
            if distinct.len() == MAX_PRESENTED {
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

    /// Returns whether a browser can have several cookies of this name from this application.
    fn may_be_several(&self) -> bool {
        self.partitioned || !self.name().starts_with("__Host-")
    }

    fn values<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> + 'a {
        let lines = headers.get_all(header::COOKIE).iter();
        lines.flat_map(|line| self.name.values(line.as_bytes()))
    }

    /// Returns the tokens of a request, for a sign-out: at most [`MAX_PRESENTED`].
    pub(crate) fn tokens<'a>(
        &'a self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = SessionToken> + 'a {
        self.values(headers)
            .filter_map(SessionToken::parse)
            .take(MAX_PRESENTED)
    }
}
