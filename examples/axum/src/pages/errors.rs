//! The pages for requests that have failed.

use axum::{
    body::Body,
    http::{Response, StatusCode},
    response::IntoResponse,
};
use example_application::{AccountError, SIGNED_OUT_HERE, User};
use maud::html;
use tower_http::csrf::ProtectionError;
use tower_user_session::{
    CurrentUser, Error,
    rejection::{Rejection, RejectionKind},
};

use super::{Page, layout};

/// What happened, and what the user can do.
struct Message {
    status: StatusCode,
    title: &'static str,
    text: &'static str,
    action: (&'static str, &'static str),
}

const HOME: (&str, &str) = ("/", "Go to the start page");

const SIGN_IN_FIRST: Message = Message {
    status: StatusCode::UNAUTHORIZED,
    title: "Please sign in",
    text: "This page requires an account.",
    action: ("/sign-in", "Sign in"),
};

const CONFIRM_FIRST: Message = Message {
    status: StatusCode::UNAUTHORIZED,
    title: "Please confirm your password",
    text: "It was last entered too long ago for this page.",
    action: ("/confirm?next=/password", "Confirm"),
};

const FORBIDDEN: Message = Message {
    status: StatusCode::FORBIDDEN,
    title: "No access",
    text: "Your account is not allowed to open this page.",
    action: HOME,
};

const CROSS_SITE: Message = Message {
    status: StatusCode::FORBIDDEN,
    title: "Request blocked",
    text: "Another site sent this form. It had no effect on your account.",
    action: HOME,
};

const NOT_FOUND: Message = Message {
    status: StatusCode::NOT_FOUND,
    title: "Page not found",
    text: "The address is wrong, or the page has moved.",
    action: HOME,
};

const METHOD_NOT_ALLOWED: Message = Message {
    status: StatusCode::METHOD_NOT_ALLOWED,
    title: "Not possible",
    text: "This address does not support the method of the request.",
    action: HOME,
};

const UNAVAILABLE: Message = Message {
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "Back in a moment",
    text: "We cannot look up your session at the moment. Please try again.",
    // The same address.
    action: ("", "Try again"),
};

/// The response of `LoadUserLayer` and `RequireUserLayer` to a rejected request: its own headers,
/// with a page for a browser.
pub(crate) fn rejected(rejection: &Rejection) -> Response<Body> {
    let message = match rejection.kind() {
        RejectionKind::Unauthenticated => SIGN_IN_FIRST,
        RejectionKind::ReauthenticationRequired => CONFIRM_FIRST,
        RejectionKind::Forbidden => FORBIDDEN,
        RejectionKind::Unavailable => UNAVAILABLE,
    };
    with_head_of(&rejection.empty_response(), message.page(None))
}

/// The response to a request whose handler failed. The library logs the error, and selects the
/// status and the headers.
pub(crate) fn failed(error: Error) -> Response<Body> {
    with_head_of(&error.into_response(), UNAVAILABLE.page(None))
}

/// The response to a request that needs more of the database than the session.
pub(crate) fn unavailable(error: &AccountError) -> Response<Body> {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the audit trail cannot be read"
    );
    UNAVAILABLE.response(None)
}

/// The response of `CsrfLayer` to a rejected request.
pub(crate) fn cross_site(_: ProtectionError) -> Response<Body> {
    CROSS_SITE.response(None)
}

pub(crate) async fn not_found(user: Option<CurrentUser<User>>) -> Response<Body> {
    NOT_FOUND.response(user.as_deref())
}

pub(crate) async fn method_not_allowed(user: Option<CurrentUser<User>>) -> Response<Body> {
    METHOD_NOT_ALLOWED.response(user.as_deref())
}

/// The response to a sign-out that failed.
pub(crate) fn signed_out_here() -> Page {
    layout::message(
        None,
        "Signed out here",
        &html! {
            h1 { "Signed out here" }
            p { (SIGNED_OUT_HERE) }
            // The browser has no cookie any more, so the home page needs no database.
            div.actions { a.button href="/" { "Go to the start page" } }
        },
    )
}

impl Message {
    fn response(&self, user: Option<&User>) -> Response<Body> {
        (self.status, self.page(user)).into_response()
    }

    fn page(&self, user: Option<&User>) -> Page {
        let (href, button) = self.action;
        let content = html! {
            p.status { "Error " (self.status.as_u16()) }
            h1 { (self.title) }
            p { (self.text) }
            div.actions { a.button href=(href) { (button) } }
        };
        layout::message(user, self.title, &content)
    }
}

fn with_head_of(response: &Response<Body>, page: Page) -> Response<Body> {
    let mut page = page.into_response();
    *page.status_mut() = response.status();
    page.headers_mut().extend(response.headers().clone());
    page
}
