//! Starts the application:
//!
//! ```sh
//! createdb app
//! DATABASE_URL=postgres://localhost/app cargo run
//! ```
//!
//! Open <http://localhost:3000> in a browser.

use std::{env, error::Error};

use example_axum_sqlx::{Application, router};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing_subscriber::fmt::init();
    let application = Application::start(&env::var("DATABASE_URL")?).await?;
    let address = env::var("ADDR").unwrap_or("127.0.0.1:3000".into());
    let listener = TcpListener::bind(address).await?;
    Ok(axum::serve(listener, router(application)).await?)
}
