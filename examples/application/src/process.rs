//! Start and stop of a server.

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

/// Writes events to the standard error, filtered by `RUST_LOG` (default: `info`).
pub fn trace() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// Returns the PostgreSQL that `DATABASE_URL` names, or starts a temporary one that stops on drop.
pub async fn postgres() -> Result<Server, BoxError> {
    let server = spawn_blocking(Server::for_examples).await??;
    if *server.source() == Source::Url {
        tracing::info!("using the database that DATABASE_URL names");
    } else {
        tracing::info!(
            source = %server.source(),
            DATABASE_URL = server.url(),
            "using a temporary database: set DATABASE_URL for a permanent one"
        );
    }
    Ok(server)
}

/// Listens on the address in this variable, or on the default.
pub async fn listen(variable: &str, default: &str) -> Result<TcpListener, BoxError> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(&address).await;
    listener.map_err(|error| format!("cannot listen on {address} ({variable}): {error}").into())
}

/// Waits for Ctrl-C or SIGTERM.
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

/// Waits for the shutdown signal and then for the longest time that a shutdown may take. A client
/// that sends half a request must not prevent the shutdown.
pub async fn overdue() {
    shutdown().await;
    tracing::info!("shutting down: waiting for the requests in flight");
    sleep(LONGEST_ENDING).await;
    tracing::warn!("shutdown timed out: dropping the remaining requests");
}
