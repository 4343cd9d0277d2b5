//! Starts the application of `lib.rs` with two users.
//!
//! ```sh
//! cargo run -p example-session-columns
//! ```
//!
//! Open <http://localhost:3000>. Browsers accept the cookies of `localhost` without TLS.

use example_application::{listen, postgres, shutdown, trace};
use example_session_columns::{App, demonstration, router};
use tower_user_session::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    trace();
    let postgres = postgres().await?;
    let app = App::open(postgres.config()).await?;
    demonstration(&app).await?;
    tracing::info!(
        "administrator: ada@example.com, user: eve@example.com, password: \"correct horse\", \
         secret of the authenticator app: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    );
    let listener = listen("ADDR", "127.0.0.1:3000").await?;
    tracing::info!(
        "listening on http://localhost:{}",
        listener.local_addr()?.port()
    );
    axum::serve(listener, router(app))
        .with_graceful_shutdown(shutdown())
        .await?;
    Ok(())
}
