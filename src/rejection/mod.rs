//! How the layers refuse a request, over HTTP and over gRPC.

mod format;
mod kind;
pub(crate) mod navigation;

use std::fmt;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

pub use self::kind::RejectionKind;
use crate::{error::Error, rejection::format::Format};

/// When a client may try again, in seconds.
pub(crate) const RETRY_AFTER: &str = "2";

/// Why a layer answered a request itself. It stands in the extensions of every such response, also
/// of one that the application built, so that layers outside can tell it from a handler's own
/// answer.
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

    /// What kind of rejection it is.
    pub const fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// Why it could not be found out who is asking. For logs; the client learns nothing of it.
    pub const fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the request was gRPC's, which wants its own kind of answer.
    pub const fn is_grpc(&self) -> bool {
        matches!(self.format, Format::Grpc(_))
    }

    /// Where the browser is to go instead, for a page that a person opened.
    pub const fn redirect(&self) -> Option<&HeaderValue> {
        self.redirect.as_ref()
    }

    /// The status of the response, unless it is a redirect or gRPC's.
    pub const fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The media type of [`body`](Self::body): what the client prefers of HTML, JSON and plain text.
    pub fn content_type(&self) -> HeaderValue {
        self.format.content_type()
    }

    /// One line that tells a person what happened, as a page, as problem details (RFC 9457) or as plain text.
    /// Empty for gRPC, which has the line in the header `grpc-message`.
    pub const fn body(&self) -> &'static str {
        self.format.body(self.kind)
    }

    /// The response that the layers give unless the application says otherwise: the kind's status, `Cache-Control:
    /// no-store`, and [`body`](Self::body).
    ///
    /// With a [`redirect`](Self::redirect) it is a 303 to there. A 401 carries `WWW-Authenticate`
    /// (RFC 9110 §15.5.2 and §11.6.1; for a proof that is too old with the error code of RFC 9470
    /// §3), a 503 `Retry-After` (RFC 9110 §10.2.3). A gRPC request is answered with status
    /// 200 and a "trailers-only" response: the kind's gRPC status in the headers.
    ///
    /// For a body that is made of no text, convert it:
    ///
    /// ```
    /// # use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
    /// # use hyper::body::Bytes;
    /// # use tower_user_session::rejection::Rejection;
    /// fn refused(rejection: &Rejection) -> http::Response<BoxBody<Bytes, std::convert::Infallible>> {
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

    /// Like [`response`](Self::response), with an empty body.
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

/// Builds a layer's response to a request that it refuses.
///
/// Implemented for any `FnMut(&Rejection) -> Response<B> + Clone`. The default,
/// [`DefaultResponseForRejection`], is [`Rejection::response`] and needs a body that is made of a text: axum's,
/// `Full<Bytes>`, `String`. For others there is [`EmptyResponseForRejection`], which suits gRPC: its refusals have
/// no body.
#[diagnostic::on_unimplemented(
    message = "`{Self}` builds no response with the body `{B}`",
    note = "the default response to a rejection needs a body that implements `From<&'static str>`",
    note = "call `.rejection_response(EmptyResponseForRejection)` on the layer for a body that implements `Default`, as tonic's does"
)]
pub trait ResponseForRejection<B>: Clone {
    /// Builds the response. The layer adds the rejection to its extensions.
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

/// A [`ResponseForRejection`] without a body: [`Rejection::empty_response`]. For tonic and for bodies that no text
/// can be made into.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyResponseForRejection;

impl<B: Default> ResponseForRejection<B> for EmptyResponseForRejection {
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B> {
        rejection.empty_response()
    }
}

/// The one place in which a rejection becomes a response.
pub(crate) fn reject<B>(
    responder: &mut impl ResponseForRejection<B>,
    rejection: Rejection,
) -> Response<B> {
    let mut response = responder.response_for_rejection(&rejection);
    response.extensions_mut().insert(rejection);
    response
}
