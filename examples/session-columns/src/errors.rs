use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use example_application::AccountError;
use tower_user_session::{BoxError, Error, ErrorKind};

/// An error of a handler, and its status.
pub(crate) struct PageError {
    status: StatusCode,
    text: String,
}

impl PageError {
    pub(crate) fn forbidden(text: &str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            text: text.to_owned(),
        }
    }

    pub(crate) fn unavailable(cause: impl Into<BoxError>) -> Self {
        AccountError::Unavailable(cause.into()).into()
    }
}

impl From<AccountError> for PageError {
    fn from(error: AccountError) -> Self {
        if let AccountError::Unavailable(cause) = &error {
            tracing::error!(cause, "request failed");
        }
        Self {
            status: error.status(),
            text: error.to_string(),
        }
    }
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::UserNotAllowed | ErrorKind::SessionNotFound => {
                Self::forbidden("This is not allowed.")
            }
            _ => Self::unavailable(error),
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}
