//! The application's user, the same for all contestants, and the handler that returns its id.

use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tower_user_session::{BoxError, LookupRow, PgUser};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) created_at: OffsetDateTime,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id, u.email, u.name, u.created_at";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self {
            id: row.user().get("id")?,
            email: row.user().get("email")?,
            name: row.user().get("name")?,
            created_at: row.user().get("created_at")?,
        })
    }
}

/// A header of each response, so that it can be checked.
pub(crate) const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// The response of the innermost service.
pub(super) fn answer(user: Option<i64>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    match user {
        Some(id) => {
            response
                .headers_mut()
                .insert(USER_ID, HeaderValue::from(id));
        }
        None => *response.status_mut() = StatusCode::UNAUTHORIZED,
    }
    response
}

/// The response if the user is in the request's extensions.
pub(super) fn who_is_it(request: &Request<Body>) -> Response<Body> {
    answer(request.extensions().get::<User>().map(|user| user.id))
}

pub(crate) fn named(response: &Response<Body>) -> Option<i64> {
    response.headers().get(USER_ID)?.to_str().ok()?.parse().ok()
}
