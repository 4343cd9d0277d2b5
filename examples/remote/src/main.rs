//! The server. Start it while `example-axum` runs:
//!
//! ```sh
//! cargo run -p example-remote
//! ```
//!
//! Sign in at `example-axum`, then open <http://127.0.0.1:3002/api/me>. The browser sends the same
//! cookie, because cookies do not depend on the port.

use std::env;

use example_remote::{RemoteLookup, router};
use tokio::{net::TcpListener, signal};
use tower_user_session::{BoxError, SessionService, cookie::SessionCookie};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the address for the user")]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let resolver = env::var("RESOLVER");
    let resolver = resolver
        .as_deref()
        .unwrap_or("http://127.0.0.1:3001/resolve");
    let address = env::var("ADDR");
    let address = address.as_deref().unwrap_or("127.0.0.1:3002");

    let sessions = SessionService::builder(RemoteLookup::new(resolver.parse()?))
        .cookie(SessionCookie::insecure_for_local_development())
        .build()?;
    let listener = TcpListener::bind(address).await?;
    println!("Open http://{}/api/me in a browser", listener.local_addr()?);
    axum::serve(listener, router(sessions.clone()))
        .with_graceful_shutdown(async { drop(signal::ctrl_c().await) })
        .await?;
    sessions.close().await;
    Ok(())
}
