//! A session's name for other people's eyes.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::{Error, ErrorKind};

/// A session's public name: a random UUID (RFC 9562) that the database drew.
///
/// It is for device lists, revocation and logs. It signs nobody in, and says nothing about the token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// A public name from the UUID's 16 bytes, as a store keeps them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The UUID's 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = Error;

    /// Reads what `Display` writes: 36 characters with hyphens.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = || Error::bare(ErrorKind::Configuration).saying("this is not a session's id");
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(refused());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| refused())
    }
}
