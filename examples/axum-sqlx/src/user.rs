//! The application's user, as the session layer attaches it and as sqlx reads it.

use sqlx::PgExecutor;
use tower_user_session::{BoxError, LookupRow, PgUser};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: i64,
    pub email: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let (id, email) = (row.user().get("id")?, row.user().get("email")?);
        Ok(User { id, email })
    }
}

/// Inserts a user, and returns the key. `None` if the email address is taken.
pub async fn insert(
    database: impl PgExecutor<'_>,
    email: &str,
    password_hash: &str,
) -> sqlx::Result<Option<i64>> {
    let insert = "INSERT INTO users (email, password_hash) VALUES ($1, $2)
        ON CONFLICT DO NOTHING RETURNING id";
    let insert = sqlx::query_scalar(insert).bind(email).bind(password_hash);
    insert.fetch_optional(database).await
}

/// Returns the key and the password hash of the user with this email address.
pub async fn credentials(
    database: impl PgExecutor<'_>,
    email: &str,
) -> sqlx::Result<Option<(i64, String)>> {
    let select = "SELECT id, password_hash FROM users WHERE email = $1";
    sqlx::query_as(select)
        .bind(email)
        .fetch_optional(database)
        .await
}
