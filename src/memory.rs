//! Sessions in memory, with a clock that stands still: for tests, and for documentation that runs
//! without a server.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use http::HeaderValue;

use crate::{
    CurrentSession, Error, ErrorKind, Insertion, Lifetime, LookupAnswer, NewSession, SessionId,
    SessionLookup, SessionService, SessionStore, SessionTimes, TokenDigest,
};

/// A [`SessionStore`] in memory, for an application's own tests.
///
/// It behaves as the PostgreSQL store does; the two are compared by a test. Its clock stands still
/// until [`advance`](Self::advance) moves it, so that a test of expiry waits for nothing.
///
/// ```
/// use std::time::Duration;
/// use tower_user_session::{Lifetime, MemorySessionStore, SessionService};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_user_session::Error> {
/// let hour = Duration::from_secs(60 * 60);
/// let store = MemorySessionStore::new().with_lifetime(Lifetime::absolute(hour)?);
/// store.add_user(7, "Ada");
/// let sessions = SessionService::new(store);
///
/// let signed_in = sessions.sign_in(7).await?;
/// sessions.store().advance(hour);
/// assert_eq!(sessions.user(signed_in.token()).await?, None);
/// # Ok(())
/// # }
/// ```
pub struct MemorySessionStore<I, U> {
    lifetime: Lifetime,
    state: Mutex<State<I, U>>,
}

struct State<I, U> {
    now: SystemTime,
    users: HashMap<I, U>,
    disabled: HashSet<I>,
    sessions: HashMap<TokenDigest, Row<I>>,
    failing: bool,
}

struct Row<I> {
    user_id: I,
    id: SessionId,
    created_at: SystemTime,
    expires_at: SystemTime,
}

impl<I, U> Default for MemorySessionStore<I, U> {
    fn default() -> Self {
        let state = State {
            now: SystemTime::now(),
            users: HashMap::new(),
            disabled: HashSet::new(),
            sessions: HashMap::new(),
            failing: false,
        };
        Self {
            lifetime: Lifetime::default(),
            state: Mutex::new(state),
        }
    }
}

impl<I: Clone + Eq + Hash, U> MemorySessionStore<I, U> {
    /// A store without users.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long sessions live.
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Adds a user, or replaces the one with this key.
    pub fn add_user(&self, id: I, user: U) {
        self.state().users.insert(id, user);
    }

    /// Deletes a user, and ends their sessions as the foreign key does.
    pub fn remove_user(&self, id: &I) {
        let mut state = self.state();
        state.users.remove(id);
        state.disabled.remove(id);
        state.sessions.retain(|_, row| row.user_id != *id);
    }

    /// Sets whether a user fails the condition for being signed in. Their sessions stay, and work
    /// again once the user does not.
    pub fn set_disabled(&self, id: I, disabled: bool) {
        let mut state = self.state();
        if disabled {
            state.disabled.insert(id);
        } else {
            state.disabled.remove(&id);
        }
    }

    /// Moves the clock.
    pub fn advance(&self, time: Duration) {
        self.state().now += time;
    }

    /// Sets whether every operation fails, as with a database that cannot be reached.
    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }

    fn state(&self) -> MutexGuard<'_, State<I, U>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> Result<MutexGuard<'_, State<I, U>>, Error> {
        let state = self.state();
        if state.failing {
            Err(Error::bare(ErrorKind::Connection))
        } else {
            Ok(state)
        }
    }
}

impl<I: Clone + Eq + Hash, U: Clone> State<I, U> {
    fn allowed(&self, id: &I) -> Option<&U> {
        self.users.get(id).filter(|_| !self.disabled.contains(id))
    }

    fn find(&self, digest: TokenDigest) -> LookupAnswer<U> {
        let live = self
            .sessions
            .get(&digest)
            .filter(|row| row.expires_at > self.now);
        match live.and_then(|row| Some((row, self.allowed(&row.user_id)?))) {
            Some((row, user)) => LookupAnswer::live(digest, user.clone(), self.current(row)),
            None => LookupAnswer::absent(digest),
        }
    }

    fn current(&self, row: &Row<I>) -> CurrentSession {
        CurrentSession::new(
            row.id,
            SessionTimes {
                created_at: row.created_at,
                authenticated_at: row.created_at,
                last_seen_at: row.created_at,
                expires_at: row.expires_at,
                now: self.now,
            },
        )
    }
}

impl<I, U> SessionLookup for MemorySessionStore<I, U>
where
    I: Clone + Eq + Hash + Send + Sync + 'static,
    U: Clone + Send + Sync + 'static,
{
    type User = U;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupAnswer<U>>, Error> {
        let state = self.working()?;
        Ok(digests.iter().map(|digest| state.find(*digest)).collect())
    }
}

impl<I, U> SessionStore for MemorySessionStore<I, U>
where
    I: Clone + Eq + Hash + Send + Sync + 'static,
    U: Clone + Send + Sync + 'static,
{
    type UserId = I;

    fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    async fn insert(&self, new: NewSession<'_, I>) -> Result<Insertion, Error> {
        let mut state = self.working()?;
        if state.allowed(new.user_id).is_none() {
            return Ok(Insertion::UserRefused);
        }
        if state.sessions.contains_key(&new.digest) {
            return Ok(Insertion::DigestTaken);
        }
        for digest in new.replaced {
            state.sessions.remove(digest);
        }
        let now = state.now;
        let row = Row {
            user_id: new.user_id.clone(),
            id: random_id()?,
            created_at: now,
            expires_at: now + new.lifetime,
        };
        let session = state.current(&row);
        state.sessions.insert(new.digest, row);
        Ok(Insertion::Done(session))
    }

    async fn delete(&self, digests: &[TokenDigest]) -> Result<u64, Error> {
        let mut state = self.working()?;
        let ended = digests
            .iter()
            .filter(|digest| state.sessions.remove(digest).is_some());
        Ok(ended.count() as u64)
    }
}

fn random_id() -> Result<SessionId, Error> {
    let random = crate::SessionToken::generate()?.digest();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&random.as_bytes()[..16]);
    Ok(SessionId::from_bytes(
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .into_bytes(),
    ))
}

impl<I, U> fmt::Debug for MemorySessionStore<I, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySessionStore").finish_non_exhaustive()
    }
}

impl<S: SessionStore> SessionService<S> {
    /// Signs this user in and returns the `Cookie` header of a request with that session, for an
    /// application's tests. Works with every store.
    ///
    /// ```
    /// # use tower_user_session::{MemorySessionStore, SessionService};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = SessionService::new(MemorySessionStore::new());
    /// sessions.store().add_user(7, "Ada");
    /// let cookie = sessions.cookie_for(7).await?;
    /// let request = http::Request::builder().header("cookie", cookie).body(())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`sign_in`](Self::sign_in).
    pub async fn cookie_for(&self, user_id: S::UserId) -> Result<HeaderValue, Error> {
        let signed_in = self.sign_in(user_id).await?;
        let cookie = format!("{}={}", self.cookie().name(), signed_in.token().expose());
        HeaderValue::try_from(cookie).map_err(|error| Error::new(ErrorKind::Configuration, error))
    }
}
