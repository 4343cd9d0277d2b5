//! `GET /socket`: a WebSocket that names the user, echoes messages, and closes when the session
//! ends.

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
use tower_user_session::{CurrentSession, CurrentUser, feed::EndReason, websocket::is_same_origin};

/// In bytes.
const LONGEST_MESSAGE: usize = 16 * 1024;
/// How long the server waits for a client that does not read the close frame.
const LONGEST_FAREWELL: Duration = Duration::from_secs(2);

/// Checks the origin of the page. A browser sends the cookie with a handshake from any site, and
/// the CSRF layer does not reject the handshake, because it is a `GET`.
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
        if let Err(because) = sessions.run_until_ended(&current, talk).await {
            close(socket, because).await;
        }
    }))
}

/// Returns when the client disconnects.
async fn talk(socket: &mut WebSocket, user: &User) {
    let mut answer = Message::text(format!("You are {}.", user.email));
    while socket.send(answer).await.is_ok() {
        answer = loop {
            match socket.recv().await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => break message,
                // axum answers control frames by itself.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        };
    }
}

async fn close(mut socket: WebSocket, because: EndReason) {
    let (code, reason) = match because {
        EndReason::Revoked => (close_code::POLICY, "signed out"),
        EndReason::Expired => (close_code::POLICY, "the session has expired"),
        // This process is shutting down.
        _ => (close_code::AWAY, ""),
    };
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    // The client has disconnected or does not read.
    let _ = timeout(LONGEST_FAREWELL, socket.send(Message::Close(Some(frame)))).await;
}
