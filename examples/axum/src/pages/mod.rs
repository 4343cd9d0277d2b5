//! The pages. `maud` escapes every value in them.

mod devices;
mod forms;

pub(crate) use self::{
    devices::{devices, names},
    forms::{SIGN_IN, SIGN_UP, password, reauthenticate, refused, sign_in_or_up, unsent},
};

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, Response, StatusCode, header},
    response::IntoResponse,
};
use example_application::{SIGNED_OUT_HERE, User};
use maud::{DOCTYPE, Markup, html};
use tower_http::csrf::ProtectionError;
use tower_user_session::{
    CurrentSession,
    rejection::{Rejection, RejectionKind},
};

/// A page with `Cache-Control: no-store`, so that neither a cache nor the Back button shows it to
/// the next user of the browser.
pub(crate) type Page = ([(HeaderName, &'static str); 1], Markup);

pub(crate) fn home(user: Option<&User>) -> Page {
    let page = if user.is_some() { live_page } else { page };
    page(
        "Who is making this request?",
        &html! {
            h1 { "Who is making this request?" }
            @if let Some(user) = user {
                p.answer { (user.email) }
                p { "The session cookie became this user with one joined PostgreSQL query." }
                div.actions {
                    a.button href="/account" { "Your account" }
                    (sign_out_button())
                }
            } @else {
                p.answer { "Not signed in." }
                p { "A request without a session cookie does not query the database." }
                div.actions {
                    a.button href="/sign-in" { "Sign in" }
                    a.button.quiet href="/sign-up" { "Sign up" }
                }
            }
        },
    )
}

pub(crate) fn account(user: &User, session: CurrentSession<User>) -> Page {
    live_page(
        "Your account",
        &html! {
            h1 { "Your account" }
            dl {
                dt { "Email" }       dd { (user.email) }
                dt { "Session" }     dd { code { (session.id()) } }
                dt { "Signed in" }   dd { (in_words(session.since_authentication())) " ago" }
                dt { "Ends" }        dd { "in " (in_words(session.remaining())) }
            }
            div.actions {
                a.button href="/devices" { "Your devices" }
                a.button.quiet href="/password" { "Change password" }
                (sign_out_button())
            }
        },
    )
}

/// The response of `RequireUserLayer` to a rejected request: its own headers, with a page for a
/// browser.
pub(crate) fn sign_in_first(rejection: &Rejection) -> Response<Body> {
    let (title, text, href, button) = if rejection.kind() == RejectionKind::ReauthenticationRequired
    {
        let text = "Please enter your password again to continue.";
        (
            "Please confirm your password",
            text,
            "/confirm?next=/password",
            "Reauthenticate",
        )
    } else {
        (
            "Please sign in",
            "This page requires an account.",
            "/sign-in",
            "Sign in",
        )
    };
    refusal(
        rejection,
        title,
        &html! {
            h1 { (title) }
            p { (text) }
            div.actions { a.button href=(href) { (button) } }
        },
    )
}

/// The response of `LoadUserLayer` if the lookup fails.
pub(crate) fn unavailable(rejection: &Rejection) -> Response<Body> {
    refusal(
        rejection,
        "Back in a moment",
        &html! {
            h1 { "Back in a moment" }
            p { "The session lookup failed. Please try again." }
            div.actions { a.button href="/" { "Try again" } }
        },
    )
}

/// The answer to a sign-out that failed.
pub(crate) fn signed_out_here() -> Page {
    page(
        "Signed out here",
        &html! {
            h1 { "Signed out here" }
            p { (SIGNED_OUT_HERE) }
            div.actions {
                (sign_out_button())
                a.button.quiet href="/" { "Home" }
            }
        },
    )
}

fn refusal(rejection: &Rejection, title: &str, content: &Markup) -> Response<Body> {
    let mut page = page(title, content).into_response();
    let response = rejection.empty_response::<Body>();
    *page.status_mut() = response.status();
    page.headers_mut().extend(response.headers().clone());
    page
}

/// The response of `CsrfLayer` to a rejected request.
pub(crate) fn cross_site(_: ProtectionError) -> Response<Body> {
    let page = page(
        "Rejected",
        &html! {
            h1 { "Rejected" }
            p { "Another site sent this form. It had no effect." }
        },
    );
    (StatusCode::FORBIDDEN, page).into_response()
}

pub(crate) async fn not_found() -> (StatusCode, Page) {
    let page = page(
        "Not found",
        &html! {
            h1 { "Not found" }
            div.actions { a.button href="/" { "Home" } }
        },
    );
    (StatusCode::NOT_FOUND, page)
}

fn sign_out_button() -> Markup {
    // A form and not a link, because only a POST may change state.
    html! { form method="post" action="/sign-out" { button.button.quiet { "Sign out" } } }
}

fn page(title: &str, content: &Markup) -> Page {
    document(title, content, false)
}

/// A page that shows when the session has ended.
fn live_page(title: &str, content: &Markup) -> Page {
    document(title, content, true)
}

fn document(title: &str, content: &Markup, live: bool) -> Page {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="/style.css";
                @if live { script src="/events.js" defer {} }
            }
            body {
                main { (content) }
                footer { "tower-user-session on axum" }
                @if live {
                    // The script puts this into `main` and adds the reason.
                    template #signed-out {
                        h1 { "Signed out" }
                        p.problem role="alert" {}
                        a.button href="/sign-in" { "Sign in" }
                    }
                }
            }
        }
    };
    ([(header::CACHE_CONTROL, "no-store")], page)
}

/// Formats a duration in the largest unit that fits, rounded.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let (length, unit) = match seconds {
        0..60 => (1, "second"),
        60..3_600 => (60, "minute"),
        3_600..86_400 => (3_600, "hour"),
        _ => (86_400, "day"),
    };
    let number = (seconds + length / 2) / length;
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}
