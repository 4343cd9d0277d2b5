//! The error type of this crate.

use std::{error::Error as StdError, fmt, sync::Arc};

use http::StatusCode;

/// A boxed error that application code returns to this crate.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Failure of an operation on sessions.
///
/// The struct is opaque. Context can therefore be added without a breaking change. Match on
/// [`kind`](Self::kind). `Display` prints the message of this error only, and
/// [`source`](StdError::source) returns its cause.
///
/// Neither the message nor the source contains a token, a digest or a password. Only an error of
/// the application, such as an error of `PgUser::from_row`, may contain one of these. For SQLSTATE
/// class 22, the server's message is omitted. For class 23, the detail of the server's message is
/// omitted. Both can quote the values of a row.
///
/// Cloning is cheap, because each request that waited for a failed query receives a clone.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    context: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    outcome_unknown: bool,
    retried: bool,
}

/// Kind of an [`Error`].
///
/// If a lookup fails, [`LoadUserLayer`](crate::LoadUserLayer) responds with 503 for every kind. A
/// failed lookup is never treated as anonymous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, invalid or in conflict with another setting.
    Configuration,
    /// The service is closed.
    Closed,
    /// The connection to the database could not be established, or was lost.
    Connection,
    /// The TLS handshake with the database failed: the server has no TLS, or its certificate has
    /// expired, is for another host or has an unknown issuer.
    Tls,
    /// The database rejected the login: the password is wrong, the role must not connect, or
    /// `pg_hba.conf` has no entry for the role, the database, the client's address or an
    /// unencrypted connection.
    Authentication,
    /// The deadline passed before the operation completed.
    Deadline,
    /// The application's pool had no connection available.
    Pool,
    /// Too many lookups were waiting. This lookup was rejected at once.
    Overloaded,
    /// The server is in recovery: a replica, or a primary that was demoted.
    Recovery,
    /// The database rejects writes, although its server is not in recovery:
    /// `default_transaction_read_only` is on for the role, the database or the server.
    ReadOnly,
    /// The query does not match the database: a column, a table or a privilege is missing.
    Schema,
    /// The database rejected the statement for another reason.
    Statement,
    /// A row could not be decoded: a column has an unexpected value or type.
    Decode,
    /// The application's code panicked while it decoded a user. Only the callers that wait for this
    /// user fail.
    Panicked,
    /// The store violated the contract of [`SessionLookup`](crate::store::SessionLookup).
    Protocol,
    /// The operating system's random generator failed.
    Rng,
    /// The user does not exist, or does not meet the conditions for signing in.
    UserNotAllowed,
    /// The user has as many sessions as the limit allows.
    TooManySessions,
    /// The request presents no live session of this user that can be re-authenticated.
    SessionNotFound,
    /// A store that is not part of this crate failed.
    Store,
}

impl Error {
    /// Creates an error of this kind with the cause `source`.
    ///
    /// For implementations of [`SessionLookup`](crate::store::SessionLookup) and
    /// [`SessionStore`](crate::store::SessionStore).
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
            retried: false,
        }
    }

    /// Replaces the message that `Display` prints.
    pub(crate) const fn with_message(mut self, context: &'static str) -> Self {
        self.context = context;
        self
    }

    /// Marks the outcome as unknown: the operation may have taken effect.
    ///
    /// For implementations of [`SessionStore`](crate::store::SessionStore).
    pub const fn with_outcome_unknown(mut self) -> Self {
        self.outcome_unknown = true;
        self
    }

    /// Returns whether the operation may have taken effect.
    ///
    /// This is `true` if the connection was lost, or the deadline passed, after the statement had
    /// been sent. If it is `false`, nothing was changed.
    pub const fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// Marks the error as that of a query that was repeated, for the span of the lookup.
    #[cfg(feature = "postgres")]
    pub(crate) const fn retried(mut self) -> Self {
        self.retried = true;
        self
    }

    pub(crate) const fn is_retried(&self) -> bool {
        self.retried
    }

    /// Returns the field `outcome` of an event about a write that failed.
    pub(crate) const fn outcome(&self) -> &'static str {
        if self.outcome_unknown {
            "unknown"
        } else {
            "unchanged"
        }
    }

    /// Returns the kind of this error.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the HTTP status of a response to a request that failed with this error. See
    /// [`ErrorKind::status`].
    pub const fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// Returns the gRPC status of a response to a call that failed with this error. See
    /// [`ErrorKind::grpc_code`].
    pub const fn grpc_code(&self) -> i32 {
        self.kind.grpc_code()
    }
}

impl ErrorKind {
    /// Returns the HTTP status of a response.
    ///
    /// | kind | HTTP | gRPC |
    /// |---|---|---|
    /// | [`UserNotAllowed`](Self::UserNotAllowed) | 403 | 7 (permission denied) |
    /// | [`TooManySessions`](Self::TooManySessions) | 409 | 8 (resource exhausted) |
    /// | [`SessionNotFound`](Self::SessionNotFound) | 401 | 16 (unauthenticated) |
    /// | [`Configuration`](Self::Configuration), [`Rng`](Self::Rng) | 500 | 13 (internal) |
    /// | all others | 503 | 14 (unavailable) |
    pub const fn status(self) -> StatusCode {
        match self {
            Self::UserNotAllowed => StatusCode::FORBIDDEN,
            Self::TooManySessions => StatusCode::CONFLICT,
            Self::SessionNotFound => StatusCode::UNAUTHORIZED,
            Self::Configuration | Self::Rng => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the gRPC status of a response as a number, which every gRPC library can convert. See
    /// [`status`](Self::status) for the table.
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
            Self::Configuration => "invalid configuration",
            Self::Closed => "the session service is closed",
            Self::Connection => "database connection failed",
            Self::Tls => "TLS connection to the database failed",
            Self::Authentication => "database authentication failed",
            Self::Deadline => "the database did not respond within the deadline",
            Self::Pool => "the connection pool had no connection available",
            Self::Overloaded => "too many lookups are waiting",
            Self::Recovery => "the database server is in recovery",
            Self::ReadOnly => "the database is read-only",
            Self::Schema => "the query does not match the database schema or privileges",
            Self::Statement => "the database rejected the statement",
            Self::Decode => "decoding a row failed",
            Self::Panicked => "the application's code panicked while it decoded the user",
            Self::Protocol => "the store violated the SessionLookup contract",
            Self::Rng => "the operating system's random generator failed",
            Self::UserNotAllowed => "the user cannot be signed in",
            Self::TooManySessions => "the user has reached the limit of sessions",
            Self::SessionNotFound => "the request has no live session of this user",
            Self::Store => "session store failed",
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
    /// Prints the message and the causes, for a `main` that returns the error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Chain(self))?;
        if self.outcome_unknown {
            f.write_str(" (the operation may have taken effect)")?;
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
    fn debug_prints_the_message_and_its_causes() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(ErrorKind::Connection, cause);
        assert_eq!(
            format!("{error:?}"),
            "database connection failed: connection refused"
        );
        let error = Error::from_kind(ErrorKind::Deadline).with_outcome_unknown();
        assert!(format!("{error:?}").ends_with("(the operation may have taken effect)"));
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
