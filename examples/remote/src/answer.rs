//! The response of the resolver.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tower_user_session::{
    Error, ErrorKind,
    session::{SessionTimestamps, TokenDigest},
    store::LookupResult,
};

/// The user who makes a request, with the fields that this service needs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct User {
    /// The key in the users table, which this service cannot access.
    pub id: i64,
    /// The email address.
    pub email: String,
}

#[derive(Deserialize)]
pub(crate) struct Answer {
    user: User,
    session: Session,
}

/// Times are microseconds since 1970, by PostgreSQL's clock.
#[derive(Deserialize)]
struct Session {
    id: String,
    created_at: u64,
    authenticated_at: u64,
    last_seen_at: u64,
    expires_at: u64,
    now: u64,
}

impl Answer {
    pub(crate) fn live(self, digest: TokenDigest) -> Result<LookupResult<User>, Error> {
        let Self { user, session } = self;
        let mut times = SessionTimestamps::at(time(session.now));
        times.created_at = time(session.created_at);
        times.authenticated_at = time(session.authenticated_at);
        times.last_seen_at = time(session.last_seen_at);
        times.expires_at = time(session.expires_at);
        let session = tower_user_session::session::Session::new(
            session
                .id
                .parse()
                .map_err(|error| Error::new(ErrorKind::Protocol, error))?,
            times,
        );
        Ok(LookupResult::live(digest, user, session))
    }
}

fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}
