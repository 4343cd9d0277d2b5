//! The bounds on a contestant's service.

use std::convert::Infallible;

use axum::body::Body;
use http::{Request, Response};
use tower::Service;

/// The bounds on a contestant's service: a clonable tower service that never fails.
pub(crate) trait App:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> App for S where
    S: Service<
            Request<Body>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}
