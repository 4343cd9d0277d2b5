//! Password hashes with Argon2id. A hash takes tens of milliseconds on purpose, and therefore runs
//! outside the asynchronous threads.

use argon2::{
    Argon2, PasswordHasher as _, PasswordVerifier as _,
    password_hash::{self, phc},
};
use tokio::task::spawn_blocking;
use tower_user_session::BoxError;

/// Returns the hash of a password, with its parameters and salt.
pub async fn hash(password: String) -> Result<String, BoxError> {
    let hash = spawn_blocking(move || {
        let hash = Argon2::default().hash_password(password.as_bytes())?;
        Ok::<_, password_hash::Error>(hash.to_string())
    });
    Ok(hash.await??)
}

/// Returns whether the hash belongs to this password. Without a hash it returns `false` after about
/// the same time, so that a client cannot learn which users exist.
pub async fn verify(password: String, expected: Option<String>) -> Result<bool, BoxError> {
    let Some(expected) = expected else {
        hash(password).await?;
        return Ok(false);
    };
    let verified = spawn_blocking(move || {
        let expected = phc::PasswordHash::new(&expected)?;
        match Argon2::default().verify_password(password.as_bytes(), &expected) {
            Ok(()) => Ok(true),
            Err(password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(error),
        }
    });
    Ok(verified.await??)
}
