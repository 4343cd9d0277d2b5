use axum::{extract::State, http::HeaderMap};
use maud::{DOCTYPE, Markup, html};
use tower_user_session::{CurrentUser, cookie::PresentedToken};

use crate::{App, user::User};

/// During an impersonation the banner is the first element of the page and stays in view.
const BANNER: &str = "position: sticky; top: 0; padding: 1rem; background: #b00; color: #fff";

fn page(title: &str, user: Option<&User>, content: &Markup) -> Markup {
    let impersonator = user.and_then(|user| user.impersonator.as_ref());
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } }
            body {
                @if let (Some(user), Some(impersonator)) = (user, impersonator) {
                    div #impersonation role="alert" style=(BANNER) {
                        strong { (impersonator.email) " acts as " (user.email) "." }
                        (button("/impersonate/stop", "Stop"))
                    }
                }
                h1 { (title) }
                main { (content) }
            }
        }
    }
}

fn button(action: &str, label: &str) -> Markup {
    html! { form method="post" action=(action) { button { (label) } } }
}

fn form(action: &str, label: &str, fields: &[(&str, &str)]) -> Markup {
    html! {
        form method="post" action=(action) {
            @for (name, kind) in fields {
                label { (name) " " input id=(format!("{}-{name}", &action[1..])) name=(name) type=(kind) required; }
            }
            button { (label) }
        }
    }
}

pub(crate) async fn home(
    State(app): State<App>,
    user: Option<CurrentUser<User>>,
    headers: HeaderMap,
) -> Markup {
    let Some(CurrentUser(user)) = user else {
        let keeps = !matches!(app.kept.cookie().read(&headers), PresentedToken::Nothing);
        let content = html! {
            @if keeps {
                p { "The impersonation has ended." }
                (button("/impersonate/stop", "Return"))
            }
            (form("/sign-in", "Sign in", &[("email", "email"), ("password", "password")]))
        };
        return page("Welcome", None, &content);
    };
    let content = html! {
        p { "Signed in as " (user.email) "." }
        p { a href="/payments" { "Payments" } }
        @if user.acts() {
            (form("/password", "Change the password", &[("password", "password")]))
        }
        @if user.may_impersonate() {
            (form("/impersonate", "Act as", &[("email", "email")]))
        }
        (button("/sign-out", "Sign out"))
    };
    page("Home", Some(&user), &content)
}

pub(crate) async fn payments(CurrentUser(user): CurrentUser<User>) -> Markup {
    let content = html! { p { "Every proof is recent." } };
    page("Payments", Some(&user), &content)
}

pub(crate) fn confirm(user: &User) -> Markup {
    let content = form("/confirm", "Confirm", &[("password", "password")]);
    page("Your password, please", Some(user), &content)
}

pub(crate) fn code(user: &User) -> Markup {
    let content = form("/code", "Check", &[("code", "text")]);
    page("Your one-time code, please", Some(user), &content)
}
