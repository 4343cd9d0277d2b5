//! `GET /socket`: a WebSocket that says who is there, echoes, and closes when the session is over.

use std::time::Duration;

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use example_application::{Application, User};
use tokio::time::timeout;
use tower_user_session::{CurrentSession, CurrentUser, EndedBecause, is_same_origin};

/// In bytes.
const LONGEST_MESSAGE: usize = 16 * 1024;
/// How long a client that reads nothing keeps its connection once the session is over.
const LONGEST_FAREWELL: Duration = Duration::from_secs(2);

/// A browser sends the cookie with the handshake from any site, and the CSRF layer lets it through,
/// because it is a `GET`: so it is asked here where the page is from.
pub(crate) async fn socket(
    State(Application { sessions, .. }): State<Application>,
    CurrentUser(user): CurrentUser<User>,
    current: CurrentSession<User>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: WebSocketUpgrade,
) -> Result<Response, StatusCode> {
    if !is_same_origin(&headers, &uri) {
        return Err(StatusCode::FORBIDDEN);
    }
    let upgrade = upgrade.max_message_size(LONGEST_MESSAGE);
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let talk = talk(&mut socket, &user);
        if let Err(because) = sessions.while_live(&current, talk).await {
            close(socket, because).await;
        }
    }))
}

/// Until the client goes.
async fn talk(socket: &mut WebSocket, user: &User) {
    let mut answer = Message::text(format!("You are {}.", user.email));
    while socket.send(answer).await.is_ok() {
        answer = loop {
            match socket.recv().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => break message,
                // Those are answered by themselves.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        };
    }
}

async fn close(mut socket: WebSocket, because: EndedBecause) {
    let (code, reason) = match because {
        EndedBecause::Revoked => (close_code::POLICY, "signed out"),
        EndedBecause::Expired => (close_code::POLICY, "the session has expired"),
        // This process is ending.
        _ => (close_code::AWAY, ""),
    };
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    // Whoever is gone or does not read need not know.
    let _ = timeout(LONGEST_FAREWELL, socket.send(Message::Close(Some(frame)))).await;
}
