//! Cache headers of responses: `Vary` and `Cache-Control`.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::cookie::vary::{VARY_AUTHORIZATION, VARY_COOKIE, vary_by};

/// The responses to which the layer adds cache headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheHeaders {
    /// All responses vary with the credentials, and the responses to signed-in users are private.
    All,
    /// Only the responses to signed-in users vary with the credentials. They are also private.
    SignedIn,
    None,
}

/// The cache headers that one response needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    vary: bool,
    private: bool,
    /// Whether the response also varies with `Authorization`.
    bearer: bool,
}

impl Marks {
    pub(super) const NONE: Self = Self {
        vary: false,
        private: false,
        bearer: false,
    };

    pub(super) const fn of(settings: CacheHeaders, signed_in: bool, bearer: bool) -> Self {
        let vary = match settings {
            CacheHeaders::All => true,
            CacheHeaders::SignedIn => signed_in,
            CacheHeaders::None => false,
        };
        Self {
            vary,
            private: vary && signed_in,
            bearer,
        }
    }

    /// Adds the headers to the response.
    ///
    /// Upgrades and gRPC responses are not changed, because no cache stores them. A gRPC response
    /// is a response to a `POST`.
    pub(super) fn write<B>(self, response: &mut Response<B>) {
        if !self.vary
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
            || is_grpc(response.headers())
        {
            return;
        }
        let headers = response.headers_mut();
        if self.private && !headers.contains_key(header::CACHE_CONTROL) {
            // This fails if the map is full, at 32,768 fields.
            let private = HeaderValue::from_static("private");
            let _ = headers.try_insert(header::CACHE_CONTROL, private);
        }
        vary_by(headers, &VARY_COOKIE);
        if self.bearer {
            vary_by(headers, &VARY_AUTHORIZATION);
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
