//! The user, as every contestant finds it.

use tower_user_session::{BoxError, PgUser, UserRow};

#[derive(Clone, Debug)]
pub struct User {
    pub id: i64,
    pub email: String,
    pub name: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email, u.name";

    fn from_row(row: &UserRow<'_>) -> Result<Self, BoxError> {
        Ok(Self {
            id: row.get("id")?,
            email: row.get("email")?,
            name: row.get("name")?,
        })
    }
}
