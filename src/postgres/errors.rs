//! What a failure of the driver or of the server means here.

use std::{error::Error as _, fmt, io};

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Error, ErrorKind};

/// A failure while connecting: whatever its kind, there is no connection.
pub(super) fn connecting(error: tokio_postgres::Error) -> Error {
    Error::new(kind_of_connecting(&error), error)
}

fn kind_of_connecting(error: &tokio_postgres::Error) -> ErrorKind {
    if let Some(state) = error.code() {
        // Invalid authorization, or no right to connect to this database.
        let refused = state.code().starts_with("28") || *state == SqlState::INSUFFICIENT_PRIVILEGE;
        return if refused {
            ErrorKind::Authentication
        } else {
            ErrorKind::Connection
        };
    }
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    // `target_session_attrs`: the driver's own refusal, not one of the operating system's.
    if io.is_some_and(|io| {
        io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none()
    }) {
        return ErrorKind::Recovery;
    }
    // The driver tells which it was by this text alone. It is for the operator: nothing hangs on it.
    match error.to_string().as_str() {
        "error performing TLS handshake" => ErrorKind::Tls,
        "authentication error" => ErrorKind::Authentication,
        "invalid configuration" => ErrorKind::Configuration,
        _ => ErrorKind::Connection,
    }
}

pub(super) fn pool(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => connecting(error),
        // The pool had room, but the server did not answer.
        error @ PoolError::Timeout(TimeoutType::Create) => Error::new(ErrorKind::Connection, error),
        other => Error::new(ErrorKind::Pool, other),
    }
}

/// The kind of a failure while a statement was prepared or ran.
pub(super) fn statement(error: tokio_postgres::Error) -> Error {
    if let Some(refused) = error
        .as_db_error()
        .filter(|refused| may_show_values(refused))
    {
        return Error::new(kind(&error), Withheld::new(refused));
    }
    let context = if error.code().is_some_and(is_misplaced) {
        Some(
            "a prepared statement is not where it was prepared, or was there before: behind a pooler \
             that pools transactions, PgSessionStore::with_transaction_pooling is needed",
        )
    } else if is_conversion(&error) {
        Some(
            "a parameter does not fit the type of its column, and nothing was sent: check PgUser::Id",
        )
    } else {
        None
    };
    let error = Error::new(kind(&error), error);
    match context {
        Some(context) => error.with_message(context),
        None => error,
    }
}

/// Whether the driver could not convert a value. It then sends nothing. The sources of its other failures are
/// errors of the connection, or missing.
fn is_conversion(error: &tokio_postgres::Error) -> bool {
    error.code().is_none()
        && error
            .source()
            .is_some_and(|source| !source.is::<io::Error>())
}

/// What an operator must do about a statement that a check found unfit, if its state or place says so.
pub(super) fn remedy(error: &Error) -> Option<&'static str> {
    let refused = driver(error)?.as_db_error()?;
    if refused.routine() == Some("check_enable_rls") {
        return Some(
            "row-level security hides rows of a table that a statement reads: the role must own the table without \
             FORCE ROW LEVEL SECURITY, or have BYPASSRLS",
        );
    }
    match *refused.code() {
        SqlState::INSUFFICIENT_PRIVILEGE => Some(
            "the role lacks a right that a statement needs: see its source, and SECURITY.md under \"The database \
             role\"",
        ),
        SqlState::GROUPING_ERROR => Some(
            "PgUser::COLUMNS has an aggregate, which would ignore PgUser::CONDITION: select it in a subquery, \
             ARRAY(SELECT …)",
        ),
        _ => None,
    }
}

/// Whether a prepared statement is missing, or there is one where there should be none.
fn is_misplaced(state: &SqlState) -> bool {
    [
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
    ]
    .contains(state)
}

/// Whether the server's words may show what a row contains: the detail of a violated constraint, and the message of
/// a value that cannot be converted or computed.
fn may_show_values(refused: &DbError) -> bool {
    let class = &refused.code().code()[..2];
    class == "22" || class == "23"
}

/// A failure that the server described with values of a row, without them. What is kept of a violated constraint is
/// the message, which names it. The detail shows the whole row, and so the digest.
#[derive(Debug)]
struct Withheld {
    state: SqlState,
    message: String,
    table: Option<String>,
    constraint: Option<String>,
}

impl Withheld {
    fn new(refused: &DbError) -> Self {
        let is_constraint = refused.code().code().starts_with("23");
        Self {
            state: refused.code().clone(),
            message: if is_constraint {
                refused.message().to_owned()
            } else {
                "a value cannot be converted or computed".to_owned()
            },
            table: refused.table().map(str::to_owned),
            constraint: refused.constraint().map(str::to_owned),
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.state.code())
    }
}

impl std::error::Error for Withheld {}

/// Whether the digest of a new session is taken: the unique index of the sessions table, whose name `migrations/`
/// lets the server choose after the column. A unique index that the application has added is none of it.
pub(super) fn is_taken_digest(error: &Error, sessions: &str) -> bool {
    let withheld = error
        .source()
        .and_then(|source| source.downcast_ref::<Withheld>());
    withheld.is_some_and(|withheld| {
        withheld.state == SqlState::UNIQUE_VIOLATION
            && withheld.table.as_deref() == Some(sessions)
            && withheld
                .constraint
                .as_ref()
                .is_some_and(|name| name.contains("token_digest"))
    })
}

/// Whether a row refers to another one that is not there.
pub(super) fn is_foreign_key(error: &Error) -> bool {
    code(error) == Some(&SqlState::FOREIGN_KEY_VIOLATION)
}

/// Of a statement that changes something: if the server did not say that it failed, it may have succeeded. A pooler
/// says of a lost server connection what a server would say of itself.
pub(super) fn write(error: Error) -> Error {
    let unknown = driver(&error).is_some_and(|cause| match cause.code() {
        None => !is_conversion(cause),
        Some(state) => {
            let class = |class| state.code().starts_with(class);
            class("08") || class("57P") || state.code() == "40003"
        }
    });
    if unknown {
        error.with_outcome_unknown()
    } else {
        error
    }
}

pub(super) fn commit(error: tokio_postgres::Error) -> Error {
    write(statement(error))
}

/// Whether the server rolled a transaction back because of other transactions: a serialization failure or a
/// deadlock.
pub(super) fn is_transient(error: &Error) -> bool {
    code(error).is_some_and(|code| {
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(code)
    })
}

/// What the server called the failure, if it said so.
pub(super) fn code(error: &Error) -> Option<&SqlState> {
    let withheld = || error.source()?.downcast_ref::<Withheld>();
    driver(error)
        .and_then(tokio_postgres::Error::code)
        .or_else(|| withheld().map(|withheld| &withheld.state))
}

fn driver(error: &Error) -> Option<&tokio_postgres::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

fn kind(error: &tokio_postgres::Error) -> ErrorKind {
    let Some(state) = error.code() else {
        return if is_conversion(error) {
            ErrorKind::Schema
        } else {
            // The connection broke, or what came over it made no sense.
            ErrorKind::Connection
        };
    };
    match *state {
        SqlState::READ_ONLY_SQL_TRANSACTION => ErrorKind::ReadOnly,
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => ErrorKind::Deadline,
        _ if is_misplaced(state) => ErrorKind::Configuration,
        // Undefined and ambiguous objects, wrong types, missing rights.
        _ if state.code().starts_with("42") => ErrorKind::Schema,
        // A value that cannot be computed or converted: one row's fault.
        _ if state.code().starts_with("22") => ErrorKind::Decode,
        _ if ["08", "57", "53"]
            .iter()
            .any(|class| state.code().starts_with(class)) =>
        {
            ErrorKind::Connection
        }
        _ => ErrorKind::Statement,
    }
}

/// Whether a statement did nothing because of the state of its connection: what was prepared there does not fit the
/// tables any more, or the server accepts no writes any more.
pub(super) fn is_outdated(error: &Error) -> bool {
    code(error).is_some_and(|code| {
        [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::INVALID_SQL_STATEMENT_NAME,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(code)
    })
}

/// Whether the same lookup may succeed on a connection that has just been opened: this one was lost,
/// its server was demoted, what was prepared on it no longer fits, or a replica needed to replay what
/// the lookup stood in the way of.
pub(super) fn is_retryable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Recovery)
        || is_outdated(error)
        || is_transient(error)
}
