//! The cookie's name, and the search for its values in a header.

use std::{borrow::Cow, fmt};

use memchr::{memchr, memmem::Finder};

use crate::error::{Error, ErrorKind};

/// A cookie's name and its searcher. The searcher is built once, because every request uses it.
#[derive(Clone)]
pub(crate) struct Name {
    text: Cow<'static, str>,
    /// Finds the name and `=`. A name contains no `=`, so matches do not overlap.
    finder: Finder<'static>,
}

impl Name {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let finder = Finder::new(format!("{text}=").as_bytes()).into_owned();
        Self { text, finder }
    }

    /// Creates a name with a prefix that browsers know (RFC 6265bis §4.1.3).
    pub(crate) fn prefixed(prefix: &str, name: &str) -> Result<Self, Error> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
            let context = "invalid cookie name: it must be a token of RFC 9110 of at most 64 bytes";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        if name.to_ascii_lowercase().starts_with("__") {
            let context = "invalid cookie name: it must be given without its prefix";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(Self::new(format!("{prefix}{name}")))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the values of this name in one `Cookie` header. Pieces end at `;`. SP and HTAB
    /// around a piece are ignored.
    pub(crate) fn values<'a>(&'a self, line: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut start = 0;
        std::iter::from_fn(move || {
            loop {
                let at = start + self.finder.find(&line[start..])?;
                start = at + self.finder.needle().len();
                let before = trim_end(&line[..at]).last();
                // After any other byte, the match is the end of a longer name, or part of another
                // value.
                if before.is_none_or(|&byte| byte == b';') {
                    let rest = &line[start..];
                    let end = memchr(b';', rest).unwrap_or(rest.len());
                    return Some(trim_end(&rest[..end]));
                }
            }
        })
    }
}

/// Compares only the text, because equal texts have equal searchers.
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

pub(crate) fn trim(mut piece: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = piece {
        piece = rest;
    }
    trim_end(piece)
}

fn trim_end(mut piece: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = piece {
        piece = rest;
    }
    piece
}
