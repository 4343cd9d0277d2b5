//! Starting and stopping.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

use ephemeral_postgres::{Server, Source};
use tokio::{net::TcpListener, signal, task::spawn_blocking, time::sleep};
use tower_user_session::BoxError;
use tracing_subscriber::EnvFilter;

const LONGEST_ENDING: Duration = Duration::from_secs(10);

/// Writes events to the standard error: those that `RUST_LOG` asks for, by default `info`.
pub fn trace() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// The PostgreSQL that `DATABASE_URL` names, or one of our own that goes when this is dropped.
pub async fn postgres() -> Result<Server, BoxError> {
    let server = spawn_blocking(Server::for_examples).await??;
    if *server.source() == Source::Url {
        tracing::info!("the database is the one that DATABASE_URL names");
    } else {
        tracing::info!(
            source = %server.source(),
            DATABASE_URL = server.url(),
            "the database is gone when this ends; to keep one, set DATABASE_URL"
        );
    }
    Ok(server)
}

/// Listens on the address that the variable says.
pub async fn listen(variable: &str, default: &str) -> Result<TcpListener, BoxError> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(&address).await;
    listener.map_err(|error| format!("cannot listen on {address} ({variable}): {error}").into())
}

/// Waits until the process is asked to end: by Ctrl-C, or by SIGTERM.
pub async fn shutdown() {
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        Ok(()) = signal::ctrl_c() => {}
        Some(()) = terminated => {}
    }
}

/// Waits until the process should have ended: whoever sends half a request and then nothing does
/// not keep it.
pub async fn overdue() {
    shutdown().await;
    tracing::info!("ending: the requests under way are answered");
    sleep(LONGEST_ENDING).await;
    tracing::warn!("some requests did not end and are given up");
}
