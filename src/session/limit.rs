//! How many sessions a user may have at the same time.

use crate::error::{Error, ErrorKind};

/// How many live sessions a user may have at the same time, and what happens to the next one
/// (OWASP ASVS 5.0, 7.1.2). It is exact, however many sign-ins run in parallel.
///
/// A sign-in that replaces a session of the same user does not count that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    pub(crate) sessions: u32,
    pub(crate) ends_oldest: bool,
}

impl SessionLimit {
    /// Refuses a sign-in beyond this number of sessions:
    /// [`ErrorKind::TooManySessions`](crate::ErrorKind::TooManySessions).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for 0, which would let nobody in.
    pub fn refuse_new(sessions: u32) -> Result<Self, Error> {
        Self::new(sessions, false)
    }

    /// Ends the sessions that began first, so that with the new one there are no more than this.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for 0, which would let nobody in.
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
