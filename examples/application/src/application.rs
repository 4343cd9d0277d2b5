use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::{spawn, sync::Semaphore, time::sleep};

use tower_user_session::{
    BoxError, CurrentSession, PgSessionStore, SessionService, SignedIn, SignedOut,
    cookie::SessionCookie,
    deadpool_postgres::{Pool, Runtime},
    postgres::PgConnector,
    service::{SessionServiceBuilder, SignIn},
    tokio_postgres::{Config, NoTls, config::TargetSessionAttrs},
};

use crate::{AUDIT, AccountError, Accounts, Credentials, PasswordChange, USERS, User};

/// How long a request waits for a connection before it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The next of several database hosts is tried after this time.
const LONGEST_CONNECT: Duration = Duration::from_secs(1);
/// The number and the interval of the retries of a failed sign-out.
const SIGN_OUT_ATTEMPTS: u32 = 30;
const SIGN_OUT_INTERVAL: Duration = Duration::from_secs(2);
/// The number of sign-outs that are retried at the same time.
const SIGN_OUTS: usize = 1_000;
/// The capacity of the cache.
const SESSIONS_IN_MEMORY: usize = 100_000;

/// The sessions of this application's users.
pub type Sessions = SessionService<PgSessionStore<User>>;

type Settings = SessionServiceBuilder<PgSessionStore<User>>;

/// The state of the handlers. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct Application {
    /// The sessions.
    pub sessions: Sessions,
    /// The accounts.
    pub accounts: Accounts,
    sign_outs: Arc<Semaphore>,
}

/// The client of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The request's headers, with the session cookie and the `User-Agent`.
    pub headers: &'a HeaderMap,
    /// The address of the client, if it is known.
    pub ip: Option<IpAddr>,
}

impl Application {
    /// Connects to this database and creates the missing tables and triggers. If a session ends in
    /// another process over the same database, this process is notified at once.
    ///
    /// If the configuration has several hosts, the application uses the host that accepts writes. After a
    /// failover it continues on the new primary without a restart.
    ///
    /// The connection does not use TLS. A database on another host needs TLS.
    pub async fn open(config: Config) -> Result<Self, BoxError> {
        Self::open_with(config, |settings| settings).await
    }

    /// Like [`open`](Self::open), with other settings for the sessions.
    pub async fn open_with(
        mut config: Config,
        settings: impl FnOnce(Settings) -> Settings,
    ) -> Result<Self, BoxError> {
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(LONGEST_CONNECT);
        let connector = PgConnector::new(config, NoTls);
        let pool = Pool::builder(connector.manager())
            .max_size(8)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(LONGEST_WAIT))
            .create_timeout(Some(LONGEST_WAIT))
            .build()?;
        pool.get().await?.batch_execute(USERS).await?;

        let store = PgSessionStore::new(pool.clone());
        // Changed users are announced too, because the cache contains users.
        store.migrate().notify_on_user_change().await?;
        pool.get().await?.batch_execute(AUDIT).await?;
        store.check().await?;
        // With TLS, use the default cookie.
        let cookie = SessionCookie::insecure_for_local_development();
        let sessions = settings(Sessions::builder(store).cookie(cookie)).build()?;
        let feed = sessions.store().feed_with(&connector);
        sessions.enable_cache(feed, SESSIONS_IN_MEMORY).await?;
        let accounts = Accounts::new(pool)?;
        Ok(Self {
            sessions,
            accounts,
            sign_outs: Arc::new(Semaphore::new(SIGN_OUTS)),
        })
    }

    /// Creates an account and signs its user in, in one transaction. If the sign-in fails, the
    /// account is not created.
    pub async fn sign_up(
        &self,
        credentials: &Credentials,
        client: Client<'_>,
        remember: bool,
    ) -> Result<SignedIn, AccountError> {
        let new = self.accounts.new_account(credentials).await?;
        let pool = self.sessions.store().pool();
        let mut connection = pool.get().await.map_err(AccountError::unavailable)?;
        let transaction = connection
            .transaction()
            .await
            .map_err(AccountError::unavailable)?;
        let user_id = new.insert(&*transaction).await?;
        let sign_in = self.session_for(user_id, client, remember);
        let signed_in = sign_in.in_transaction(&transaction).await?;
        transaction
            .commit()
            .await
            .map_err(AccountError::unavailable)?;
        Ok(signed_in)
    }

    /// Signs in the user with this email and password.
    pub async fn sign_in(
        &self,
        credentials: &Credentials,
        client: Client<'_>,
        remember: bool,
    ) -> Result<SignedIn, AccountError> {
        let checked = self.accounts.check_password(credentials).await?;
        let sign_in = self
            .session_for(checked.user_id, client, remember)
            // Another request can change the password during the check.
            .if_unchanged("u.password_hash", checked.password_hash);
        Ok(sign_in.await?)
    }

    fn session_for(
        &self,
        user_id: i64,
        client: Client<'_>,
        remember: bool,
    ) -> SignIn<PgSessionStore<User>> {
        let sign_in = self.sessions.sign_in(user_id, client.headers);
        sign_in.remember(remember).ip(client.ip)
    }

    /// Signs out. If this fails, the session may still be live, although the client removes its cookie.
    /// The application then retries in the background. The response should show
    /// [`SIGNED_OUT_HERE`](crate::SIGNED_OUT_HERE).
    pub async fn sign_out(&self, headers: &HeaderMap) -> SignedOut {
        let signed_out = self.sessions.sign_out(headers).await;
        let permit = Arc::clone(&self.sign_outs).try_acquire_owned();
        if let (Err(_), Ok(permit)) = (signed_out.ended(), permit) {
            let (sessions, headers) = (self.sessions.clone(), headers.clone());
            spawn(async move {
                for _ in 0..SIGN_OUT_ATTEMPTS {
                    sleep(SIGN_OUT_INTERVAL).await;
                    if sessions.sign_out(&headers).await.ended().is_ok() {
                        break;
                    }
                }
                drop(permit);
            });
        }
        signed_out
    }

    /// Re-authenticates the user. The session gets a new token.
    pub async fn reauthenticate(
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
        Ok(self
            .sessions
            .reauthenticate(checked.user_id, headers)
            .await?)
    }

    /// Changes a user's password if the current one is right. In the same transaction all other
    /// sessions of the user end. Then this session gets a new token, so that a stolen copy of the
    /// old one is useless.
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

        Ok(self.sessions.reauthenticate(user.id, headers).await?)
    }
}
