//! The first page, for a visitor and for a signed-in user.

use example_application::User;
use maud::{Markup, html};
use tower_user_session::CurrentSession;

use super::{
    Page,
    icons::{self, Icon},
    layout::{self, PRODUCT, Section, member_page},
    times::{ago, until},
};
use crate::agent;

pub(crate) fn landing() -> Page {
    layout::landing(
        "One account, every device",
        &html! {
            section.hero {
                div {
                    h1 { "One account, every device." }
                    p.lead {
                        "Sign in where you like. " (PRODUCT) " shows every session of your "
                        "account. End the ones that you do not recognize, at once."
                    }
                    div.actions {
                        a.button href="/sign-up" { "Create an account" }
                        a.button.quiet href="/sign-in" { "Sign in" }
                    }
                }
                (picture())
            }
            ul.features {
                (feature(Icon::Devices, "See every session", "Browser, address and last use."))
                (feature(Icon::Shield, "End any of them", "The other browser is signed out at once."))
                (feature(Icon::Clock, "Open pages notice", "Another window shows at once that it is signed out."))
            }
        },
    )
}

/// A list of sessions as a picture.
fn picture() -> Markup {
    let rows = [
        (Icon::Computer, "Chrome on Linux", "Active now", true),
        (
            Icon::Phone,
            "Safari on iPhone",
            "Last active 2 hours ago",
            false,
        ),
        (
            Icon::Tablet,
            "Firefox on Android",
            "Last active 3 days ago",
            false,
        ),
    ];
    html! {
        ul.sessions.picture aria-hidden="true" {
            @for (icon, name, hint, here) in rows {
                li.session.here[here] {
                    span.badge-icon { (icons::icon(icon)) }
                    div.session-text {
                        h2 { (name) @if here { " " span.badge { "This session" } } }
                        p { (hint) }
                    }
                }
            }
        }
    }
}

fn feature(icon: Icon, title: &str, text: &str) -> Markup {
    html! {
        li { span.badge-icon { (icons::icon(icon)) } h2 { (title) } p { (text) } }
    }
}

pub(crate) fn overview(
    user: &User,
    session: CurrentSession<User>,
    user_agent: Option<&str>,
) -> Page {
    let times = session.times();
    let (name, device) = agent::describe(user_agent);
    member_page(
        user,
        Section::Overview,
        "Overview",
        &html! {
            h1 { "Welcome" }
            p.lead { "You are signed in as " strong.email { (user.email) } "." }
            div.cards {
                section.panel {
                    h2 { (icons::icon(device.into())) "This session" }
                    dl {
                        dt { "Client" }    dd { (name) }
                        dt { "Signed in" } dd { (ago(times.created_at, times.now)) }
                        dt { "Expires" }   dd { (until(times.expires_at, times.now)) }
                    }
                    a href="/sessions" { "See all sessions" }
                }
                section.panel {
                    h2 { (icons::icon(Icon::Shield)) "How this page knows you" }
                    p {
                        "The cookie of this request contains a random token. One joined "
                        "PostgreSQL query turned it into your account. The database stores only "
                        "a hash of the token."
                    }
                    a href="/api/me" { "See the same as JSON" }
                }
            }
        },
    )
}
