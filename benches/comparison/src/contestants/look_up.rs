//! A hand-written middleware. It reads and hashes the cookie with this crate's functions, so that
//! only the source of the user differs.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::{Service, service_fn};
use tower_user_session::{
    cookie::{PresentedToken, SessionCookie},
    session::SessionToken,
};

use super::{
    app::App,
    user::{User, answer, who_is_it},
};
use crate::BoxError;

/// The source of the user.
pub(super) trait Find: Clone + Send + Sync + 'static {
    fn find(
        self,
        token: SessionToken,
    ) -> impl Future<Output = Result<Option<User>, BoxError>> + Send;
}

pub(super) fn service(find: impl Find) -> impl App {
    LookUp {
        inner: service_fn(|request| ready(Ok::<_, Infallible>(who_is_it(&request)))),
        find,
    }
}

#[derive(Clone)]
struct LookUp<S, F> {
    inner: S,
    find: F,
}

impl<S: App, F: Find> Service<Request<Body>> for LookUp<S, F> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let not_ready_inner = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, not_ready_inner);
        let PresentedToken::Token(token) = SessionCookie::default().read(request.headers()) else {
            return Box::pin(inner.call(request));
        };
        let finding = self.find.clone().find(token);
        Box::pin(async move {
            match finding.await {
                Ok(Some(user)) => drop(request.extensions_mut().insert(user)),
                Ok(None) => {}
                Err(_) => {
                    let mut response = answer(None);
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(response);
                }
            }
            inner.call(request).await
        })
    }
}
