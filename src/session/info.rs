//! An entry in a list of a user's sessions.

use std::{net::IpAddr, time::SystemTime};

use crate::session::{Session, SessionId};

/// A live session of a user, for a list of their sessions or devices.
///
/// The entry has neither a token nor a digest. `user_agent` is the client's own text: escape it
/// when you display it.
#[doc(alias("device", "devices", "login"))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's public id, for revocation.
    pub id: SessionId,
    /// When the session began.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub created_at: SystemTime,
    /// When the user last authenticated: at sign-in, or at re-authentication.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub authenticated_at: SystemTime,
    /// The last recorded use.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub last_seen_at: SystemTime,
    /// The absolute limit: when the session expires even if it is used.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub expires_at: SystemTime,
    /// The `User-Agent` of the sign-in, without invisible characters, at most 256 bytes.
    pub user_agent: Option<String>,
    /// The IP address of the sign-in, if the application passed it.
    pub ip: Option<IpAddr>,
}

impl SessionInfo {
    /// Creates an entry from a session, without `user_agent` and `ip`.
    pub const fn new(session: &Session) -> Self {
        let times = session.times();
        Self {
            id: session.id(),
            created_at: times.created_at,
            authenticated_at: times.authenticated_at,
            last_seen_at: times.last_seen_at,
            expires_at: times.expires_at,
            user_agent: None,
            ip: None,
        }
    }

    /// Returns whether this entry is for `session`, for example the session of the request.
    pub fn is(&self, session: &Session) -> bool {
        self.id == session.id()
    }
}
