//! What a route demands.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, header};

use super::ReturnTo;
use crate::{CurrentSession, Rejection, RejectionKind};

/// The demands of one layer.
pub(super) struct Guard<U> {
    pub(super) condition: Option<Arc<Condition<U>>>,
    pub(super) proof: Option<Duration>,
    pub(super) sign_in_page: Option<&'static str>,
    pub(super) confirm_page: Option<&'static str>,
}

pub(super) type Condition<U> = dyn Fn(&U) -> bool + Send + Sync;

impl<U> Guard<U> {
    pub(super) const fn new() -> Self {
        Self {
            condition: None,
            proof: None,
            sign_in_page: None,
            confirm_page: None,
        }
    }
}

impl<U: Send + Sync + 'static> Guard<U> {
    /// Why this request is refused, if it is.
    pub(super) fn refusal<B>(&self, request: &Request<B>) -> Option<Rejection> {
        let (kind, page) = self.reason(request)?;
        let page = page.filter(|_| is_navigation(request)).and_then(|page| {
            let place =
                ReturnTo::from_uri(request.uri()).filter(|_| request.method() == Method::GET);
            let page = place.map_or_else(|| page.to_owned(), |place| place.appended_to(page));
            HeaderValue::try_from(page).ok()
        });
        Some(Rejection::new(kind, request.headers()).redirecting_to(page))
    }

    fn reason<B>(&self, request: &Request<B>) -> Option<(RejectionKind, Option<&'static str>)> {
        let Some(user) = request.extensions().get::<U>() else {
            return Some((RejectionKind::Unauthenticated, self.sign_in_page));
        };
        if self
            .condition
            .as_ref()
            .is_some_and(|allowed| !allowed(user))
        {
            return Some((RejectionKind::Forbidden, None));
        }
        let session = request.extensions().get::<CurrentSession<U>>();
        let proven = self
            .proof
            .is_none_or(|age| session.is_some_and(|session| session.since_authentication() <= age));
        (!proven).then_some((RejectionKind::ProofTooOld, self.confirm_page))
    }
}

impl<U> Clone for Guard<U> {
    fn clone(&self) -> Self {
        Self {
            condition: self.condition.clone(),
            ..*self
        }
    }
}

/// Whether a person opened this page in a browser. A browser says so (Fetch Metadata,
/// `Sec-Fetch-Mode`), except over plain http, where a script's request is told by what it accepts.
fn is_navigation<B>(request: &Request<B>) -> bool {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    match request.headers().get("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => request
            .headers()
            .get_all(header::ACCEPT)
            .iter()
            .any(|accepted| {
                accepted
                    .as_bytes()
                    .windows(9)
                    .any(|part| part.eq_ignore_ascii_case(b"text/html"))
            }),
    }
}
