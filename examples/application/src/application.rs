use std::{net::IpAddr, time::Duration};

use http::HeaderMap;

use tower_user_session::{
    BoxError, CurrentSession, PgSessionStore, SessionCookie, SessionService, SessionServiceBuilder,
    SignedIn,
    deadpool_postgres::{Manager, Pool, Runtime},
    tokio_postgres::{Config, NoTls},
};

use crate::{AccountError, Accounts, Credentials, PasswordChange, User};

/// How long a request waits for a connection before it is told to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// So many live sessions are looked up without asking the database.
const SESSIONS_IN_MEMORY: usize = 100_000;

/// The sessions of this application's users.
pub type Sessions = SessionService<PgSessionStore<User>>;

type Settings = SessionServiceBuilder<PgSessionStore<User>>;

/// All that a handler needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Application {
    /// Who is signed in.
    pub sessions: Sessions,
    /// Who could be.
    pub accounts: Accounts,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// What it presents, and what it calls itself.
    pub headers: &'a HeaderMap,
    /// Its address, where that is known.
    pub ip: Option<IpAddr>,
}

impl Application {
    /// Connects to this database, and creates in it what is missing. Of sessions that end in another
    /// process over the same database this one hears at once.
    ///
    /// There is no TLS: a database on another host needs it.
    pub async fn open(config: Config) -> Result<Self, BoxError> {
        Self::open_with(config, |settings| settings).await
    }

    /// Like [`open`](Self::open), with settings of the caller's own for the sessions.
    pub async fn open_with(
        config: Config,
        settings: impl FnOnce(Settings) -> Settings,
    ) -> Result<Self, BoxError> {
        let pool = Pool::builder(Manager::new(config.clone(), NoTls))
            .max_size(8)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(LONGEST_WAIT))
            .create_timeout(Some(LONGEST_WAIT))
            .build()?;
        let users = include_str!("users.sql");
        pool.get().await?.batch_execute(users).await?;

        let store = PgSessionStore::new(pool.clone());
        // Changed users too, because they are kept in memory with their sessions.
        store.migrate().announce_changed_users().await?;
        store.check().await?;
        // Where there is TLS, leave the cookie as it is by default.
        let cookie = SessionCookie::insecure_for_local_development();
        let sessions = settings(Sessions::builder(store).cookie(cookie)).build()?;
        let feed = sessions.store().feed(config, NoTls);
        sessions.cache(feed, SESSIONS_IN_MEMORY).await?;
        let accounts = Accounts::new(pool)?;
        Ok(Self { sessions, accounts })
    }

    /// Signs in whose e-mail and password these are.
    pub async fn sign_in(
        &self,
        credentials: &Credentials,
        client: Client<'_>,
        remember: bool,
    ) -> Result<SignedIn, AccountError> {
        let checked = self.accounts.check_password(credentials).await?;
        let sign_in = self
            .sessions
            .sign_in(checked.user_id, client.headers)
            .remember(remember)
            .ip(client.ip)
            // The password may have been changed while it was checked.
            .only_if_still("u.password_hash", checked.password_hash);
        Ok(sign_in.await?)
    }

    /// Takes down that this user has just proved again who they are. Their session gets a new token.
    pub async fn confirm(
        &self,
        user: &User,
        password: &str,
        headers: &HeaderMap,
    ) -> Result<SignedIn, AccountError> {
        let (email, password) = (user.email.clone(), password.to_owned());
        let checked = self
            .accounts
            .check_password(&Credentials { email, password })
            .await?;
        Ok(self.sessions.confirm(checked.user_id, headers).await?)
    }

    /// Changes a user's password, if they know the current one. In one step with it all their other
    /// sessions end; then this one gets a new token, so that a stolen copy of it is worth nothing.
    pub async fn change_password(
        &self,
        user: &User,
        session: &CurrentSession<User>,
        passwords: &PasswordChange,
        headers: &HeaderMap,
    ) -> Result<SignedIn, AccountError> {
        let hash = self.accounts.hash(&passwords.new).await?;
        let (email, password) = (user.email.clone(), passwords.current.clone());
        let checked = self
            .accounts
            .check_password(&Credentials { email, password })
            .await?;

        let pool = self.sessions.store().pool();
        let mut client = pool.get().await.map_err(AccountError::unavailable)?;
        let transaction = client
            .transaction()
            .await
            .map_err(AccountError::unavailable)?;
        self.accounts
            .replace_password(&transaction, &checked, &hash)
            .await?;
        self.sessions
            .revoke_others_in_transaction(&transaction, &user.id, session)
            .await?;
        transaction
            .commit()
            .await
            .map_err(AccountError::unavailable)?;

        Ok(self.sessions.confirm(user.id, headers).await?)
    }
}
