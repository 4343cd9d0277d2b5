//! The URI of a page as the browser sees it, before routers and proxies rewrite it.

use std::{borrow::Cow, sync::Arc};

use http::{Method, Request, uri::PathAndQuery};

use crate::rejection::navigation::Navigation;

/// The path of a page that a browser opened, before an inner router removed a prefix.
#[derive(Clone)]
pub(crate) struct OriginalPlace {
    place: PathAndQuery,
    /// The prefix that a proxy removed.
    stripped: Option<Arc<str>>,
}

impl OriginalPlace {
    /// Records the path of a page that a browser opens, unless an outer layer has recorded it. For
    /// other requests it does nothing, because a sign-in page does not lead back to them.
    pub(super) fn record<B>(request: &mut Request<B>, stripped: Option<&Arc<str>>) {
        if request.method() != Method::GET
            || Navigation::of(request.method(), request.headers()).is_none()
            || request.extensions().get::<Self>().is_some()
        {
            return;
        }
        if let Some(place) = request.uri().path_and_query().cloned() {
            let stripped = stripped.cloned();
            request.extensions_mut().insert(Self { place, stripped });
        }
    }

    /// Returns the path as the browser sees it. A redirect to this path may be unsafe.
    pub(crate) fn place(&self) -> Cow<'_, str> {
        let place = self.place.as_str();
        match &self.stripped {
            None => Cow::Borrowed(place),
            Some(prefix) => Cow::Owned(format!("{}{place}", prefix.trim_end_matches('/'))),
        }
    }
}
