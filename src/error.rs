//! The one error of this crate.

use std::{error::Error as StdError, fmt, sync::Arc};

use http::StatusCode;

/// A boxed error, as application code hands it to this crate.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why an operation on sessions failed.
///
/// An opaque struct, so that further context can be added without a breaking change: match on
/// [`kind`](Self::kind). `Display` says this error's own part, [`source`](StdError::source) the
/// rest. Neither contains a token, a digest or a password, unless an error of
/// the application does, such as that of `PgUser::from_row`. The server's message is left out for SQLSTATE class 22,
/// and its detail for class 23, because they can quote the values of a row.
///
/// It is cheap to clone, because one failed statement answers every request that waited for it.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    context: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    outcome_unknown: bool,
}

/// What kind of failure an [`Error`] is, for operators to tell apart.
///
/// Whatever the kind, a request whose session could not be looked up is answered with 503 and never
/// as anonymous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, contradicts another one or cannot be used.
    Configuration,
    /// The service was closed.
    Closed,
    /// No connection to the database could be made, or it was lost.
    Connection,
    /// No encrypted connection to the database could be made: the server offers none, or its
    /// certificate has expired, names another host or comes from an unknown authority.
    Tls,
    /// The database does not let the application in: the password is wrong, the user may not
    /// connect, or `pg_hba.conf` has no line for the user, the database, the client's address or a
    /// connection without encryption.
    Authentication,
    /// The deadline passed before there was an answer.
    Deadline,
    /// The application's pool had no connection to lend.
    Pool,
    /// Too many lookups were waiting already; this one was turned away at once.
    Overloaded,
    /// The server is in recovery: a replica, or a primary that was demoted.
    Recovery,
    /// The database accepts no writes, although its server is not in recovery: `default_transaction_read_only` is
    /// on, for the role, the database or the server.
    ReadOnly,
    /// The statement does not fit the database's tables: a column, a table or a right is missing.
    Schema,
    /// The database refused or failed the statement for another reason.
    Statement,
    /// A row could not be read: a column's value or type is not what was expected.
    Decode,
    /// The application's code panicked while it read a user. Only the callers that wait for this user fail.
    Panicked,
    /// The store did not answer as [`SessionLookup`](crate::store::SessionLookup) demands.
    Protocol,
    /// The operating system's random generator failed.
    Rng,
    /// The user does not exist or does not meet the condition for signing in.
    UserNotAllowed,
    /// The user has as many sessions as the limit allows.
    TooManySessions,
    /// There is no live session of this user to confirm.
    SessionNotFound,
    /// A failure of a store other than this crate's own.
    Store,
}

impl Error {
    /// An error of this kind, caused by `source`. For implementations of
    /// [`SessionLookup`](crate::store::SessionLookup) and [`SessionStore`](crate::store::SessionStore).
    pub fn new(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(Arc::from(source.into())),
            ..Self::from_kind(kind)
        }
    }

    pub(crate) const fn from_kind(kind: ErrorKind) -> Self {
        Self {
            kind,
            context: kind.as_str(),
            source: None,
            outcome_unknown: false,
        }
    }

    /// Replaces the sentence that `Display` prints.
    pub(crate) const fn with_message(mut self, context: &'static str) -> Self {
        self.context = context;
        self
    }

    /// The same error, of something that may have happened all the same. For implementations of
    /// [`SessionStore`](crate::store::SessionStore).
    pub const fn with_outcome_unknown(mut self) -> Self {
        self.outcome_unknown = true;
        self
    }

    /// Whether what was asked for may have happened all the same: the connection was lost, or the
    /// deadline passed, after the statement had been sent. Where this is `false`, nothing happened.
    pub const fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// What kind of failure this is.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP status of an answer to a request that failed so: see [`ErrorKind::status`].
    pub const fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The gRPC status of an answer to a call that failed so: see [`ErrorKind::grpc_code`].
    pub const fn grpc_code(&self) -> i32 {
        self.kind.grpc_code()
    }
}

impl ErrorKind {
    /// The HTTP status of an answer: 403 for a user who cannot be signed in, 409 beyond the limit of sessions, 401
    /// if there is no session to confirm, 500 for what no client and no database can mend, and otherwise 503.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::UserNotAllowed => StatusCode::FORBIDDEN,
            Self::TooManySessions => StatusCode::CONFLICT,
            Self::SessionNotFound => StatusCode::UNAUTHORIZED,
            Self::Configuration | Self::Rng => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status of an answer, a number that every gRPC library converts: 7 (permission denied), 8 (resource
    /// exhausted), 16 (unauthenticated), 13 (internal) or 14 (unavailable), in the order of
    /// [`status`](Self::status).
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::UserNotAllowed => 7,
            Self::TooManySessions => 8,
            Self::SessionNotFound => 16,
            Self::Configuration | Self::Rng => 13,
            _ => 14,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "the settings cannot be used",
            Self::Closed => "the session service is closed",
            Self::Connection => "the database cannot be reached",
            Self::Tls => "no encrypted connection to the database can be made",
            Self::Authentication => "the database refused to let the application in",
            Self::Deadline => "the database did not answer within the deadline",
            Self::Pool => "the pool had no connection to lend",
            Self::Overloaded => "too many lookups are waiting",
            Self::Recovery => "the database server is in recovery",
            Self::ReadOnly => "the database accepts no writes",
            Self::Schema => "the statement does not fit the database's tables",
            Self::Statement => "the database refused the statement",
            Self::Decode => "a row could not be read",
            Self::Panicked => "the application's code panicked while it read the user",
            Self::Protocol => "the store did not answer as it must",
            Self::Rng => "the operating system's random generator failed",
            Self::UserNotAllowed => "the user cannot be signed in",
            Self::TooManySessions => "the user has as many sessions as the limit allows",
            Self::SessionNotFound => "there is no live session of this user",
            Self::Store => "the store failed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.context)
    }
}

impl fmt::Debug for Error {
    /// The message, then the causes, for a `main` that returns the error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Chain(self))?;
        if self.outcome_unknown {
            f.write_str(" (it may have happened all the same)")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// Prints an error with its causes on one line, for log events.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn StdError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `main` prints the `Debug` of the error that it returns.
    #[test]
    fn debug_is_readable() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Connection, cause);
        assert_eq!(
            format!("{error:?}"),
            "the database cannot be reached: connection refused"
        );
        let error = Error::from_kind(ErrorKind::Deadline).with_outcome_unknown();
        assert!(format!("{error:?}").ends_with("(it may have happened all the same)"));
        assert_eq!(
            ErrorKind::Closed.to_string(),
            "the session service is closed"
        );
    }

    #[test]
    fn each_kind_has_a_status_in_both_protocols() {
        for (kind, status, code) in [
            (ErrorKind::UserNotAllowed, 403, 7),
            (ErrorKind::TooManySessions, 409, 8),
            (ErrorKind::SessionNotFound, 401, 16),
            (ErrorKind::Configuration, 500, 13),
            (ErrorKind::Rng, 500, 13),
            (ErrorKind::Connection, 503, 14),
            (ErrorKind::Deadline, 503, 14),
            (ErrorKind::Decode, 503, 14),
        ] {
            let error = Error::from_kind(kind);
            assert_eq!((error.status().as_u16(), error.grpc_code()), (status, code));
        }
    }
}
