//! The page of the account: what the user can do with it.

use example_application::User;
use maud::{Markup, html};
use tower_user_session::CurrentSession;

use super::{
    Page,
    icons::{self, Icon},
    layout::{Section, member_page},
    times::{ago, until},
};

pub(crate) fn account(user: &User, session: CurrentSession<User>) -> Page {
    let times = session.times();
    let password = html! {
        "Last entered " (ago(times.authenticated_at, times.now)) ". "
        "A change ends all other sessions."
    };
    let sessions = html! { "See where you are signed in, and end what you do not recognize." };
    let remaining = html! {
        "This session ends " (until(times.expires_at, times.now)) " at the latest."
    };
    member_page(
        user,
        Section::Account,
        "Account",
        &html! {
            h1 { "Account" }
            ul.rows {
                li.row {
                    span.badge-icon { (icons::icon(Icon::Mail)) }
                    (text("Email", &html! { span.email { (user.email) } }))
                }
                li {
                    a.row href="/password" {
                        span.badge-icon { (icons::icon(Icon::Key)) }
                        (text("Change password", &password))
                        (icons::icon(Icon::Forward))
                    }
                }
                li {
                    a.row href="/sessions" {
                        span.badge-icon { (icons::icon(Icon::Devices)) }
                        (text("Manage sessions", &sessions))
                        (icons::icon(Icon::Forward))
                    }
                }
                li {
                    form method="post" action="/sign-out" {
                        button.row {
                            span.badge-icon { (icons::icon(Icon::Leave)) }
                            (text("Sign out here", &remaining))
                        }
                    }
                }
            }
        },
    )
}

fn text(title: &str, hint: &Markup) -> Markup {
    html! {
        span.row-text {
            span.row-title { (title) }
            span.row-hint { (hint) }
        }
    }
}
