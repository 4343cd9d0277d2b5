//! Maps driver and server errors to [`ErrorKind`].

use std::{error::Error as _, fmt, io};

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Error, ErrorKind};

/// Converts a failure to open a connection, or to keep it open.
pub(super) fn connecting(error: tokio_postgres::Error) -> Error {
    Error::new(connection_kind(&error), error)
}

pub(super) fn connection_kind(error: &tokio_postgres::Error) -> ErrorKind {
    if let Some(state) = error.code() {
        // Class 28 is invalid authorization. `INSUFFICIENT_PRIVILEGE` means that the role lacks
        // `CONNECT`.
        let is_rejected =
            state.code().starts_with("28") || *state == SqlState::INSUFFICIENT_PRIVILEGE;
        return if is_rejected {
            ErrorKind::Authentication
        } else {
            ErrorKind::Connection
        };
    }
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    // The driver reports a server that does not match `target_session_attrs` as this kind of I/O
    // error. An error of the operating system has a code.
    if io.is_some_and(|io| {
        io.kind() == io::ErrorKind::PermissionDenied && io.raw_os_error().is_none()
    }) {
        return ErrorKind::Recovery;
    }
    // The driver distinguishes these causes by this text only. The kind is only for the operator.
    // No decision depends on the kind.
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
        // The pool had a free slot, but the server did not respond.
        error @ PoolError::Timeout(TimeoutType::Create) => Error::new(ErrorKind::Connection, error),
        other => Error::new(ErrorKind::Pool, other),
    }
}

/// Converts a failure to prepare or to run a statement.
pub(super) fn statement(error: tokio_postgres::Error) -> Error {
    if let Some(db_error) = error
        .as_db_error()
        .filter(|db_error| may_contain_values(db_error))
    {
        return Error::new(kind(&error), RedactedDbError::new(db_error));
    }
    let message = if error.code().is_some_and(is_prepared_statement_mismatch) {
        Some(
            "a prepared statement is missing or already exists on this server connection: behind a \
             transaction pooler, enable PgSessionStore::with_transaction_pooling",
        )
    } else if is_conversion(&error) {
        Some(
            "a parameter cannot be converted to the type of its column, and nothing was sent: \
             check PgUser::Id and the values that the call sets",
        )
    } else {
        None
    };
    let error = Error::new(kind(&error), error);
    match message {
        Some(message) => error.with_message(message),
        None => error,
    }
}

/// Returns whether the driver failed to convert a value. The driver then sends nothing. Other
/// failures of the driver have a connection error as their source, or no source.
fn is_conversion(error: &tokio_postgres::Error) -> bool {
    error.code().is_none()
        && error
            .source()
            .is_some_and(|source| !source.is::<io::Error>())
}

/// Returns the remedy for a statement that failed a startup check, if the server's error identifies
/// the cause.
pub(super) fn remedy(error: &Error) -> Option<&'static str> {
    let db_error = driver(error)?.as_db_error()?;
    if db_error.routine() == Some("check_enable_rls") {
        return Some(
            "row-level security hides rows of a table that a statement reads: the role must own \
             the table without FORCE ROW LEVEL SECURITY, or have BYPASSRLS",
        );
    }
    match *db_error.code() {
        SqlState::INSUFFICIENT_PRIVILEGE => Some(
            "the role lacks a privilege that a statement needs: see the source of this error, \
             and \"The database role\" in SECURITY.md",
        ),
        SqlState::UNDEFINED_TABLE => Some(
            "a table is missing: PgSessionStore::migrate creates the sessions table, after your own \
             migration has created the users table",
        ),
        SqlState::GROUPING_ERROR => Some(
            "PgUser::COLUMNS contains an aggregate, which would ignore PgUser::CONDITION: select \
             it in a subquery, ARRAY(SELECT …)",
        ),
        _ => None,
    }
}

/// Returns whether a prepared statement is missing, or already exists under the same name.
fn is_prepared_statement_mismatch(state: &SqlState) -> bool {
    [
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
    ]
    .contains(state)
}

/// Returns whether the server's error may contain values of a row. The detail of a violated
/// constraint may contain them. The message about a value that cannot be converted or computed may
/// contain them, too.
fn may_contain_values(db_error: &DbError) -> bool {
    let class = &db_error.code().code()[..2];
    class == "22" || class == "23"
}

/// A server error without the values of a row. For a violated constraint, the message is kept,
/// because it names the constraint. The detail is dropped, because it contains the whole row and
/// therefore the digest.
#[derive(Debug)]
struct RedactedDbError {
    state: SqlState,
    message: String,
    table: Option<String>,
    constraint: Option<String>,
}

impl RedactedDbError {
    fn new(db_error: &DbError) -> Self {
        let is_constraint = db_error.code().code().starts_with("23");
        Self {
            state: db_error.code().clone(),
            message: if is_constraint {
                db_error.message().to_owned()
            } else {
                "a value cannot be converted or computed".to_owned()
            },
            table: db_error.table().map(str::to_owned),
            constraint: db_error.constraint().map(str::to_owned),
        }
    }
}

impl fmt::Display for RedactedDbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.state.code())
    }
}

impl std::error::Error for RedactedDbError {}

/// Returns whether a new session failed because its digest exists already. This is the case if the
/// failure names the unique index that `migrations/` creates. The server derives the name of that
/// index from the column. A unique index that the application has added does not count.
pub(super) fn is_duplicate_digest(error: &Error, sessions: &str) -> bool {
    let redacted = error
        .source()
        .and_then(|source| source.downcast_ref::<RedactedDbError>());
    redacted.is_some_and(|redacted| {
        redacted.state == SqlState::UNIQUE_VIOLATION
            && redacted.table.as_deref() == Some(sessions)
            && redacted
                .constraint
                .as_ref()
                .is_some_and(|name| name.contains("token_digest"))
    })
}

/// Returns whether a row refers to a missing row.
pub(super) fn is_foreign_key(error: &Error) -> bool {
    code(error) == Some(&SqlState::FOREIGN_KEY_VIOLATION)
}

/// Returns whether the connection was lost before the server responded. A pooler reports a lost
/// server connection with the codes that the server itself would use.
pub(super) fn is_connection_lost(error: &Error) -> bool {
    driver(error).is_some_and(|cause| match cause.code() {
        None => !is_conversion(cause),
        Some(state) => {
            let class = |class| state.code().starts_with(class);
            class("08") || class("57P") || state.code() == "40003"
        }
    })
}

/// Marks the error of a write as outcome unknown, unless the server reported a failure.
pub(super) fn write(error: Error) -> Error {
    if is_connection_lost(&error) {
        error.with_outcome_unknown()
    } else {
        error
    }
}

/// Converts the error that `none_left.sql`, `insert.sql` and `rotate.sql` raise if a trigger or a
/// rule of the application has suppressed a write. A trigger that returns NULL for a row makes the
/// server skip the row without an error.
pub(super) fn suppressed(error: Error) -> Error {
    let state = SqlState::INVALID_ARGUMENT_FOR_WIDTH_BUCKET_FUNCTION;
    if code(&error) != Some(&state) {
        return error;
    }
    let cause = RedactedDbError {
        state,
        message: "a row was not changed".to_owned(),
        table: None,
        constraint: None,
    };
    Error::new(ErrorKind::Statement, cause)
        .with_message("the write failed: a trigger or a rule on the sessions table suppressed it")
}

pub(super) fn commit(error: tokio_postgres::Error) -> Error {
    write(statement(error))
}

/// Returns whether the server rolled the transaction back because of another transaction: a
/// serialization failure or a deadlock.
pub(super) fn is_transient(error: &Error) -> bool {
    code(error).is_some_and(|code| {
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(code)
    })
}

/// Returns the SQLSTATE, if the server reported the failure.
pub(super) fn code(error: &Error) -> Option<&SqlState> {
    let redacted = || error.source()?.downcast_ref::<RedactedDbError>();
    driver(error)
        .and_then(tokio_postgres::Error::code)
        .or_else(|| redacted().map(|redacted| &redacted.state))
}

fn driver(error: &Error) -> Option<&tokio_postgres::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

fn kind(error: &tokio_postgres::Error) -> ErrorKind {
    let Some(state) = error.code() else {
        return if is_conversion(error) {
            ErrorKind::Schema
        } else {
            // The connection was lost, or the driver could not parse a message.
            ErrorKind::Connection
        };
    };
    match *state {
        SqlState::READ_ONLY_SQL_TRANSACTION => ErrorKind::ReadOnly,
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => ErrorKind::Deadline,
        _ if is_prepared_statement_mismatch(state) => ErrorKind::Configuration,
        // Undefined and ambiguous objects, wrong types, missing privileges.
        _ if state.code().starts_with("42") => ErrorKind::Schema,
        // A value of one row cannot be computed or converted.
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

/// Returns whether a statement had no effect because of the state of its connection: a prepared
/// statement no longer matches the tables, or the server no longer accepts writes.
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

/// Returns whether a lookup should be retried on a new connection. This is the case if the
/// connection was lost, its server was demoted, a prepared statement no longer matches the tables,
/// or the lookup conflicted with replay on a replica.
pub(super) fn is_retryable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Recovery)
        || is_outdated(error)
        || is_transient(error)
}
