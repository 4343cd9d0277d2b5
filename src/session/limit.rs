//! The number of sessions of a user.

use crate::error::{Error, ErrorKind};

/// The maximum number of live sessions of a user, and the effect of a sign-in beyond this maximum
/// (OWASP ASVS 5.0, 7.1.2).
///
/// The limit is exact for any number of concurrent sign-ins. A session that a sign-in of the same
/// user replaces does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    pub(crate) sessions: u32,
    pub(crate) ends_oldest: bool,
}

impl SessionLimit {
    /// Rejects a sign-in if the user already has this number of sessions, with
    /// [`ErrorKind::TooManySessions`](crate::ErrorKind::TooManySessions).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for 0, which would reject every sign-in.
    pub fn refuse_new(sessions: u32) -> Result<Self, Error> {
        Self::new(sessions, false)
    }

    /// Ends the user's oldest sessions at a sign-in if the user already has this number of
    /// sessions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for 0, which would end every session.
    pub fn end_oldest(sessions: u32) -> Result<Self, Error> {
        Self::new(sessions, true)
    }

    fn new(sessions: u32, ends_oldest: bool) -> Result<Self, Error> {
        if sessions == 0 {
            let context = "the limit of sessions must be at least 1";
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(context));
        }
        Ok(Self {
            sessions,
            ends_oldest,
        })
    }
}
