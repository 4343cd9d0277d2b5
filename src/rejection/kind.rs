//! Why a request is rejected.

use std::fmt;

use http::StatusCode;

/// The kinds of [`Rejection`](crate::rejection::Rejection). A new kind is a breaking change: a
/// [`ResponseForRejection`](crate::rejection::ResponseForRejection) that matches on the
/// kinds must not take an unknown one for something harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// The route asks for a user and there is none: 401, gRPC status 16.
    Unauthenticated,
    /// It could not be found out whether there is one: 503, gRPC status 14.
    Unavailable,
    /// The user is not allowed to do this: 403, gRPC status 7.
    Forbidden,
    /// The person must prove again who they are: 401, gRPC status 16.
    ReauthenticationRequired,
}

impl RejectionKind {
    /// The HTTP status: 401, 403 or 503.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Unauthenticated | Self::ReauthenticationRequired => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status: 16 (unauthenticated), 7 (permission denied) or 14 (unavailable).
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Unauthenticated | Self::ReauthenticationRequired => 16,
            Self::Forbidden => 7,
            Self::Unavailable => 14,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "nobody is signed in",
            Self::Forbidden => "the user is not allowed to do this",
            Self::ReauthenticationRequired => "the person must prove again who they are",
            Self::Unavailable => "it could not be found out who is signed in",
        }
    }
}

impl fmt::Display for RejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
