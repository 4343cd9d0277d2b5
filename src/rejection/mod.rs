//! Responses to rejected requests, over HTTP and gRPC.
//!
//! A layer that rejects a request makes a [`Rejection`] and passes it to a
//! [`ResponseForRejection`].
//!
//! | kind | HTTP | gRPC | layer |
//! |---|---|---|---|
//! | [`Unauthenticated`](RejectionKind::Unauthenticated) | 401 | 16 | [`RequireUserLayer`](crate::RequireUserLayer) |
//! | [`ReauthenticationRequired`](RejectionKind::ReauthenticationRequired) | 401 | 16 | `RequireUserLayer` |
//! | [`Forbidden`](RejectionKind::Forbidden) | 403 | 7 | `RequireUserLayer` |
//! | [`Unavailable`](RejectionKind::Unavailable) | 503 | 14 | [`LoadUserLayer`](crate::LoadUserLayer) |
//!
//! # Example
//!
//! A closure builds the application's own response:
//!
//! ```
//! use http::Response;
//! use tower_user_session::{RequireUserLayer, rejection::Rejection};
//!
//! # #[derive(Clone)]
//! # struct User;
//! let layer = RequireUserLayer::<User>::new().rejection_response(|rejection: &Rejection| {
//!     let mut response: Response<String> = rejection.response();
//!     if !rejection.is_grpc() && rejection.redirect().is_none() {
//!         *response.body_mut() = format!("{}: {}", rejection.status(), rejection.body());
//!     }
//!     response
//! });
//! # let _ = layer;
//! ```

mod format;
mod kind;
pub(crate) mod navigation;

use std::fmt;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

pub use self::kind::RejectionKind;
use crate::{error::Error, rejection::format::Format};

/// When a client may retry, in seconds.
pub(crate) const RETRY_AFTER: &str = "2";

/// The reason why a layer rejected a request.
///
/// The layer adds the rejection to the extensions of the response, also if the application built
/// the response. Outer layers can therefore distinguish this response from a handler's response.
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    format: Format,
    redirect: Option<HeaderValue>,
    error: Option<Error>,
}

impl Rejection {
    pub(crate) fn new(kind: RejectionKind, request: &HeaderMap) -> Self {
        Self {
            kind,
            format: Format::of(request),
            redirect: None,
            error: None,
        }
    }

    pub(crate) fn unavailable(request: &HeaderMap, error: Error) -> Self {
        Self {
            error: Some(error),
            ..Self::new(RejectionKind::Unavailable, request)
        }
    }

    pub(crate) fn redirecting_to(mut self, page: Option<HeaderValue>) -> Self {
        self.redirect = page;
        self
    }

    /// Returns the kind of this rejection.
    pub const fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// Returns the error of the lookup, for logs. It must not be sent to the client.
    pub const fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns whether the request is a gRPC or gRPC-Web request.
    pub const fn is_grpc(&self) -> bool {
        matches!(self.format, Format::Grpc(_))
    }

    /// Returns the target of the redirect, if the request is a browser's navigation and the layer
    /// has a page for this kind of rejection.
    pub const fn redirect(&self) -> Option<&HeaderValue> {
        self.redirect.as_ref()
    }

    /// Returns the HTTP status. It applies unless the response is a redirect or a gRPC response.
    pub const fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// Returns the media type of [`body`](Self::body): HTML, JSON or plain text, as the client
    /// prefers.
    pub fn content_type(&self) -> HeaderValue {
        self.format.content_type()
    }

    /// Returns one line for the user, as a page, as problem details (RFC 9457) or as plain text.
    ///
    /// The body is empty for gRPC. A gRPC response has the line in the header `grpc-message`.
    pub const fn body(&self) -> &'static str {
        self.format.body(self.kind)
    }

    /// Builds the default response: the kind's status, `Cache-Control: no-store`, and
    /// [`body`](Self::body).
    ///
    /// | rejection | response |
    /// |---|---|
    /// | with a [`redirect`](Self::redirect) | 303 to that page |
    /// | 401 | with `WWW-Authenticate` (RFC 9110 §15.5.2 and §11.6.1); for a re-authentication with the error code of RFC 9470 §3 |
    /// | 503 | with `Retry-After` (RFC 9110 §10.2.3) |
    /// | of a gRPC request | 200 "trailers-only": the kind's gRPC status is in the headers |
    ///
    /// If the body type does not implement `From<&'static str>`, convert it:
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
    /// # use hyper::body::Bytes;
    /// # use tower_user_session::rejection::Rejection;
    /// fn rejected(rejection: &Rejection) -> http::Response<BoxBody<Bytes, Infallible>> {
    ///     rejection.response::<Full<Bytes>>().map(|body| body.boxed())
    /// }
    /// ```
    pub fn response<B: From<&'static str>>(&self) -> Response<B> {
        let mut response = self.head().map(|()| B::from(self.body()));
        let content_type = self.content_type();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        response
    }

    /// Builds the default response with an empty body.
    pub fn empty_response<B: Default>(&self) -> Response<B> {
        self.head().map(|()| B::default())
    }

    fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Format::Grpc(content_type) = &self.format {
            let message = HeaderValue::from_static(format::line(self.kind));
            headers.insert(header::CONTENT_TYPE, content_type.clone());
            headers.insert("grpc-status", self.kind.grpc_code().into());
            headers.insert("grpc-message", message);
            return response;
        }
        if let Some(page) = &self.redirect {
            headers.insert(header::LOCATION, page.clone());
            *response.status_mut() = StatusCode::SEE_OTHER;
            return response;
        }
        let (name, value) = match self.kind {
            RejectionKind::Unauthenticated => (header::WWW_AUTHENTICATE, "Cookie"),
            RejectionKind::ReauthenticationRequired => (
                header::WWW_AUTHENTICATE,
                r#"Cookie error="insufficient_user_authentication""#,
            ),
            RejectionKind::Unavailable => (header::RETRY_AFTER, RETRY_AFTER),
            RejectionKind::Forbidden => {
                *response.status_mut() = self.status();
                return response;
            }
        };
        headers.insert(name, HeaderValue::from_static(value));
        *response.status_mut() = self.status();
        response
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

/// Builds a layer's response to a rejected request.
///
/// This trait is implemented for every `FnMut(&Rejection) -> Response<B> + Clone`.
///
/// The default is [`DefaultResponseForRejection`]. The default needs a body that implements
/// `From<&'static str>`, such as axum's `Body`, `Full<Bytes>` or `String`. For other bodies, use
/// [`EmptyResponseForRejection`]. It is also suitable for gRPC, because gRPC rejections have no
/// body.
#[diagnostic::on_unimplemented(
    message = "`{Self}` builds no response with the body `{B}`",
    note = "the default response to a rejection needs a body that implements `From<&'static str>`",
    note = "call `.rejection_response(EmptyResponseForRejection)` on the layer for a body that implements `Default`, as tonic's does"
)]
pub trait ResponseForRejection<B>: Clone {
    /// Builds the response. The layer then adds the rejection to the response's extensions.
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B>;
}

impl<F, B> ResponseForRejection<B> for F
where
    F: FnMut(&Rejection) -> Response<B> + Clone,
{
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B> {
        self(rejection)
    }
}

/// The default [`ResponseForRejection`]: [`Rejection::response`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DefaultResponseForRejection;

impl<B: From<&'static str>> ResponseForRejection<B> for DefaultResponseForRejection {
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B> {
        rejection.response()
    }
}

/// A [`ResponseForRejection`] with an empty body: [`Rejection::empty_response`]. Use it for tonic,
/// and for bodies that implement `Default` but not `From<&'static str>`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyResponseForRejection;

impl<B: Default> ResponseForRejection<B> for EmptyResponseForRejection {
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B> {
        rejection.empty_response()
    }
}

/// Logs that a request is rejected because it has no user of this type. A missing `LoadUserLayer`
/// has the same effect as an anonymous request.
pub(crate) fn log_no_user<U>() {
    tracing::debug!(
        target: "tower_user_session",
        event = "no_user",
        user_type = std::any::type_name::<U>(),
        "request rejected: no LoadUserLayer attached a user of this type"
    );
}

/// Builds the response and adds the rejection to the response's extensions.
pub(crate) fn reject<B>(
    responder: &mut impl ResponseForRejection<B>,
    rejection: Rejection,
) -> Response<B> {
    let mut response = responder.response_for_rejection(&rejection);
    response.extensions_mut().insert(rejection);
    response
}
