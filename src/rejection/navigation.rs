//! Detection of a browser's navigation.

use http::{HeaderMap, HeaderName, Method};

use crate::rejection::format::accepts_html;

/// A navigation of a browser: a request whose response becomes the displayed page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Navigation {
    /// `GET` or `HEAD` of a page.
    Page,
    /// `POST` of a form.
    Form,
}

// The names are statics. Each name is therefore parsed only once. `LoadUser` reads the first header
// in most requests.
static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

impl Navigation {
    /// Detects a navigation by Fetch Metadata (`Sec-Fetch-Mode` and `Sec-Fetch-Dest`).
    ///
    /// Browsers do not send these headers over plain http. Without `Sec-Fetch-Mode`, a request that
    /// accepts `text/html` by name is a navigation.
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
