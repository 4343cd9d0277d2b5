//! An application whose users, migrations and transactions run on sqlx. Its sessions are in the same
//! database.
//!
//! A process needs the connections of sqlx's pool (`max_connections`, 10 by default) and five for the
//! sessions.

pub mod passwords;
pub mod routes;
pub mod user;

use sqlx::{PgPool, migrate::Migrator};
use tower_user_session::{BoxError, PgSessionStore, SessionService};

pub use crate::{routes::router, user::User};

/// The users table of the application, and copies of `0001_create_sessions.sql` and
/// `0003_revoke_sessions.sql`. The command `sqlx migrate run` applies them too.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

pub type Sessions = SessionService<PgSessionStore<User>>;

/// What the handlers share.
#[derive(Clone)]
pub struct Application {
    pub database: PgPool,
    pub sessions: Sessions,
}

impl Application {
    /// Connects to the database and migrates it.
    pub async fn start(database_url: &str) -> Result<Self, BoxError> {
        let database = PgPool::connect(database_url).await?;
        MIGRATIONS.run(&database).await?;
        let store = PgSessionStore::connect(database_url).await?;
        store.check().await?.require_functions()?;
        let sessions = Sessions::new(store);
        Ok(Self { database, sessions })
    }
}
