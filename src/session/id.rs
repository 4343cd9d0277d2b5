//! The public id of a session.

use std::{error::Error as StdError, fmt, str::FromStr};

use uuid::Uuid;

/// The public id of a session: a random UUID (RFC 9562) that the database generates.
///
/// Use it for lists of sessions, for revocation and for logs. It authenticates no request, and the
/// token cannot be derived from it.
///
/// In another driver, bind it as `uuid::Uuid::from(id)`. This needs the feature `uuid` of sqlx or
/// Diesel, and none of this crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// Creates an id from the UUID's 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the UUID's 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<Uuid> for SessionId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<SessionId> for Uuid {
    fn from(id: SessionId) -> Self {
        id.0
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
    type Err = ParseSessionIdError;

    /// Parses the output of `Display`: 36 characters with hyphens.
    fn from_str(text: &str) -> Result<Self, ParseSessionIdError> {
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(ParseSessionIdError(()));
        }
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| ParseSessionIdError(()))
    }
}

/// Failure to parse a [`SessionId`].
///
/// The text came from a client, in a path or a form. No session has this text as its id. Respond
/// with 404. With the feature `axum`, this error is a response with 404. The extractor `OrNotFound`
/// makes axum's `Path` respond with 404, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseSessionIdError(());

impl fmt::Display for ParseSessionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid session id")
    }
}

impl StdError for ParseSessionIdError {}

/// Serializes the output of `Display` as a string.
#[cfg(feature = "serde")]
impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
