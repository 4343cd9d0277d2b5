//! What a user sees of one of their sessions.

use std::{net::IpAddr, time::SystemTime};

use crate::session::{Session, SessionId};

/// One of a user's live sessions, as the person sees it in a list of devices. Nothing in it signs
/// anybody in.
///
/// What the client calls itself came from the client: escape it where it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SessionInfo {
    /// The session's public name, for revoking it.
    pub id: SessionId,
    /// When the session began.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub created_at: SystemTime,
    /// When the person last proved who they are.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub authenticated_at: SystemTime,
    /// When the session was last written down as used.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub last_seen_at: SystemTime,
    /// When it ends whatever happens.
    #[cfg_attr(feature = "serde", serde(with = "crate::rfc3339"))]
    pub expires_at: SystemTime,
    /// What the client called itself at sign-in.
    pub user_agent: Option<String>,
    /// Where the sign-in came from.
    pub ip: Option<IpAddr>,
}

impl SessionInfo {
    /// A session that a store found in this state. Says nothing about the client.
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

    /// Whether this is the session that a request came with.
    pub fn is(&self, session: &Session) -> bool {
        self.id == session.id()
    }
}
