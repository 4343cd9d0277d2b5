//! Why a request is rejected.

use std::fmt;

use http::StatusCode;

/// Kind of a [`Rejection`](crate::rejection::Rejection).
///
/// The enum is exhaustive, because a
/// [`ResponseForRejection`](crate::rejection::ResponseForRejection) must handle every kind. A new
/// kind is therefore a breaking change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// The route requires a user, and no user is signed in: 401, gRPC status 16.
    Unauthenticated,
    /// The session lookup failed: 503, gRPC status 14.
    Unavailable,
    /// The user does not meet the route's condition: 403, gRPC status 7.
    Forbidden,
    /// The user must authenticate again: 401, gRPC status 16.
    ReauthenticationRequired,
}

impl RejectionKind {
    /// Returns the HTTP status: 401, 403 or 503.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthenticated | Self::ReauthenticationRequired => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the gRPC status: 16 (unauthenticated), 7 (permission denied) or 14 (unavailable).
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Unauthenticated | Self::ReauthenticationRequired => 16,
            Self::Forbidden => 7,
            Self::Unavailable => 14,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "authentication required",
            Self::Forbidden => "access denied",
            Self::ReauthenticationRequired => "re-authentication required",
            Self::Unavailable => "session lookup failed",
        }
    }
}

impl fmt::Display for RejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
