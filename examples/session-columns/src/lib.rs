//! An application whose sessions have columns of their own:
//!
//! * `factors`: what the user has proven. Some pages need a one-time code, and a recent one.
//! * `impersonator_session`: the session of the administrator who acts as the user.
//!
//! The audit trail records the second column with each event.

mod errors;
mod impersonation;
mod pages;
mod second_factor;
mod sign_in;
mod user;

use std::time::Duration;

use axum::{
    Router,
    routing::{get, post},
};
use example_application::{AUDIT, AccountError, Accounts, Credentials, USERS};
use tower_http::csrf::CsrfLayer;
use tower_user_session::{
    BoxError, LoadUserLayer, PgSessionStore, RequireUserLayer, SessionService,
    cookie::SessionCookie,
    deadpool_postgres::{Manager, Pool, Runtime},
    tokio_postgres::{Config, NoTls},
};

use crate::user::User;

/// How long a request waits for a connection before it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Payments need a proof that is at most this old.
const RECENTLY: Duration = Duration::from_secs(5 * 60);

type Sessions = SessionService<PgSessionStore<User>>;

/// The state of the handlers.
#[derive(Clone, Debug)]
pub struct App {
    sessions: Sessions,
    /// The same sessions, in the cookie that keeps the administrator's token during an
    /// impersonation.
    kept: Sessions,
    accounts: Accounts,
}

impl App {
    /// Connects to this database and creates the missing tables.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached or has unsuitable tables.
    pub async fn open(config: Config) -> Result<Self, BoxError> {
        let pool = Pool::builder(Manager::new(config, NoTls))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(LONGEST_WAIT))
            .create_timeout(Some(LONGEST_WAIT))
            .build()?;
        let client = pool.get().await?;
        client.batch_execute(USERS).await?;
        let store = || PgSessionStore::new(pool.clone()).with_lifetime(user::lifetime());
        store().migrate().await?;
        client.batch_execute(include_str!("tables.sql")).await?;
        let columns = "SET tower_user_session.audit_columns = 'impersonator_session'";
        client.batch_execute(columns).await?;
        client.batch_execute(AUDIT).await?;
        drop(client);
        store().check().await?;
        let kept = Sessions::builder(store()).cookie(SessionCookie::named("admin")?);
        Ok(Self {
            sessions: Sessions::new(store()),
            kept: kept.build()?,
            accounts: Accounts::new(pool)?,
        })
    }

    fn pool(&self) -> &Pool {
        self.sessions.store().pool()
    }
}

/// The pages.
pub fn router(app: App) -> Router {
    let users = || RequireUserLayer::<User>::new().sign_in_page("/");
    // An administrator must not change how the user signs in.
    let only_the_user = || users().allow_if(User::acts);
    // Old enough proofs are asked for again, the password first.
    let payments = users()
        .allow_if(User::has_second_factor)
        .forbidden_page("/code")
        .max_auth_age(RECENTLY)
        .reauthentication_page("/confirm");
    let admins = users()
        .allow_if(User::may_impersonate)
        .max_auth_age(RECENTLY);
    let code = get(second_factor::page).post(second_factor::check);
    let confirm = get(sign_in::confirm_page).post(sign_in::confirm);
    Router::new()
        .route("/", get(pages::home))
        .route("/sign-in", post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/confirm", confirm.layer(only_the_user()))
        .route("/code", code.layer(only_the_user()))
        .route("/payments", get(pages::payments).layer(payments))
        .route(
            "/password",
            post(sign_in::change_password).layer(only_the_user().max_auth_age(RECENTLY)),
        )
        .route("/impersonate", post(impersonation::start).layer(admins))
        .route("/impersonate/stop", post(impersonation::stop))
        .layer(LoadUserLayer::new(app.sessions.clone()))
        .layer(CsrfLayer::new())
        .with_state(app)
}

/// The secret of the users below, from RFC 6238, appendix B.
pub const SECRET: &[u8] = b"12345678901234567890";

/// Creates an administrator and a user, with one password and one secret. An application generates a
/// secret for each user.
///
/// # Errors
///
/// If the database cannot be reached.
pub async fn demonstration(app: &App) -> Result<(), BoxError> {
    for email in ["ada@example.com", "eve@example.com"] {
        let credentials = Credentials {
            email: email.to_owned(),
            password: "correct horse".to_owned(),
        };
        match app.accounts.sign_up(&credentials).await {
            Ok(_) | Err(AccountError::EmailTaken) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let client = app.pool().get().await?;
    let complete = "UPDATE users SET totp_secret = $1, is_admin = email LIKE 'ada@%'";
    client.execute(complete, &[&SECRET]).await?;
    Ok(())
}
