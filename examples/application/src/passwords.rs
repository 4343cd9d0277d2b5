use std::{sync::Arc, thread::available_parallelism, time::Duration};

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash, password_hash::phc};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::AccountError;

/// How long a request waits for its turn to hash a password before it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Hashes passwords with Argon2id and the parameters that OWASP recommends. A hash takes tens of
/// milliseconds and 19 MiB, on purpose. Therefore it runs outside the asynchronous threads, and at
/// most one hash per processor runs at a time.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    /// The hash that is checked if there is no user, so that the check takes the same time.
    nobodys: Arc<str>,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self, password_hash::Error> {
        let processors = available_parallelism().map_or(1, usize::from);
        Ok(Self {
            places: Arc::new(Semaphore::new(processors)),
            nobodys: hash("nobody's")?.into(),
        })
    }

    pub(crate) async fn hash(&self, password: &str) -> Result<String, AccountError> {
        let password = password.to_owned();
        self.run(move || hash(&password)).await
    }

    /// Returns whether the hash belongs to this password. Without a hash it returns `false` after
    /// the same time.
    pub(crate) async fn verify(
        &self,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool, AccountError> {
        let password = password.to_owned();
        let known = hash.is_some();
        let hash = hash.unwrap_or(&self.nobodys).to_owned();
        let same = self.run(move || verify(&password, &hash)).await?;
        Ok(known && same)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, password_hash::Error> + Send + 'static,
    ) -> Result<T, AccountError> {
        let place = timeout(LONGEST_WAIT, Arc::clone(&self.places).acquire_owned()).await;
        let place = place
            .map_err(|_| AccountError::Busy)?
            .map_err(AccountError::unavailable)?;
        let done = spawn_blocking(move || {
            // Released when the work is done, even if the caller was cancelled.
            let _place = place;
            work()
        });
        done.await
            .map_err(AccountError::unavailable)?
            .map_err(AccountError::unavailable)
    }
}

fn hash(password: &str) -> Result<String, password_hash::Error> {
    let hash = Argon2::default().hash_password(password.as_bytes())?;
    Ok(hash.to_string())
}

fn verify(password: &str, hash: &str) -> Result<bool, password_hash::Error> {
    let hash = phc::PasswordHash::new(hash)?;
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(error),
    }
}
