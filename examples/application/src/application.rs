use std::time::Duration;

use tower_user_session::{
    BoxError, PgSessionStore, SessionCookie, SessionService,
    deadpool_postgres::{Manager, Pool, Runtime},
    tokio_postgres::{Config, NoTls},
};

use crate::{Accounts, User};

/// How long a request waits for a connection before it is told to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The sessions of this application's users.
pub type Sessions = SessionService<PgSessionStore<User>>;

/// All that a handler needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Application {
    /// Who is signed in.
    pub sessions: Sessions,
    /// Who could be.
    pub accounts: Accounts,
}

impl Application {
    /// Connects to this database, and creates in it what is missing.
    ///
    /// There is no TLS: a database on another host needs it.
    pub async fn open(config: Config) -> Result<Self, BoxError> {
        let pool = Pool::builder(Manager::new(config, NoTls))
            .max_size(8)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(LONGEST_WAIT))
            .create_timeout(Some(LONGEST_WAIT))
            .build()?;
        let users = include_str!("users.sql");
        pool.get().await?.batch_execute(users).await?;

        let store = PgSessionStore::new(pool.clone());
        store.migrate().await?;
        store.check().await?;
        let sessions = Sessions::builder(store)
            // Where there is TLS, leave this line out.
            .cookie(SessionCookie::insecure_for_local_development())
            .build()?;
        let accounts = Accounts::new(pool)?;
        Ok(Self { sessions, accounts })
    }
}
