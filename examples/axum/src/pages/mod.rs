//! The pages. `maud` escapes whatever is put into them.

mod devices;
mod forms;

pub(crate) use self::{
    devices::{devices, names},
    forms::{SIGN_IN, SIGN_UP, confirm, password, refused, sign_in_or_up, unsent},
};

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, Response, StatusCode, header},
    response::IntoResponse,
};
use example_application::User;
use maud::{DOCTYPE, Markup, html};
use tower_http::csrf::ProtectionError;
use tower_user_session::{CurrentSession, Rejection, RejectionKind};

/// No cache and no Back button shows a page to whoever comes after.
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
                p.answer { "Nobody we know." }
                p { "Where a request has no session cookie, the database is not asked." }
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
                dt { "E-mail" }      dd { (user.email) }
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

/// The answer of `RequireUserLayer`: its own, with a page for people.
pub(crate) fn sign_in_first(rejection: &Rejection) -> Response<Body> {
    let (title, text, href, button) = if rejection.kind() == RejectionKind::ProofTooOld {
        let text = "For this we need to be sure that it is still you.";
        (
            "Please confirm your password",
            text,
            "/confirm?next=/password",
            "Confirm",
        )
    } else {
        (
            "Please sign in",
            "This page is for people with an account.",
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

/// The answer of `LoadUserLayer` when it could not find out who is asking.
pub(crate) fn unavailable(rejection: &Rejection) -> Response<Body> {
    refusal(
        rejection,
        "Back in a moment",
        &html! {
            h1 { "Back in a moment" }
            p { "We cannot find out who you are right now. Please try again." }
            div.actions { a.button href="/" { "Try again" } }
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

/// The answer of `CsrfLayer`.
pub(crate) fn cross_site(_: ProtectionError) -> Response<Body> {
    let page = page(
        "Refused",
        &html! {
            h1 { "Refused" }
            p { "Another site sent this form. Nothing was done." }
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
    // A form, not a link: what changes something is a POST.
    html! { form method="post" action="/sign-out" { button.button.quiet { "Sign out" } } }
}

fn page(title: &str, content: &Markup) -> Page {
    document(title, content, false)
}

/// A page that says so when the session is over.
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
                    // What stands in `main` then; the script fills in why.
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

/// In the largest unit that fits, rounded.
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
