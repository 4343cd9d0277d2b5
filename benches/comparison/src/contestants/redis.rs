//! A limit, and what people reach for when PostgreSQL seems too slow: one `GET` in Redis that already holds
//! the user, over two multiplexed connections.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Request;
use redis::{AsyncCommands as _, Client, aio::MultiplexedConnection};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tower_user_session::BoxError;

use super::{App, handler, value};
use crate::{
    database::{KNOWN, USERS, token},
    user::User,
};

#[derive(Deserialize, Serialize)]
struct Stored {
    id: i64,
    email: String,
    name: String,
}

pub(super) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) async fn app() -> Result<(App, Server), BoxError> {
    let socket = std::env::temp_dir().join(format!("comparison-redis-{}", std::process::id()));
    let server = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
        ])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server cannot be started: {error}"))?;
    let server = Server(server);
    let client = Client::open(format!("redis+unix://{}", socket.display()))?;
    let mut connection = loop {
        match client.get_multiplexed_async_connection().await {
            Ok(connection) => break connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    for first in (0..KNOWN).step_by(1_000) {
        let mut pipe = redis::pipe();
        for n in first..first + 1_000 {
            let id = i64::try_from(n % USERS)?;
            let user = Stored {
                id,
                email: format!("user{id}@example.com"),
                name: format!("User {id}"),
            };
            pipe.set(
                &Sha256::digest(URL_SAFE_NO_PAD.decode(token(n))?)[..],
                serde_json::to_vec(&user)?,
            );
        }
        pipe.exec_async(&mut connection).await?;
    }
    let second = client.get_multiplexed_async_connection().await?;
    let connections = Arc::new([connection, second]);
    let next = Arc::new(AtomicUsize::new(0));
    let app = App::new(tower::service_fn(move |mut request: Request<Body>| {
        let connection = connections[next.fetch_add(1, Relaxed) % 2].clone();
        async move {
            if let Some(user) = find(connection, &request).await {
                request.extensions_mut().insert(user);
            }
            handler(request).await
        }
    }));
    Ok((app, server))
}

async fn find(mut connection: MultiplexedConnection, request: &Request<Body>) -> Option<User> {
    let token = URL_SAFE_NO_PAD
        .decode(value(request, "__Host-session")?)
        .ok()?;
    let stored: Option<Vec<u8>> = connection.get(&Sha256::digest(token)[..]).await.ok()?;
    let Stored { id, email, name } = serde_json::from_slice(&stored?).ok()?;
    Some(User { id, email, name })
}
