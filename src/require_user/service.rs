use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    rejection::{DefaultResponseForRejection, ResponseForRejection, reject},
    require_user::{ResponseFuture, guard::Guard},
};

/// Service that rejects a request without a user. See the
/// [module's documentation](crate::require_user).
pub struct RequireUser<S, U, R = DefaultResponseForRejection> {
    inner: S,
    guard: Guard<U>,
    rejection: R,
}

impl<S, U, R> RequireUser<S, U, R> {
    pub(super) const fn new(inner: S, guard: Guard<U>, rejection: R) -> Self {
        Self {
            inner,
            guard,
            rejection,
        }
    }

    /// Returns a reference to the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, U, R, ReqBody, ResBody> Service<Request<ReqBody>> for RequireUser<S, U, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    U: Send + Sync + 'static,
    R: ResponseForRejection<ResBody>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (head, body) = request.into_parts();
        let Some(rejection) = self.guard.refusal(&head) else {
            return ResponseFuture::inner(self.inner.call(Request::from_parts(head, body)));
        };
        ResponseFuture::rejected(reject(&mut self.rejection, rejection))
    }
}

impl<S: Clone, U, R: Clone> Clone for RequireUser<S, U, R> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.guard.clone(),
            self.rejection.clone(),
        )
    }
}

impl<S: fmt::Debug, U, R> fmt::Debug for RequireUser<S, U, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireUser")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
