//! The page with the user's sessions.

use example_application::{Activity, User};
use maud::{Markup, html};
use tower_user_session::{CurrentSession, session::SessionInfo};

use super::{
    Page,
    icons::{self, Icon},
    layout::{Section, member_page},
    times::{ago, exactly, until},
};
use crate::agent;

/// What the user has just done.
#[derive(Clone, Copy)]
pub(crate) enum Done {
    Password,
    Ended,
    EndedOthers,
}

impl Done {
    /// Returns `None` for an unknown name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "password" => Some(Self::Password),
            "ended" => Some(Self::Ended),
            "ended-others" => Some(Self::EndedOthers),
            _ => None,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Password => "Your password is changed. All other sessions have ended.",
            Self::Ended => "The session has ended.",
            Self::EndedOthers => "All other sessions have ended.",
        }
    }
}

/// Lists the current session first. `sessions` is in the order of their last use.
pub(crate) fn sessions(
    user: &User,
    current: CurrentSession<User>,
    sessions: &[SessionInfo],
    activity: &[Activity],
    done: Option<Done>,
) -> Page {
    let (here, others): (Vec<_>, Vec<_>) = sessions.iter().partition(|info| info.is(&current));
    member_page(
        user,
        Section::Sessions,
        "Sessions",
        &html! {
            div.heading {
                div {
                    h1 { "Sessions" }
                    p.lead {
                        "This is where you are signed in. If you do not recognize a session, "
                        "end it and " a href="/password" { "change your password" } "."
                    }
                }
                @if !others.is_empty() {
                    form method="post" action="/sessions/end-others" {
                        button.button.danger { "Sign out everywhere else" }
                    }
                }
            }
            @if let Some(done) = done { p.notice.good role="status" { (done.text()) } }
            @for new in activity {
                @if new.is_new_client && new.session != current.id() {
                    (new_sign_in(new, current))
                }
            }
            ul.sessions data-names=(names(sessions)) {
                @for info in here { (entry(info, current, true)) }
                @for info in others { (entry(info, current, false)) }
            }
            h2 { "Recent activity" }
            ul.rows.activity {
                @for event in activity { li { (line(event, current)) } }
            }
        },
    )
}

fn new_sign_in(activity: &Activity, current: CurrentSession<User>) -> Markup {
    let (name, _) = agent::describe(activity.user_agent.as_deref());
    html! {
        p.notice role="status" {
            "New sign-in from " (name) ", " (ago(activity.happened_at, current.times().now)) ". "
            "If this was not you, " a href="/password" { "change your password" } "."
        }
    }
}

fn line(activity: &Activity, current: CurrentSession<User>) -> Markup {
    let (name, _) = agent::describe(activity.user_agent.as_deref());
    let event = match &*activity.event {
        "began" => "Signed in",
        "rotated" => "Password confirmed",
        "ended" => "Session ended",
        "expired" => "Session expired",
        _ => "Session changed",
    };
    html! {
        (event) " · " (name)
        @if let Some(ip) = activity.ip { " · " (ip) }
        " · " (ago(activity.happened_at, current.times().now))
    }
}

fn entry(info: &SessionInfo, current: CurrentSession<User>, here: bool) -> Markup {
    let now = current.times().now;
    // The client chooses the text. It is escaped like every other text.
    let (name, device) = agent::describe(info.user_agent.as_deref());
    html! {
        li.session.here[here] {
            span.badge-icon { (icons::icon(Icon::from(device))) }
            div.session-text {
                h2 {
                    (name)
                    @if here { " " span.badge { "This session" } }
                }
                p {
                    @if here { "Active now" } @else { "Last active " (ago(info.last_seen_at, now)) }
                    @if let Some(ip) = info.ip { span.dot { " · " } span.ip { (ip) } }
                }
                details {
                    summary { "Details" }
                    dl {
                        dt { "Signed in" }   dd { (exactly(info.created_at)) }
                        dt { "Last active" } dd { (exactly(info.last_seen_at)) }
                        dt { "Expires" }
                        dd { (until(info.expires_at, now)) ", or earlier without use" }
                        @if let Some(ip) = info.ip { dt { "IP address" } dd { (ip) } }
                        dt { "Client" }
                        dd { code { (info.user_agent.as_deref().unwrap_or("not known")) } }
                    }
                }
            }
            @if !here {
                form method="post" action="/sessions/end" {
                    input type="hidden" name="session" value=(info.id);
                    button.button.quiet.small aria-label={ "End session: " (name) } {
                        "End session"
                    }
                }
            }
        }
    }
}

/// The public ids of the sessions. The text changes when a session begins or ends.
pub(crate) fn names(sessions: &[SessionInfo]) -> String {
    let mut names: Vec<_> = sessions.iter().map(|info| info.id.to_string()).collect();
    names.sort_unstable();
    names.join(" ")
}
