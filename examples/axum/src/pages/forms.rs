//! The forms.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use example_application::{AccountError, User};
use maud::{Markup, html};
use tower_user_session::require_user::ReturnTo;

use super::{
    Page,
    layout::{PRODUCT, member_form, page},
};

/// A form for an email address and a password.
pub(crate) struct CredentialsForm {
    title: &'static str,
    lead: &'static str,
    action: &'static str,
    new: bool,
    instead: (&'static str, &'static str, &'static str),
}

pub(crate) const SIGN_UP: CredentialsForm = CredentialsForm {
    title: "Sign up",
    lead: "Create your account.",
    action: "/sign-up",
    new: true,
    instead: ("Have an account?", "/sign-in", "Sign in"),
};

pub(crate) const SIGN_IN: CredentialsForm = CredentialsForm {
    title: "Sign in",
    lead: "Welcome back.",
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
            p.lead { (which.lead) }
            @if let Some(message) = message { (message) }
            form method="post" action=(which.action) {
                (hidden(next))
                label for="email" { "Email" }
                input #email name="email" type="email" value=(email) autocomplete="username"
                    required autofocus[email.is_empty()];
                (password_field("Password", which.new, !email.is_empty()))
                label.check {
                    input name="remember" type="checkbox" value="yes";
                    "Remember me on this device"
                }
                button.button.wide { (which.title) }
            }
            p.instead { (question) " " a href=(href) { (other) } }
        },
    )
}

/// Asks for the password of the signed-in user again.
pub(crate) fn confirm(user: &User, next: Option<&ReturnTo>, message: Option<Markup>) -> Page {
    member_form(
        user,
        "Confirm your password",
        &html! {
            h1 { "Confirm your password" }
            p.lead { "Enter it again to continue." }
            @if let Some(message) = message { (message) }
            form.panel method="post" action="/confirm" {
                (hidden(next))
                (username(user))
                (password_field("Password", false, true))
                div.actions {
                    button.button { "Confirm" }
                    a.button.quiet href="/account" { "Cancel" }
                }
            }
        },
    )
}

pub(crate) fn password(user: &User, message: Option<Markup>) -> Page {
    member_form(
        user,
        "Change your password",
        &html! {
            h1 { "Change your password" }
            p.lead { "All your other sessions will end." }
            @if let Some(message) = message { (message) }
            form.panel method="post" action="/password" {
                (username(user))
                label for="current" { "Current password" }
                input #current name="current" type="password" autocomplete="current-password"
                    required autofocus;
                (password_field("New password", true, false))
                div.actions {
                    button.button { "Change password" }
                    a.button.quiet href="/account" { "Cancel" }
                }
            }
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
            minlength=[new.then_some("8")] aria-describedby=[new.then_some("rule")]
            autofocus[focused];
        @if new { p.hint #rule { "At least 8 characters." } }
    }
}

/// Tells a password manager whose password the form is about.
fn username(user: &User) -> Markup {
    html! { input type="hidden" name="email" value=(user.email) autocomplete="username"; }
}

fn hidden(next: Option<&ReturnTo>) -> Markup {
    html! { @if let Some(next) = next { input type="hidden" name="next" value=(next.as_str()); } }
}

/// Tells the user that the input of an earlier form was lost.
pub(crate) fn unsent() -> Markup {
    html! {
        p.notice role="status" {
            "Your form was not sent. You will return to it: please fill it in again."
        }
    }
}

/// Tells the user why the form is shown instead of a page.
pub(crate) fn continue_to() -> Markup {
    html! { p.notice role="status" { "Sign in to continue." } }
}

pub(crate) fn already_signed_in(user: &User) -> Markup {
    html! {
        p.notice role="status" {
            "You are signed in as " strong.email { (user.email) } ". "
            a href="/" { "Go to " (PRODUCT) } ", or sign in as another user."
        }
    }
}

/// Shows the same form again, with the error.
pub(crate) fn refused(
    error: &AccountError,
    form: impl FnOnce(Option<Markup>) -> Page,
) -> Response<Body> {
    refused_with(error, &error.to_string(), form)
}

/// The same for a form without an email.
pub(crate) fn refused_password(
    error: &AccountError,
    form: impl FnOnce(Option<Markup>) -> Page,
) -> Response<Body> {
    match error {
        AccountError::WrongCredentials => refused_with(error, "The password is wrong.", form),
        other => refused(other, form),
    }
}

fn refused_with(
    error: &AccountError,
    text: &str,
    form: impl FnOnce(Option<Markup>) -> Page,
) -> Response<Body> {
    if let AccountError::Unavailable(cause) = error {
        tracing::error!(%cause, "processing a form failed");
    }
    let mut response = (error.status(), form(Some(problem(text)))).into_response();
    if error.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Cookie");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Shows the same form again. The next attempt is possible after `wait`.
pub(crate) fn too_many(
    wait: Duration,
    form: impl FnOnce(Option<Markup>) -> Page,
) -> Response<Body> {
    let seconds = wait.as_secs() + 1;
    let plural = if seconds == 1 { "" } else { "s" };
    let text = format!("Too many attempts. Please try again in {seconds} second{plural}.");
    let headers = [(header::RETRY_AFTER, seconds.to_string())];
    let form = form(Some(problem(&text)));
    (StatusCode::TOO_MANY_REQUESTS, headers, form).into_response()
}

fn problem(text: &str) -> Markup {
    html! { p.notice.bad role="alert" { (text) } }
}
