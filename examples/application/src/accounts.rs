use std::{error::Error as StdError, fmt};

use http::StatusCode;
use tower_user_session::{
    BoxError, Error, ErrorKind,
    deadpool_postgres::{Pool, Transaction},
    tokio_postgres::GenericClient,
};

use crate::{Credentials, passwords::Passwords};

/// Creates accounts and checks passwords.
#[derive(Clone)]
pub struct Accounts {
    pool: Pool,
    passwords: Passwords,
}

impl Accounts {
    /// Uses the users table of this database.
    pub fn new(pool: Pool) -> Result<Self, BoxError> {
        let passwords = Passwords::new()?;
        Ok(Self { pool, passwords })
    }

    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Creates a user and returns the key.
    pub async fn sign_up(&self, credentials: &Credentials) -> Result<i64, AccountError> {
        let new = self.new_account(credentials).await?;
        let client = self.pool.get().await.map_err(AccountError::unavailable)?;
        new.insert(&**client).await
    }

    /// Checks the input and hashes the password, before a connection is in use.
    pub(crate) async fn new_account(
        &self,
        credentials: &Credentials,
    ) -> Result<NewAccount, AccountError> {
        let email = credentials.email().ok_or(AccountError::NotAnEmail)?;
        let password = credentials.password()?;
        let password_hash = self.passwords.hash(password).await?;
        Ok(NewAccount {
            email,
            password_hash,
        })
    }

    /// Returns the user with this email and password. An unknown email and a wrong password are the
    /// same error and take the same time.
    pub async fn check_password(&self, credentials: &Credentials) -> Result<Checked, AccountError> {
        let found = match credentials.email() {
            Some(email) => self.find(&email).await?,
            None => None,
        };
        let hash = found.as_ref().map(|found| &*found.password_hash);
        // An invalid password belongs to no user, so its length need not be hashed.
        let password = credentials.password().unwrap_or_default();
        let right = self.passwords.verify(password, hash).await?;
        found
            .filter(|_| right)
            .ok_or(AccountError::WrongCredentials)
    }

    async fn find(&self, email: &str) -> Result<Option<Checked>, AccountError> {
        let client = self.pool.get().await.map_err(AccountError::unavailable)?;
        let row = client
            .query_opt(
                "SELECT id, password_hash FROM users WHERE email = $1",
                &[&email],
            )
            .await
            .map_err(AccountError::unavailable)?;
        Ok(row.map(|row| Checked {
            user_id: row.get("id"),
            password_hash: row.get("password_hash"),
        }))
    }

    /// Replaces the password that was checked, within this transaction.
    pub(crate) async fn replace_password(
        &self,
        transaction: &Transaction<'_>,
        checked: &Checked,
        hash: &str,
    ) -> Result<(), AccountError> {
        let update = "UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3";
        let updated = transaction
            .execute(update, &[&hash, &checked.user_id, &checked.password_hash])
            .await
            .map_err(AccountError::unavailable)?;
        // Another request has changed the password since the check.
        if updated == 0 {
            Err(AccountError::WrongCredentials)
        } else {
            Ok(())
        }
    }

    /// Hashes a new password if it is valid.
    pub async fn hash(&self, password: &str) -> Result<String, AccountError> {
        let credentials = Credentials {
            password: password.to_owned(),
            ..Credentials::default()
        };
        self.passwords.hash(credentials.password()?).await
    }
}

/// A user who is not in the database yet.
pub(crate) struct NewAccount {
    email: String,
    password_hash: String,
}

impl NewAccount {
    /// Returns the key of the new user.
    pub(crate) async fn insert(&self, client: &impl GenericClient) -> Result<i64, AccountError> {
        let insert = "INSERT INTO users (email, password_hash) VALUES ($1, $2)
            ON CONFLICT (email) DO NOTHING RETURNING id";
        let row = client
            .query_opt(insert, &[&self.email, &self.password_hash])
            .await
            .map_err(AccountError::unavailable)?;
        row.map(|row| row.get("id")).ok_or(AccountError::EmailTaken)
    }
}

/// A user whose password was checked.
#[expect(
    missing_debug_implementations,
    reason = "a hash does not belong into a log"
)]
pub struct Checked {
    /// The user's key.
    pub user_id: i64,
    /// The hash that the password was compared with.
    pub password_hash: String,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

/// The reason why a sign-up or a sign-in failed. `Display` is a sentence for the user.
#[derive(Debug)]
pub enum AccountError {
    /// The text is not a valid email address.
    NotAnEmail,
    /// The password has fewer than eight characters.
    PasswordTooShort,
    /// The password is longer than 256 bytes.
    PasswordTooLong,
    /// Another user has this address.
    EmailTaken,
    /// The user does not exist, has another password, or may not sign in.
    WrongCredentials,
    /// Too many sign-ins are waiting.
    Busy,
    /// The database or another dependency is not available. The cause is for the log.
    Unavailable(BoxError),
}

impl AccountError {
    pub(crate) fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// Returns the HTTP status for this error.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAnEmail | Self::PasswordTooShort | Self::PasswordTooLong => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::EmailTaken => StatusCode::CONFLICT,
            Self::WrongCredentials => StatusCode::UNAUTHORIZED,
            Self::Busy | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<Error> for AccountError {
    /// Converts the error of a sign-in into an error for the user.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::UserNotAllowed | ErrorKind::SessionNotFound => Self::WrongCredentials,
            _ => Self::unavailable(error),
        }
    }
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnEmail => "This is not an email address.",
            Self::PasswordTooShort => "The password needs at least 8 characters.",
            Self::PasswordTooLong => "The password is too long.",
            Self::EmailTaken => "An account with this email exists already.",
            Self::WrongCredentials => "The email or the password is wrong.",
            Self::Busy => "The server is busy. Please try again in a moment.",
            Self::Unavailable(_) => "The service is not available. Please try again later.",
        })
    }
}

impl StdError for AccountError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable(cause) => Some(&**cause),
            _ => None,
        }
    }
}
