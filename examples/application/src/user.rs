use serde::Serialize;
use tower_user_session::{BoxError, LookupRow, PgUser};

/// The user who makes a request.
///
/// It has only the fields that nearly every request needs, because every lookup reads them. The
/// hash of the password is not one of them, so that no page can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// The key in the users table.
    pub id: i64,
    /// The email address.
    pub email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email";
    const CONDITION: &'static str = "u.disabled_at IS NULL";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(User {
            id: row.user().get("id")?,
            email: row.user().get("email")?,
        })
    }
}
