//! The server. Start it and open <http://127.0.0.1:3000>:
//!
//! ```sh
//! cargo run -p example-axum
//! ```
//!
//! | variable | value |
//! |---|---|
//! | `ADDR` | another address |
//! | `INTERNAL_ADDR` | another internal address: metrics, readiness, and the resolver for other services |
//! | `DATABASE_URL` | a permanent database, or that of another process |
//! | `CLIENT_IP` | behind a proxy: where it sends the client's address, such as `XRealIp` or `RightmostXForwardedFor` ([`ClientIpSource`]) |
//!
//! If two processes share a database and a session ends in one of them, the other one learns it at
//! once.

use std::{env, net::SocketAddr, time::Duration};

use axum_client_ip::ClientIpSource;
use example_application::{Application, listen, overdue, postgres, shutdown, trace};
use tower_user_session::BoxError;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the address for the user")]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let application = Application::open(postgres.config()).await?;
    let sessions = application.sessions.clone();

    let public = listen("ADDR", "127.0.0.1:3000").await?;
    let internal = listen("INTERNAL_ADDR", "127.0.0.1:3001").await?;
    println!("Open http://{} in a browser", public.local_addr()?);
    println!("Metrics are at http://{}/metrics", internal.local_addr()?);

    let cleaning = tokio::spawn({
        let sessions = sessions.clone();
        async move {
            sessions
                .delete_expired_every(Duration::from_secs(60 * 60))
                .await;
        }
    });

    // An open stream would keep the server from stopping. Requests in flight still get a response.
    let ending = tokio::spawn({
        let sessions = sessions.clone();
        async move {
            shutdown().await;
            sessions.end_streams();
        }
    });

    // A client can send any header. Trust one only if the proxy overwrites it.
    let source = match env::var("CLIENT_IP") {
        Ok(name) => name.parse()?,
        Err(_) => ClientIpSource::ConnectInfo,
    };
    let router = example_axum::router_behind(source, application);
    let pages = axum::serve(
        public,
        router.into_make_service_with_connect_info::<SocketAddr>(),
    );
    let resolver = axum::serve(internal, example_axum::internal(sessions.clone()));
    let both = async {
        tokio::try_join!(
            pages.with_graceful_shutdown(shutdown()),
            resolver.with_graceful_shutdown(shutdown()),
        )
    };
    tokio::select! {
        ended = both => drop(ended?),
        () = overdue() => {}
    }
    cleaning.abort();
    ending.abort();
    sessions.close().await;
    Ok(())
}
