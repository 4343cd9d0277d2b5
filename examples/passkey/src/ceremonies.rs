//! The state between the two requests of a ceremony. It stays on the server, counts once, and
//! expires after five minutes.
//!
//! It is in the memory of this process. With several processes, use a table.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, header};
use tower_user_session::{
    BoxError,
    session::{SessionToken, TokenDigest},
};
use uuid::Uuid;
use webauthn_rs::prelude::{PasskeyAuthentication, PasskeyRegistration};

const COOKIE: &str = "ceremony";
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// A client can begin ceremonies without limit. The oldest are dropped.
const MOST: usize = 10_000;

pub(crate) enum Ceremony {
    Registration {
        user_id: Uuid,
        name: String,
        state: PasskeyRegistration,
    },
    SignIn {
        user_id: Uuid,
        state: PasskeyAuthentication,
    },
}

#[derive(Clone, Default)]
pub(crate) struct Ceremonies(Arc<Mutex<HashMap<TokenDigest, (Instant, Ceremony)>>>);

impl Ceremonies {
    /// Stores the state, and returns the cookie that names it. Over TLS, the cookie should have the
    /// prefix `__Host-` and the attribute `Secure`.
    pub(crate) fn begin(&self, ceremony: Ceremony) -> Result<HeaderValue, BoxError> {
        let token = SessionToken::generate()?;
        let mut ceremonies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ceremonies.retain(|_, (begun, _)| begun.elapsed() < LONGEST);
        if ceremonies.len() >= MOST {
            let oldest = ceremonies.iter().min_by_key(|(_, (begun, _))| *begun);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                ceremonies.remove(&oldest);
            }
        }
        ceremonies.insert(token.digest(), (Instant::now(), ceremony));
        let cookie = format!(
            "{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}",
            token.expose(),
            LONGEST.as_secs()
        );
        Ok(cookie.try_into()?)
    }

    /// Removes the state that the request's cookie names.
    pub(crate) fn take(&self, headers: &HeaderMap) -> Option<Ceremony> {
        let lines = headers.get_all(header::COOKIE).iter();
        let mut pairs = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split("; "));
        let token = pairs.find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))?;
        let digest = SessionToken::parse(token.as_bytes())?.digest();
        let mut ceremonies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, ceremony) = ceremonies.remove(&digest)?;
        (begun.elapsed() < LONGEST).then_some(ceremony)
    }
}
