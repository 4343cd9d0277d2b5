//! The requirements of a route, and the redirects of browsers.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Uri, header, request::Parts};

use crate::{
    load_user::OriginalPlace,
    rejection::{self, Rejection, RejectionKind, navigation::Navigation},
    require_user::return_to::ReturnTo,
    session::CurrentSession,
    websocket::is_page_of_host,
};

/// The requirements and pages of one layer.
pub(super) struct Guard<U> {
    pub(super) condition: Option<Arc<Condition<U>>>,
    pub(super) proof: Option<Duration>,
    pub(super) sign_in_page: Option<Page>,
    pub(super) reauthentication_page: Option<Page>,
    pub(super) forbidden_page: Option<Page>,
}

pub(super) type Condition<U> = dyn Fn(&U, &Parts) -> bool + Send + Sync;
pub(super) type Page = Cow<'static, str>;

impl<U> Guard<U> {
    pub(super) const fn new() -> Self {
        Self {
            condition: None,
            proof: None,
            sign_in_page: None,
            reauthentication_page: None,
            forbidden_page: None,
        }
    }
}

impl<U: Send + Sync + 'static> Guard<U> {
    /// Returns the rejection of this request, or `None` if it passes.
    pub(super) fn refusal(&self, head: &Parts) -> Option<Rejection> {
        let (kind, page) = self.reason(head)?;
        let page = page.and_then(|page| redirect(page, head));
        Some(Rejection::new(kind, &head.headers).redirecting_to(page))
    }

    fn reason(&self, head: &Parts) -> Option<(RejectionKind, Option<&Page>)> {
        let Some(user) = head.extensions.get::<U>() else {
            rejection::log_no_user::<U>();
            return Some((RejectionKind::Unauthenticated, self.sign_in_page.as_ref()));
        };
        if self
            .condition
            .as_ref()
            .is_some_and(|allowed| !allowed(user, head))
        {
            return Some((RejectionKind::Forbidden, self.forbidden_page.as_ref()));
        }
        let session = head.extensions.get::<CurrentSession<U>>();
        let proven = self
            .proof
            .is_none_or(|age| session.is_some_and(|session| session.since_authentication() <= age));
        (!proven).then_some((
            RejectionKind::ReauthenticationRequired,
            self.reauthentication_page.as_ref(),
        ))
    }
}

impl<U> Clone for Guard<U> {
    fn clone(&self) -> Self {
        Self {
            condition: self.condition.clone(),
            proof: self.proof,
            sign_in_page: self.sign_in_page.clone(),
            reauthentication_page: self.reauthentication_page.clone(),
            forbidden_page: self.forbidden_page.clone(),
        }
    }
}

/// Returns the target of a navigation's redirect, or `None` for other requests.
fn redirect(page: &str, head: &Parts) -> Option<HeaderValue> {
    let page = match Navigation::of(&head.method, &head.headers)? {
        Navigation::Page => {
            let place = match head.extensions.get::<OriginalPlace>() {
                Some(original) => ReturnTo::parse(&original.place()),
                None => ReturnTo::from_uri(&head.uri),
            };
            let place = place.filter(|_| head.method == Method::GET);
            place.map_or_else(|| page.to_owned(), |place| place.appended_to(page))
        }
        Navigation::Form => {
            let page = appended(page, UNSENT_FORM);
            let place = referring_page(head);
            place.map_or_else(|| page.clone(), |place| place.appended_to(&page))
        }
    };
    HeaderValue::try_from(page).ok()
}

/// The parameter that reports an unsent form to the page of the redirect.
const UNSENT_FORM: &str = "unsent=form";

fn appended(page: &str, parameter: &str) -> String {
    let separator = if page.contains('?') { '&' } else { '?' };
    format!("{page}{separator}{parameter}")
}

/// Returns the page that a request comes from, if that page is on this host.
fn referring_page(head: &Parts) -> Option<ReturnTo> {
    let mut referers = head.headers.get_all(header::REFERER).iter();
    let (referer, None) = (referers.next()?, referers.next()) else {
        return None;
    };
    let referer = Uri::try_from(referer.as_bytes()).ok()?;
    is_page_of_host(&referer, &head.headers, &head.uri)
        .then(|| ReturnTo::from_uri(&referer))
        .flatten()
}
