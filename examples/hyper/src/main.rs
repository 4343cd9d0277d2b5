//! The server. Start it:
//!
//! ```sh
//! cargo run -p example-hyper
//! ```
//!
//! Then send requests from another terminal:
//!
//! ```sh
//! curl -c cookies http://127.0.0.1:3000/sign-up -d email=ada@example.com -d password=correct-horse
//! curl -c cookies http://127.0.0.1:3000/sign-in -d email=ada@example.com -d password=correct-horse
//! curl -b cookies http://127.0.0.1:3000/api/me
//! curl -b cookies http://127.0.0.1:3000/api/me --http2-prior-knowledge
//! curl -b cookies -c cookies http://127.0.0.1:3000/sign-out -X POST
//! ```

use example_application::{Application, listen, overdue, postgres, shutdown, trace};
use tower_user_session::BoxError;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "prints the address for the user")]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let application = Application::open(postgres.config()).await?;
    let sessions = application.sessions.clone();

    let listener = listen("ADDR", "127.0.0.1:3000").await?;
    println!("Listening on http://{}", listener.local_addr()?);
    tokio::select! {
        () = example_hyper::serve(listener, application, shutdown()) => {}
        () = overdue() => {}
    }
    sessions.close().await;
    Ok(())
}
