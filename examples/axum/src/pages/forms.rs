//! The forms.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use example_application::AccountError;
use maud::{Markup, html};
use tower_user_session::require_user::ReturnTo;

use super::{Page, page};

/// A form for an email address and a password.
pub(crate) struct CredentialsForm {
    title: &'static str,
    action: &'static str,
    new: bool,
    instead: (&'static str, &'static str, &'static str),
}

pub(crate) const SIGN_UP: CredentialsForm = CredentialsForm {
    title: "Sign up",
    action: "/sign-up",
    new: true,
    instead: ("Have an account?", "/sign-in", "Sign in"),
};

pub(crate) const SIGN_IN: CredentialsForm = CredentialsForm {
    title: "Sign in",
    action: "/sign-in",
    new: false,
    instead: ("No account yet?", "/sign-up", "Sign up"),
};

/// Shows the form with the earlier input, except for the password, and with the page to return to.
pub(crate) fn sign_in_or_up(
    which: &CredentialsForm,
    email: &str,
    next: Option<&ReturnTo>,
    message: Option<Markup>,
) -> Page {
    let (question, href, other) = which.instead;
    page(
        which.title,
        &html! {
            h1 { (which.title) }
            @if let Some(message) = message { (message) }
            form method="post" action=(which.action) {
                (hidden(next))
                label for="email" { "Email" }
                input #email name="email" type="email" value=(email) autocomplete="username" required
                    autofocus[email.is_empty()];
                (password_field("Password", which.new, !email.is_empty()))
                @if !which.new {
                    label.check {
                        input name="remember" type="checkbox" value="yes";
                        " Remember me on this device"
                    }
                }
                button.button { (which.title) }
            }
            p.instead { (question) " " a href=(href) { (other) } }
        },
    )
}

pub(crate) fn reauthenticate(next: Option<&ReturnTo>, message: Option<Markup>) -> Page {
    page(
        "Reauthenticate your password",
        &html! {
            h1 { "Reauthenticate your password" }
            @if let Some(message) = message { (message) }
            p { "Please enter your password again to continue." }
            form method="post" action="/confirm" {
                (hidden(next))
                (password_field("Password", false, true))
                button.button { "Reauthenticate" }
            }
        },
    )
}

pub(crate) fn password(message: Option<Markup>) -> Page {
    page(
        "Change your password",
        &html! {
            h1 { "Change your password" }
            @if let Some(message) = message { (message) }
            p { "You will be signed out on all your other devices." }
            form method="post" action="/password" {
                label for="current" { "Current password" }
                input #current name="current" type="password" autocomplete="current-password"
                    required autofocus;
                (password_field("New password", true, false))
                button.button { "Change password" }
            }
            p.instead { a href="/account" { "Back to your account" } }
        },
    )
}

fn password_field(label: &str, new: bool, focused: bool) -> Markup {
    let autocomplete = if new {
        "new-password"
    } else {
        "current-password"
    };
    html! {
        label for="password" { (label) }
        input #password name="password" type="password" autocomplete=(autocomplete) required
            minlength=[new.then_some("8")] autofocus[focused];
        @if new { p.hint { "At least 8 characters." } }
    }
}

fn hidden(next: Option<&ReturnTo>) -> Markup {
    html! { @if let Some(next) = next { input type="hidden" name="next" value=(next.as_str()); } }
}

/// Tells the user that the input of an earlier form was lost.
pub(crate) fn unsent() -> Markup {
    html! {
        p.problem role="alert" {
            "Your form was not sent. You will return to it: please fill it in again."
        }
    }
}

/// Shows the same form again, with the error.
pub(crate) fn refused(
    error: &AccountError,
    form: impl FnOnce(Option<Markup>) -> Page,
) -> Response<Body> {
    if let AccountError::Unavailable(cause) = error {
        tracing::error!(%cause, "processing a form failed");
    }
    let problem = html! { p.problem role="alert" { (error) } };
    let mut response = (error.status(), form(Some(problem))).into_response();
    if error.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Cookie");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
