//! What a failure of the driver or of the server means here.

use std::{error::Error as _, fmt, io};

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, SqlState};

use crate::{Error, ErrorKind};

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
    let error = match error.as_db_error() {
        Some(refused) if refused.code().code().starts_with("23") => {
            return Error::new(kind(&error), Constraint::new(refused));
        }
        _ => error,
    };
    let misplaced = error.code().is_some_and(is_misplaced);
    let error = Error::new(kind(&error), error);
    if misplaced {
        error.saying(
            "a prepared statement is not where it was prepared, or was there before: behind a pooler \
             that pools transactions, PgSessionStore::with_transaction_pooling is needed",
        )
    } else {
        error
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

/// A constraint that a row did not meet, by the server's message, which names it. The server's detail
/// is left out: it shows the whole row, and so the digest.
#[derive(Debug)]
struct Constraint {
    state: SqlState,
    message: String,
}

impl Constraint {
    fn new(refused: &DbError) -> Self {
        Self {
            state: refused.code().clone(),
            message: refused.message().to_owned(),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.state.code())
    }
}

impl std::error::Error for Constraint {}

/// Of a statement that changes something: where the server did not say that it failed, it may have
/// succeeded.
pub(super) fn write(error: Error) -> Error {
    if driver(&error).is_some_and(|cause| cause.code().is_none()) {
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
    let constraint = || error.source()?.downcast_ref::<Constraint>();
    driver(error)
        .and_then(tokio_postgres::Error::code)
        .or_else(|| constraint().map(|constraint| &constraint.state))
}

fn driver(error: &Error) -> Option<&tokio_postgres::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

fn kind(error: &tokio_postgres::Error) -> ErrorKind {
    let Some(state) = error.code() else {
        // No word from the server: the connection broke, or what came over it made no sense.
        return ErrorKind::Connection;
    };
    match *state {
        SqlState::READ_ONLY_SQL_TRANSACTION => ErrorKind::Recovery,
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => ErrorKind::Deadline,
        _ if is_misplaced(state) => ErrorKind::Configuration,
        // Undefined and ambiguous objects, wrong types, missing rights.
        _ if state.code().starts_with("42") => ErrorKind::Schema,
        // A value that cannot be computed or converted: one row's fault.
        _ if state.code().starts_with("22") => ErrorKind::Row,
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
pub(super) fn is_stale(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Recovery)
        || is_outdated(error)
        || is_transient(error)
}
