//! The application's users, as the store reads them.

use std::{fmt, ops::Range};

use tokio_postgres::{
    Column, Row,
    types::{FromSql, ToSql},
};

use crate::error::{BoxError, Error, ErrorKind};

/// The application's user, as the application's tables store it.
///
/// Only this trait describes the users table. Its constants are SQL expressions of the application
/// that are inserted into the lookup statement unchanged: never build them from input.
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
/// The statement must return **one row** per user; a second row is an error. If a user has several
/// values of one kind, such as roles, select them as an array:
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
#[doc(alias("AuthUser", "AuthnBackend", "users_table"))]
pub trait PgUser: Clone + Send + Sync + Sized + 'static {
    /// The type of the users' key: `i32`, `i64`, `String`, `uuid::Uuid` (with the feature `uuid`)
    /// and the like.
    type Id: ToSql + Send + Sync + 'static;

    /// The columns to select. An aggregate is an error, because it would return a row for a user
    /// who does not meet [`CONDITION`](Self::CONDITION). A column that [`from_row`](Self::from_row)
    /// reads must have a unique name.
    const COLUMNS: &'static str;
    /// The `FROM` clause: the users table and the tables joined to it.
    const FROM: &'static str = "users AS u";
    /// The users' key, to which the sessions refer. The key is compared with the operator of the
    /// foreign key, regardless of the `search_path`. Each process reads this operator once.
    const KEY: &'static str = "u.id";
    /// The condition that a user must meet to sign in and to stay signed in. Every lookup evaluates
    /// the condition. A session of a disabled user is therefore rejected at once. The session is
    /// accepted again if the user is enabled before the session ends.
    const CONDITION: &'static str = "true";
    /// The application's own columns of the sessions table, which every lookup returns with the
    /// user: see [session columns](crate::postgres#session-columns). By default there are none.
    ///
    /// Each element is the name of a column, not an expression. A name has at most 63 ASCII letters,
    /// digits and `_`, and does not start with a digit or with `live_session_`. Names are quoted, so
    /// upper case matters. The names of this crate's columns are not allowed. If a name breaks these
    /// rules, creating the store fails to compile.
    ///
    /// [`from_row`](Self::from_row) reads the values with [`LookupRow::session`].
    /// [`COLUMNS`](Self::COLUMNS), the joins in [`FROM`](Self::FROM) and
    /// [`CONDITION`](Self::CONDITION) refer to a column of the session as
    /// `live_session.column`.
    const SESSION_COLUMNS: &'static [&'static str] = &[];

    /// Decodes the user from a row.
    ///
    /// # Errors
    ///
    /// Return an error if the row is not as expected. The request is then rejected with 503, never
    /// treated as anonymous. No other request is affected.
    ///
    /// # Panics
    ///
    /// A panic fails only the lookups of this user, with [`ErrorKind::Panicked`]. With
    /// `panic = "abort"`, a panic terminates the process. The same applies to `Clone`, which runs
    /// in the task of the request.
    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError>;
}

/// A row of the lookup, as [`PgUser::from_row`] sees it. Each part has its own range of columns, so
/// columns of the same name in different parts are never confused.
pub struct LookupRow<'a> {
    row: &'a Row,
    user: Range<usize>,
    session: Range<usize>,
}

impl<'a> LookupRow<'a> {
    /// Creates a row whose user columns and session columns are in these ranges.
    pub(super) const fn new(row: &'a Row, user: Range<usize>, session: Range<usize>) -> Self {
        Self { row, user, session }
    }

    /// Returns the user's columns: the columns of [`PgUser::COLUMNS`] and no others.
    pub fn user(&self) -> UserRow<'a> {
        UserRow(Part {
            row: self.row,
            columns: self.user.clone(),
            list: "PgUser::COLUMNS",
            owner: "user",
        })
    }

    /// Returns the session's columns: the columns of [`PgUser::SESSION_COLUMNS`] and no others.
    pub fn session(&self) -> SessionRow<'a> {
        SessionRow(Part {
            row: self.row,
            columns: self.session.clone(),
            list: "PgUser::SESSION_COLUMNS",
            owner: "session",
        })
    }
}

impl fmt::Debug for LookupRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupRow")
            .field("user", &self.user())
            .field("session", &self.session())
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
/// | `smallint` | `i16` | |
/// | `integer` | `i32` | |
/// | `bigint` | `i64` | |
/// | `real` | `f32` | |
/// | `double precision` | `f64` | |
/// | `text`, `varchar`, `char(n)`, `name`, `citext` | `String`, `&str` | |
/// | `bytea` | `Vec<u8>`, `&[u8]` | |
/// | `timestamptz` | `SystemTime` | |
/// | | `chrono::DateTime<Utc>` | `chrono` |
/// | | `time::OffsetDateTime` | `time` |
/// | `timestamp` | `chrono::NaiveDateTime` | `chrono` |
/// | | `time::PrimitiveDateTime` | `time` |
/// | `date` | `chrono::NaiveDate` | `chrono` |
/// | | `time::Date` | `time` |
/// | `uuid` | `uuid::Uuid` | `uuid` |
/// | `json`, `jsonb` | `serde_json::Value`, `tokio_postgres::types::Json<T>` | `serde_json` |
/// | `inet` | `std::net::IpAddr` | |
/// | `T[]` | `Vec<T>` | |
/// | a column that can be null | `Option<T>` | |
/// | `numeric`, an enum, and others | cast in [`PgUser::COLUMNS`] | |
///
/// # Enums and `citext`
///
/// A cast to `text` makes every type readable, also behind a pooler without prepared statements.
/// Return an error for a value that the application does not know, and do not replace it with a
/// default:
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
pub struct UserRow<'a>(Part<'a>);

impl<'a> UserRow<'a> {
    /// Returns the value of a column.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if there is no such column, if several columns have this name, or if
    /// the value is not a `T`. The source names the column.
    pub fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T, Error> {
        self.0.get(column)
    }

    /// Returns the columns of [`PgUser::COLUMNS`].
    pub(super) fn columns(&self) -> &'a [Column] {
        self.0.columns()
    }
}

/// The session's part of a [`LookupRow`]. The types are those of a [`UserRow`].
pub struct SessionRow<'a>(Part<'a>);

impl<'a> SessionRow<'a> {
    /// Returns the value of a column.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if [`PgUser::SESSION_COLUMNS`] does not name the column, or if the
    /// value is not a `T`. The source names the column.
    pub fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T, Error> {
        self.0.get(column)
    }
}

/// Consecutive columns of a row.
struct Part<'a> {
    row: &'a Row,
    columns: Range<usize>,
    /// The constant that names the columns.
    list: &'static str,
    owner: &'static str,
}

impl<'a> Part<'a> {
    fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T, Error> {
        let decode_error = |text| Error::new(ErrorKind::Decode, text);
        let mut columns = self.columns().iter().enumerate();
        let mut next = || columns.find(|(_, each)| each.name() == column);
        let list = self.list;
        let Some((index, _)) = next() else {
            return Err(decode_error(format!("{list} has no column \"{column}\"")));
        };
        if next().is_some() {
            return Err(decode_error(format!(
                "{list} has more than one column \"{column}\": rename them with AS"
            )));
        }
        self.row
            .try_get(self.columns.start + index)
            .map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_else(|| error.to_string());
                let owner = self.owner;
                decode_error(format!(
                    "decoding the {owner}'s column \"{column}\" failed: {cause}"
                ))
            })
    }

    fn columns(&self) -> &'a [Column] {
        self.row
            .columns()
            .get(self.columns.clone())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Part<'_> {
    /// Omits the values, which may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.columns().iter().map(Column::name);
        f.debug_list().entries(names).finish()
    }
}

impl fmt::Debug for UserRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SessionRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
