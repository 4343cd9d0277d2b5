//! How the layers refuse a request, over HTTP and over gRPC.

use std::fmt;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::Error;

/// Why a layer answered a request itself. It stands in the extensions of every such response, also
/// of one that the application built, so that layers outside can tell it from a handler's own
/// answer.
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    grpc: Option<HeaderValue>,
    redirect: Option<HeaderValue>,
    error: Option<Error>,
}

/// The kinds of [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionKind {
    /// The route asks for a user and there is none: 401, gRPC status 16.
    Unauthenticated,
    /// It could not be found out whether there is one: 503, gRPC status 14.
    Unavailable,
    /// The user is not allowed to do this: 403, gRPC status 7.
    Forbidden,
    /// The person must prove again who they are: 401, gRPC status 16.
    ProofTooOld,
}

impl Rejection {
    pub(crate) fn new(kind: RejectionKind, request: &HeaderMap) -> Self {
        Self {
            kind,
            grpc: grpc(request),
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
        self.grpc.is_some()
    }

    /// Where the browser is to go instead, for a page that a person opened.
    pub const fn redirect(&self) -> Option<&HeaderValue> {
        self.redirect.as_ref()
    }

    /// The response that the layers give unless the application says otherwise: an empty body with
    /// the kind's status and `Cache-Control: no-store`.
    ///
    /// With a [`redirect`](Self::redirect) it is a 303 to there. A 401 carries `WWW-Authenticate`
    /// (RFC 9110 §15.5.2 and §11.6.1; for a proof that is too old with the error code of RFC 9470
    /// §3). A gRPC request is answered with status
    /// 200 and a "trailers-only" response: the kind's gRPC status in the headers.
    pub fn response<B: Default>(&self) -> Response<B> {
        let (status, grpc_status) = match self.kind {
            RejectionKind::Unauthenticated | RejectionKind::ProofTooOld => {
                (StatusCode::UNAUTHORIZED, "16")
            }
            RejectionKind::Forbidden => (StatusCode::FORBIDDEN, "7"),
            RejectionKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "14"),
        };
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(content_type) = &self.grpc {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
            headers.insert("grpc-status", HeaderValue::from_static(grpc_status));
            return response;
        }
        if let Some(page) = &self.redirect {
            headers.insert(header::LOCATION, page.clone());
            *response.status_mut() = StatusCode::SEE_OTHER;
            return response;
        }
        let challenge = match self.kind {
            RejectionKind::Unauthenticated => Some("Cookie"),
            RejectionKind::ProofTooOld => {
                Some(r#"Cookie error="insufficient_user_authentication""#)
            }
            RejectionKind::Unavailable | RejectionKind::Forbidden => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        *response.status_mut() = status;
        response
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RejectionKind::Unauthenticated => "nobody is signed in",
            RejectionKind::Forbidden => "the user is not allowed to do this",
            RejectionKind::ProofTooOld => "the person must prove again who they are",
            RejectionKind::Unavailable => "it could not be found out who is signed in",
        })
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

/// Builds a layer's response to a request that it refuses.
///
/// Implemented for any `FnMut(&Rejection) -> Response<B> + Clone`. The default is
/// [`Rejection::response`].
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

/// The default [`ResponseForRejection`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct DefaultResponseForRejection;

impl<B: Default> ResponseForRejection<B> for DefaultResponseForRejection {
    fn response_for_rejection(&mut self, rejection: &Rejection) -> Response<B> {
        rejection.response()
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

/// The content type of the answer, where the request is gRPC's or gRPC-Web's.
fn grpc(request: &HeaderMap) -> Option<HeaderValue> {
    let content_type = request.get(header::CONTENT_TYPE)?;
    match content_type.as_bytes().strip_prefix(b"application/grpc")? {
        [] | [b'+' | b';', ..] => Some(HeaderValue::from_static("application/grpc")),
        rest if rest.starts_with(b"-web") => Some(content_type.clone()),
        _ => None,
    }
}
