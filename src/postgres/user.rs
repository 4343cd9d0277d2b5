//! What the store must know about the application's users, stated once.

use std::ops::Range;

use tokio_postgres::{
    Column, Row,
    types::{FromSql, ToSql},
};

use crate::error::{BoxError, Error, ErrorKind};

/// The application's user, as it stands in the application's own tables.
///
/// This is the one place that knows them. The constants are SQL of the application's own, put into
/// the lookup's statement as they are: never build them from input.
///
/// ```
/// use tower_user_session::{BoxError, LookupRow, PgUser};
///
/// #[derive(Clone, Debug)]
/// struct User {
///     id: i64,
///     email: String,
/// }
///
/// impl PgUser for User {
///     type Id = i64;
///     const COLUMNS: &'static str = "u.id, u.email";
///     const CONDITION: &'static str = "u.disabled_at IS NULL";
///
///     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
///         Ok(User { id: row.user().get("id")?, email: row.user().get("email")? })
///     }
/// }
/// ```
///
/// # More than one table
///
/// The statement must yield **one row** for a user; a second one is an error, not an answer. What
/// belongs to the user many times comes as an array:
///
/// ```
/// # use tower_user_session::{BoxError, LookupRow, PgUser};
/// # #[derive(Clone)]
/// # struct User { id: i64, roles: Vec<String> }
/// impl PgUser for User {
///     type Id = i64;
///     const COLUMNS: &'static str = "u.id, ARRAY(
///         SELECT r.name FROM user_roles AS r WHERE r.user_id = u.id ORDER BY r.name
///     ) AS roles";
///
///     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
///         Ok(User { id: row.user().get("id")?, roles: row.user().get("roles")? })
///     }
/// }
/// ```
pub trait PgUser: Clone + Send + Sync + Sized + 'static {
    /// The type of the users' key: `i32`, `i64`, `String`, `uuid::Uuid` (with the feature `uuid`) and the like.
    type Id: ToSql + Send + Sync + 'static;

    /// What to select. An aggregate is an error, because it would yield a row for a user who does not meet
    /// [`CONDITION`](Self::CONDITION); so is a column that [`from_row`](Self::from_row) reads and whose name occurs
    /// twice.
    const COLUMNS: &'static str;
    /// What to select it from: the users' table and whatever is joined to it.
    const FROM: &'static str = "users AS u";
    /// The users' key, which the sessions refer to. It is compared with the operator of the foreign key, whatever the
    /// `search_path` is; a process reads it once.
    const KEY: &'static str = "u.id";
    /// What must hold for a user to be signed in, and to stay so. It is decided on every request, so
    /// that a session of a disabled user is dead at once, and alive again if it has not ended when
    /// the user is enabled.
    const CONDITION: &'static str = "true";

    /// Reads the user from a row.
    ///
    /// # Errors
    ///
    /// When the row is not as expected. The request is then answered with 503, never as anonymous,
    /// and no other request is affected.
    ///
    /// # Panics
    ///
    /// A panic fails the lookups of this user with [`ErrorKind::Panicked`], and no others. With `panic = "abort"` it
    /// ends the process. The same holds for `Clone`, which runs in the task of the request.
    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError>;
}

/// A row of the lookup as [`PgUser::from_row`] sees it. Each part of it has columns of its own, so that one of
/// the application's is never taken for one of another part with the same name.
pub struct LookupRow<'a> {
    row: &'a Row,
    user: Range<usize>,
}

impl<'a> LookupRow<'a> {
    /// A row with the user's columns in this range.
    pub(super) const fn new(row: &'a Row, user: Range<usize>) -> Self {
        Self { row, user }
    }

    /// The user's columns: those of [`PgUser::COLUMNS`] and no others.
    pub const fn user(&self) -> UserRow<'a> {
        UserRow {
            row: self.row,
            columns: Range {
                start: self.user.start,
                end: self.user.end,
            },
        }
    }
}

impl std::fmt::Debug for LookupRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookupRow")
            .field("user", &self.user())
            .finish()
    }
}

/// The user's part of a [`LookupRow`].
///
/// # Types
///
/// | SQL | Rust | feature |
/// |---|---|---|
/// | `boolean` | `bool` | |
/// | `smallint`, `integer`, `bigint` | `i16`, `i32`, `i64` | |
/// | `real`, `double precision` | `f32`, `f64` | |
/// | `text`, `varchar`, `char(n)`, `name`, `citext` | `String`, `&str` | |
/// | `bytea` | `Vec<u8>`, `&[u8]` | |
/// | `timestamptz` | `SystemTime` | |
/// | | `chrono::DateTime<Utc>` | `chrono` |
/// | | `time::OffsetDateTime` | `time` |
/// | `timestamp`, `date` | `chrono::NaiveDateTime`, `chrono::NaiveDate` | `chrono` |
/// | | `time::PrimitiveDateTime`, `time::Date` | `time` |
/// | `uuid` | `uuid::Uuid` | `uuid` |
/// | `json`, `jsonb` | `serde_json::Value`, `tokio_postgres::types::Json<T>` | `serde_json` |
/// | `inet` | `std::net::IpAddr` | |
/// | `T[]` | `Vec<T>` | |
/// | a column that can be null | `Option<T>` | |
/// | `numeric`, an enum, and others | a cast in [`PgUser::COLUMNS`] | |
///
/// # An enum, and `citext`
///
/// A cast to `text` reads every type, also behind a pooler that keeps no prepared statements. What the application
/// does not know is an error, not a default:
///
/// ```
/// # use tower_user_session::{BoxError, LookupRow, PgUser};
/// // CREATE TYPE role AS ENUM ('member', 'editor');
/// // CREATE TABLE users (id bigint PRIMARY KEY, email citext NOT NULL, role role NOT NULL);
/// #[derive(Clone)]
/// enum Role { Member, Editor }
///
/// #[derive(Clone)]
/// struct User { email: String, role: Role }
///
/// impl PgUser for User {
///     type Id = i64;
///     const COLUMNS: &'static str = "u.email::text AS email, u.role::text AS role";
///
///     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
///         let user = row.user();
///         let role = match user.get("role")? {
///             "member" => Role::Member,
///             "editor" => Role::Editor,
///             other => return Err(format!("unknown role: {other}").into()),
///         };
///         Ok(User { email: user.get("email")?, role })
///     }
/// }
/// ```
pub struct UserRow<'a> {
    row: &'a Row,
    columns: Range<usize>,
}

impl<'a> UserRow<'a> {
    /// The value of a column.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if there is no such column, if more than one column has this name, or if its value is
    /// not a `T`. The source names the column.
    pub fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T, Error> {
        let fails = |text| Error::new(ErrorKind::Decode, text);
        let mut places = self.columns().iter().enumerate();
        let mut next = || places.find(|(_, each)| each.name() == column);
        let Some((place, _)) = next() else {
            return Err(fails(format!("PgUser::COLUMNS has no column \"{column}\"")));
        };
        if next().is_some() {
            return Err(fails(format!(
                "PgUser::COLUMNS has more than one column \"{column}\": rename them with AS"
            )));
        }
        self.row
            .try_get(self.columns.start + place)
            .map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_else(|| error.to_string());
                fails(format!("the user's column \"{column}\": {cause}"))
            })
    }

    /// The columns of [`PgUser::COLUMNS`].
    pub(super) fn columns(&self) -> &'a [Column] {
        self.row
            .columns()
            .get(self.columns.clone())
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for UserRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.columns().iter().map(Column::name);
        f.debug_list().entries(names).finish()
    }
}
