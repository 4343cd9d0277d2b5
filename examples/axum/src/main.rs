//! Run with
//!
//! ```sh
//! cargo run -p example-axum
//! ```
//!
//! and open <http://127.0.0.1:3000>. `ADDR` chooses another address, `INTERNAL_ADDR` one for the
//! resolver of other services, `DATABASE_URL` a database that is still there afterwards, or that of
//! another process: what ends a session in one of them is known at once in the other.

use std::{net::SocketAddr, time::Duration};

use example_application::{Application, listen, overdue, postgres, shutdown, trace};
use tower_user_session::BoxError;

#[tokio::main]
#[expect(
    clippy::print_stdout,
    reason = "the address is for the person who starts this"
)]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let application = Application::open(postgres.config()).await?;
    let sessions = application.sessions.clone();

    let public = listen("ADDR", "127.0.0.1:3000").await?;
    let internal = listen("INTERNAL_ADDR", "127.0.0.1:3001").await?;
    println!("Open http://{} in a browser", public.local_addr()?);

    let cleaning = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.clean_up_every(Duration::from_secs(60 * 60)).await }
    });

    // A stream would keep the server from stopping. Requests in flight are still answered.
    let ending = tokio::spawn({
        let sessions = sessions.clone();
        async move {
            shutdown().await;
            sessions.end_streams();
        }
    });

    let router = example_axum::router(application);
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
