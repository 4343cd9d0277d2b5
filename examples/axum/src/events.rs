//! `GET /events`: server-sent events about the user's sessions, until the current session ends.
//!
//! | event | data | when |
//! |---|---|---|
//! | `signed-out` | a message for the user | last, when the session has ended |
//! | `sessions` | the ids of the user's sessions | first, and after each change, with `?sessions=yes` |
//!
//! Each open page occupies a connection. Over HTTP/1 a browser opens at most six to a host. On the
//! internet, use HTTP/2.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State},
    http::{HeaderName, header},
    response::sse::{Event, KeepAlive, Sse},
};
use example_application::{Application, Sessions, User};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tower_user_session::{CurrentSession, CurrentUser, feed::EndReason};

use crate::pages;

const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
pub(crate) struct Wanted {
    sessions: Option<String>,
}

pub(crate) async fn events(
    State(Application { sessions, .. }): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    Query(wanted): Query<Wanted>,
) -> (
    [(HeaderName, &'static str); 1],
    Sse<impl Stream<Item = Result<Event, Infallible>>>,
) {
    let ended = sessions.ended(&current);
    let news = if wanted.sessions.is_some() {
        changes(sessions, user.id).left_stream()
    } else {
        stream::pending().right_stream()
    };
    let events = ended.close_stream_with(news, last_word).map(Ok);
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    ([(header::CACHE_CONTROL, "no-store")], events)
}

fn last_word(because: EndReason) -> Option<Event> {
    let text = match because {
        EndReason::Revoked => "You were signed out on another device or in another window.",
        EndReason::Expired => "Your session has expired.",
        // This process is shutting down. The browser reconnects to another one.
        _ => return None,
    };
    Some(Event::default().event("signed-out").data(text))
}

/// Polls the list of sessions for the pages that show it. The feed announces sessions that end, and
/// not those that begin.
fn changes(sessions: Sessions, user_id: i64) -> impl Stream<Item = Event> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let nothing = None::<String>;
    stream::unfold(
        (sessions, looks, nothing),
        move |(sessions, mut looks, told)| async move {
            loop {
                looks.tick().await;
                // After a failure the next poll tries again.
                let Ok(listed) = sessions.sessions_of(&user_id).await else {
                    continue;
                };
                let names = pages::names(&listed);
                if told.as_ref() != Some(&names) {
                    let event = Event::default().event("sessions").data(&names);
                    return Some((event, (sessions, looks, Some(names))));
                }
            }
        },
    )
}
