//! The URI of a page as the browser sees it, beneath routers and proxies that rewrite it.

use std::{borrow::Cow, sync::Arc};

use http::{Method, Request, uri::PathAndQuery};

use crate::rejection::navigation::Navigation;

/// What a browser opened, before an inner router removed a prefix of the path.
#[derive(Clone)]
pub(crate) struct OriginalPlace {
    place: PathAndQuery,
    /// What a proxy in front removed.
    stripped: Option<Arc<str>>,
}

impl OriginalPlace {
    /// Records the URI of a page that is being opened, unless a layer further outside has done so. Other requests
    /// are never returned to, and carry nothing.
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

    /// The place as the browser sees it. It may not be safe to return to.
    pub(crate) fn place(&self) -> Cow<'_, str> {
        let place = self.place.as_str();
        match &self.stripped {
            None => Cow::Borrowed(place),
            Some(prefix) => Cow::Owned(format!("{}{place}", prefix.trim_end_matches('/'))),
        }
    }
}
