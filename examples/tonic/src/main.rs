//! The server. Start it:
//!
//! ```sh
//! cargo run -p example-tonic
//! ```
//!
//! Then start the client in another terminal:
//!
//! ```sh
//! cargo run -p example-tonic --bin client
//! ```

use example_application::{Application, listen, overdue, postgres, shutdown, trace};
use tower_user_session::{BoxError, service::SessionServiceBuilder};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the address for the user")]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let application =
        Application::open_with(postgres.config(), SessionServiceBuilder::bearer_tokens).await?;
    let sessions = application.sessions.clone();

    let listener = listen("ADDR", "127.0.0.1:3000").await?;
    println!("Listening on http://{}", listener.local_addr()?);
    // An open stream would keep the server from stopping. Calls in flight still get a response.
    let ending = tokio::spawn({
        let sessions = sessions.clone();
        async move {
            shutdown().await;
            sessions.end_streams();
        }
    });
    tokio::select! {
        ended = example_tonic::serve(listener, application, shutdown()) => ended?,
        () = overdue() => {}
    }
    ending.abort();
    sessions.close().await;
    Ok(())
}
