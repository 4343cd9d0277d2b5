use std::time::Duration;

use tower_user_session::{
    BoxError, LookupRow, PgUser,
    session::{Lifetime, SessionId},
};
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The limits of a session. The condition below repeats the idle limit for the administrator's
/// session.
pub(crate) fn lifetime() -> Lifetime {
    let lifetime = Lifetime::absolute(12 * HOUR).and_then(|lifetime| lifetime.with_idle(HOUR));
    lifetime.unwrap_or_default()
}

/// A user, and what the lookup reports about the session.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) email: String,
    pub(crate) is_admin: bool,
    pub(crate) factors: Vec<String>,
    pub(crate) impersonator: Option<Impersonator>,
}

/// The administrator who acts as the user.
#[derive(Clone, Debug)]
pub(crate) struct Impersonator {
    pub(crate) session: SessionId,
    pub(crate) email: String,
}

impl User {
    /// Whether the last authentication included a one-time code.
    pub(crate) fn has_second_factor(&self) -> bool {
        self.factors.iter().any(|factor| factor == "totp")
    }

    /// Whether the user acts, and not an administrator as the user.
    pub(crate) fn acts(&self) -> bool {
        self.impersonator.is_none()
    }

    /// Whether the user may act as other users.
    pub(crate) fn may_impersonate(&self) -> bool {
        self.is_admin && self.acts() && self.has_second_factor()
    }
}

impl PgUser for User {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = &["factors", "impersonator_session"];
    const COLUMNS: &'static str = "u.id, u.email, u.is_admin, admin.email AS impersonator";
    /// `own` is the administrator's session, if it has not ended and not reached a limit.
    const FROM: &'static str = "users AS u
        LEFT JOIN sessions AS own
            ON own.id = live_session.impersonator_session
            AND own.expires_at > now() AND own.last_seen_at > now() - interval '1 hour'
        LEFT JOIN users AS admin ON admin.id = own.user_id";
    /// An impersonation needs an administrator who is not disabled and whose session is live and is
    /// not an impersonation. No administrator acts as another one.
    const CONDITION: &'static str = "u.disabled_at IS NULL
        AND (live_session.impersonator_session IS NULL
             OR admin.is_admin AND admin.disabled_at IS NULL
                AND own.impersonator_session IS NULL AND NOT u.is_admin)";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let (user, session) = (row.user(), row.session());
        let impersonator_session: Option<Uuid> = session.get("impersonator_session")?;
        let impersonator = match impersonator_session {
            Some(id) => Some(Impersonator {
                session: id.into(),
                email: user.get("impersonator")?,
            }),
            None => None,
        };
        Ok(Self {
            id: user.get("id")?,
            email: user.get("email")?,
            is_admin: user.get("is_admin")?,
            factors: session.get("factors")?,
            impersonator,
        })
    }
}
