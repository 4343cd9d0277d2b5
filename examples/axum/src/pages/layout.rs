//! What the pages have in common: the head, the header, the navigation and the footer.

use axum::http::{HeaderName, header};
use example_application::User;
use maud::{DOCTYPE, Markup, html};

use super::icons::{self, Icon};

/// The name of the product.
pub(crate) const PRODUCT: &str = "Gatehouse";

/// A page with `Cache-Control: no-store`, so that neither a cache nor the Back button shows it to
/// the next user of the browser.
pub(crate) type Page = ([(HeaderName, &'static str); 1], Markup);

/// The part of the navigation that a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Account,
    Sessions,
}

const SECTIONS: [(Section, &str, &str, Icon); 3] = [
    (Section::Overview, "/", "Overview", Icon::Home),
    (Section::Account, "/account", "Account", Icon::Person),
    (Section::Sessions, "/sessions", "Sessions", Icon::Devices),
];

/// A single card in the middle, for a form or a message to a visitor.
pub(super) fn page(title: &str, content: &Markup) -> Page {
    let body = html! {
        (header(&html! {}))
        main { (content) }
    };
    document(title, "card", &body)
}

/// The page that introduces the product.
pub(super) fn landing(title: &str, content: &Markup) -> Page {
    let links = html! {
        nav.who aria-label="Account" {
            a.link href="/sign-in" { "Sign in" }
            a.button.small href="/sign-up" { "Sign up" }
        }
    };
    let body = html! {
        (header(&links))
        main { (content) }
    };
    document(title, "landing", &body)
}

/// A page of a signed-in user. Its script shows when the session has ended.
pub(super) fn member_page(user: &User, section: Section, title: &str, content: &Markup) -> Page {
    let live = html! {
        // The script puts this into `main` and adds the reason.
        template #signed-out {
            h1 { "Signed out" }
            p.notice role="status" {}
            a.button.wide href="/sign-in" { "Sign in" }
        }
        script src="/events.js" {}
    };
    document(
        title,
        "app",
        &html! { (shell(user, Some(section), content)) (live) },
    )
}

/// A form of a signed-in user. It keeps its input when the session has ended, and is explained when
/// it is sent.
pub(super) fn member_form(user: &User, title: &str, content: &Markup) -> Page {
    document(title, "app", &shell(user, Some(Section::Account), content))
}

/// A message for a visitor, or for a signed-in user.
pub(super) fn message(user: Option<&User>, title: &str, content: &Markup) -> Page {
    match user {
        Some(user) => document(title, "app", &shell(user, None, content)),
        None => page(title, content),
    }
}

/// The navigation above or beside the content.
fn shell(user: &User, section: Option<Section>, content: &Markup) -> Markup {
    html! {
        (header(&who(user)))
        div.shell {
            // The script removes the parts with `data-account` when the session has ended.
            nav.side data-account aria-label="Main" {
                @for (this, href, name, icon) in SECTIONS {
                    a href=(href) aria-current=[(section == Some(this)).then_some("page")] {
                        (icons::icon(icon)) (name)
                    }
                }
            }
            main { (content) }
        }
    }
}

/// The name of the user, and a button to sign out.
fn who(user: &User) -> Markup {
    let initial = user.email.chars().next().unwrap_or('?').to_uppercase();
    html! {
        div.who data-account {
            a.me href="/account" title=(user.email) {
                span.avatar aria-hidden="true" { (initial) }
                span.email { (user.email) }
            }
            // A form and not a link, because only a POST may change state.
            form method="post" action="/sign-out" {
                button.button.quiet.small title="Sign out" {
                    (icons::icon(Icon::Leave)) span.wide-only { "Sign out" }
                }
            }
        }
    }
}

fn header(right: &Markup) -> Markup {
    html! {
        header.top {
            div.bar {
                a.brand href="/" { (icons::mark()) (PRODUCT) }
                (right)
            }
        }
    }
}

fn document(title: &str, layout: &str, body: &Markup) -> Page {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (PRODUCT) }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
            }
            body class=(layout) {
                (body)
                footer { (PRODUCT) " is an example of tower-user-session on axum." }
            }
        }
    };
    ([(header::CACHE_CONTROL, "no-store")], page)
}
