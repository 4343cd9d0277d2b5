//! OpenID Connect Back-Channel Logout 1.0: when a user signs out at the identity provider, the
//! provider sends a logout token to this application, which ends the sessions that the user began
//! there. Each session has the provider's session id in the column `idp_sid`.
//!
//! ```sh
//! DATABASE_URL=… IDP_ISSUER=https://id.example IDP_CLIENT=my-client IDP_JWKS=jwks.json \
//!     cargo run --manifest-path examples/back-channel-logout/Cargo.toml
//! ```
//!
//! The sign-in is not part of this example: the guide `sign_in_methods` has it. Its callback sets the
//! column from the claim `sid` of the ID token.

mod logout;
mod logout_token;

use std::{env, fs};

use axum::{
    Router,
    routing::{get, post},
};
use tokio::{net::TcpListener, signal};
use tower_user_session::{
    BoxError, CurrentUser, LoadUserLayer, LookupRow, PgSessionStore, PgUser, RequireUserLayer,
    SessionService,
    deadpool_postgres::{Manager, Pool},
    tokio_postgres::{Config, NoTls},
};

use crate::logout_token::Provider;

/// The number of sessions in the cache.
const CACHED: usize = 100_000;

#[derive(Clone, Debug)]
struct User {
    subject: String,
}

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.subject";
    const SESSION_COLUMNS: &'static [&'static str] = &["idp_sid"];

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self {
            subject: row.user().get("subject")?,
        })
    }
}

type Sessions = SessionService<PgSessionStore<User>>;

#[derive(Clone)]
struct App {
    sessions: Sessions,
    provider: Provider,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let variable = |name| env::var(name).map_err(|_| format!("set {name}"));
    let config: Config = variable("DATABASE_URL")?.parse()?;
    let provider = Provider::new(
        variable("IDP_ISSUER")?,
        variable("IDP_CLIENT")?,
        &fs::read(variable("IDP_JWKS")?)?,
    )?;

    let pool = Pool::builder(Manager::new(config.clone(), NoTls)).build()?;
    let client = pool.get().await?;
    client.batch_execute(include_str!("tables.sql")).await?;
    let store = PgSessionStore::new(pool);
    // With the triggers, the other processes receive the end of a session.
    store.migrate().notify_on_revocation().await?;
    let column = "ALTER TABLE sessions ADD COLUMN IF NOT EXISTS idp_sid text;
        CREATE INDEX IF NOT EXISTS sessions_idp_sid ON sessions (idp_sid)";
    client.batch_execute(column).await?;
    drop(client);
    store.check().await?;
    let feed = store.feed(config, NoTls);
    let sessions = Sessions::new(store);
    sessions.enable_cache(feed, CACHED).await?;

    let signed_in_only = RequireUserLayer::<User>::new();
    let pages = Router::new()
        .route("/account", get(account).layer(signed_in_only))
        .layer(LoadUserLayer::new(sessions.clone()));
    // The provider has no cookie, so the CSRF check of the pages does not apply.
    let app = Router::new()
        .route("/back-channel-logout", post(logout::end_sessions))
        .merge(pages)
        .with_state(App { sessions, provider });
    let address = env::var("ADDR").unwrap_or("127.0.0.1:3000".into());
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(signal::ctrl_c().await) })
        .await?;
    Ok(())
}

async fn account(CurrentUser(user): CurrentUser<User>) -> String {
    format!("Hello, {}", user.subject)
}
