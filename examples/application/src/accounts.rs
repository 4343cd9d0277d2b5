use std::{error::Error as StdError, fmt};

use http::StatusCode;
use tower_user_session::{
    BoxError, Error, ErrorKind,
    deadpool_postgres::{Pool, Transaction},
};

use crate::{Credentials, passwords::Passwords};

/// Signing up, and making sure who somebody is.
#[derive(Clone)]
pub struct Accounts {
    pool: Pool,
    passwords: Passwords,
}

impl Accounts {
    pub(crate) fn new(pool: Pool) -> Result<Self, BoxError> {
        let passwords = Passwords::new()?;
        Ok(Self { pool, passwords })
    }

    /// Creates a user and says which.
    pub async fn sign_up(&self, credentials: &Credentials) -> Result<i64, AccountError> {
        let email = credentials.email().ok_or(AccountError::NotAnEmail)?;
        let password = credentials.password()?;
        let hash = self.passwords.hash(password).await?;

        let client = self.pool.get().await.map_err(AccountError::unavailable)?;
        let row = client
            .query_opt(
                "INSERT INTO users (email, password_hash) VALUES ($1, $2)
                 ON CONFLICT (email) DO NOTHING RETURNING id",
                &[&email, &hash],
            )
            .await
            .map_err(AccountError::unavailable)?;
        row.map(|row| row.get("id")).ok_or(AccountError::EmailTaken)
    }

    /// Whose e-mail and password these are. An unknown e-mail and a wrong password are one outcome,
    /// and take the same time.
    pub(crate) async fn check_password(
        &self,
        credentials: &Credentials,
    ) -> Result<Checked, AccountError> {
        let found = match credentials.email() {
            Some(email) => self.find(&email).await?,
            None => None,
        };
        let hash = found.as_ref().map(|found| &*found.password_hash);
        // A password that nobody can have is not worth hashing at its length.
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

    /// Gives a user another password in place of the one that was checked, as a part of this
    /// transaction.
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
        // Somebody else changed it meanwhile.
        if updated == 0 {
            Err(AccountError::WrongCredentials)
        } else {
            Ok(())
        }
    }

    /// Hashes a password that somebody has chosen, if it may be anybody's.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, AccountError> {
        let credentials = Credentials {
            password: password.to_owned(),
            ..Credentials::default()
        };
        self.passwords.hash(credentials.password()?).await
    }
}

/// A user whose password was right, and the hash that it was right for.
pub(crate) struct Checked {
    pub(crate) user_id: i64,
    pub(crate) password_hash: String,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

/// Why somebody was not signed up or in. `Display` is a sentence for that person.
#[derive(Debug)]
pub enum AccountError {
    /// The e-mail address cannot be one.
    NotAnEmail,
    /// The password has fewer than eight characters.
    PasswordTooShort,
    /// The password is longer than anybody types.
    PasswordTooLong,
    /// There is a user with this address.
    EmailTaken,
    /// No user, or not this password, or not a user who may sign in.
    WrongCredentials,
    /// Too many others are signing in.
    Busy,
    /// The database, or something else that is needed, does not answer. The cause is for the log.
    Unavailable(BoxError),
}

impl AccountError {
    pub(crate) fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// How this is said in HTTP.
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
    /// What a sign-in that failed means for the person.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::UserRefused | ErrorKind::NoSession => Self::WrongCredentials,
            _ => Self::unavailable(error),
        }
    }
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnEmail => "This is not an e-mail address.",
            Self::PasswordTooShort => "The password needs at least 8 characters.",
            Self::PasswordTooLong => "The password is too long.",
            Self::EmailTaken => "There is an account with this e-mail already.",
            Self::WrongCredentials => "The e-mail or the password is wrong.",
            Self::Busy => "Many people are signing in. Please try again in a moment.",
            Self::Unavailable(_) => "This does not work at the moment. Please try again later.",
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
