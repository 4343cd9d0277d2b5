//! Whether a request opens a page in a browser.

use http::{HeaderMap, HeaderName, Method};

use crate::rejection::format::accepts_html;

/// What a person does in a browser whose answer becomes the page that they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Navigation {
    /// They open a page.
    Page,
    /// They send a form.
    Form,
}

// Parsed once: `LoadUser` looks for the first in most requests.
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

impl Navigation {
    /// A browser says so (Fetch Metadata, `Sec-Fetch-Mode` and `Sec-Fetch-Dest`), except over plain http, where
    /// a script's request is told by what it accepts.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let kind = match *method {
            Method::GET | Method::HEAD => Self::Page,
            Method::POST => Self::Form,
            _ => return None,
        };
        let navigates = match headers.get(&SEC_FETCH_MODE) {
            Some(mode) => {
                let whole = || {
                    let destination = headers.get(&SEC_FETCH_DEST);
                    destination.is_some_and(|destination| destination == "document")
                };
                mode == "navigate" && (kind == Self::Page || whole())
            }
            None => accepts_html(headers),
        };
        navigates.then_some(kind)
    }
}
