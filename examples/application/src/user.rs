use serde::Serialize;
use tower_user_session::{BoxError, LookupRow, PgUser};

/// Who is making a request.
///
/// It has what nearly every request needs, and no more: it is read anew on each of them. The
/// password's hash is not part of it, so that no page can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// The key in the users' table.
    pub id: i64,
    /// The address that the person signs in with.
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
