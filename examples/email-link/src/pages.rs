//! The pages. `maud` escapes every value in them.

use axum::http::{HeaderName, header};
use maud::{DOCTYPE, Markup, html};

/// A page that is in no cache. Its address can contain a token, so the browser sends it to no other
/// site.
pub(crate) type Page = ([(HeaderName, &'static str); 2], Markup);

pub(crate) fn form(wrong: Option<&str>) -> Page {
    page(
        "Sign in",
        &html! {
            p.lead { "We send you a link. You need no password." }
            @if wrong.is_some() {
                p.notice.bad role="alert" { "This is not an email address." }
            }
            form method="post" action="/links" {
                label for="email" { "Email" }
                input #email name="email" type="email" value=[wrong] autocomplete="email" required
                    autofocus;
                button.button.wide { "Send the link" }
            }
        },
    )
}

pub(crate) fn sent(email: &str) -> Page {
    page(
        "Check your mail",
        &html! {
            p.lead { "We have sent a link to " strong.email { (email) } "." }
            p.notice role="status" {
                "It works once, and for 15 minutes. "
                "In this example, it is in the log of the server."
            }
        },
    )
}

pub(crate) fn confirm(token: &str) -> Page {
    page(
        "Sign in",
        &html! {
            p.lead { "One more step." }
            form method="post" action="/link" {
                input type="hidden" name="token" value=(token);
                button.button.wide autofocus { "Sign in" }
            }
        },
    )
}

pub(crate) fn gone() -> Page {
    page(
        "This link does not work",
        &html! {
            p.lead { "It has expired, or it was used before." }
            a.button.wide href="/" { "Request a new link" }
        },
    )
}

pub(crate) fn signed_in(email: &str) -> Page {
    page(
        "Welcome",
        &html! {
            p.lead { "You are signed in as " strong.email { (email) } "." }
            form method="post" action="/sign-out" { button.button.quiet.wide { "Sign out" } }
        },
    )
}

fn page(title: &str, content: &Markup) -> Page {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
    ];
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body.card { main { h1 { (title) } (content) } }
        }
    };
    (headers, page)
}
