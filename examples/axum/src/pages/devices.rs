//! The page with the user's sessions.

use std::time::Duration;

use example_application::User;
use maud::html;
use tower_user_session::{CurrentSession, session::SessionInfo};

use super::{Page, in_words, live_page};

pub(crate) fn devices(devices: &[SessionInfo], current: CurrentSession<User>) -> Page {
    let ago = |device: &SessionInfo| {
        let since = current.times().now.duration_since(device.last_seen_at);
        in_words(since.unwrap_or(Duration::ZERO))
    };
    live_page(
        "Your devices",
        &html! {
            h1 { "Your devices" }
            ul.devices data-names=(names(devices)) {
                @for device in devices {
                    li {
                        // The client chooses this text. It is escaped like every other text.
                        p.answer { (device.user_agent.as_deref().unwrap_or("Unknown client")) }
                        p.hint {
                            "Used " (ago(device)) " ago"
                            @if let Some(ip) = device.ip { ", signed in from " (ip) }
                        }
                        @if device.is(&current) {
                            p.here { "This device" }
                        } @else {
                            form method="post" action="/devices/end" {
                                input type="hidden" name="session" value=(device.id);
                                button.button.quiet { "Sign out there" }
                            }
                        }
                    }
                }
            }
            div.actions {
                @if devices.len() > 1 {
                    form method="post" action="/devices/end-others" {
                        button.button { "Sign out on all others" }
                    }
                }
                a.button.quiet href="/account" { "Your account" }
            }
        },
    )
}

/// The public ids of the sessions. The text changes when a session begins or ends.
pub(crate) fn names(devices: &[SessionInfo]) -> String {
    let mut names: Vec<_> = devices.iter().map(|device| device.id.to_string()).collect();
    names.sort_unstable();
    names.join(" ")
}
