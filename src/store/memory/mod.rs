//! In-memory store with a manual clock, for tests and for examples without a database server.

mod columns;
mod conditions;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{
    error::{Error, ErrorKind},
    session::{
        Lifetime, Session, SessionId, SessionInfo, SessionLimit, SessionTimestamps, TokenDigest,
        UserKey,
    },
    store::{
        EndedSession, ExpiredBatch, InsertOutcome, LookupResult, NewSession, RemainingLifetime,
        RevokeScope, RotateOutcome, SessionLookup, SessionStore, SessionUse,
    },
};

use self::{columns::Apply, conditions::Columns};
pub use self::{
    columns::{MemorySessionRow, MemorySessionValues},
    conditions::MemoryConditions,
};

/// A [`SessionStore`] in memory, for an application's tests.
///
/// The store behaves like the PostgreSQL store. A test compares the two stores. Only
/// [`advance`](Self::advance) moves the clock of this store. A test of expiry therefore does not
/// need to wait.
///
/// ```
/// use std::time::Duration;
/// use tower_user_session::{SessionService, session::Lifetime, store::MemorySessionStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_user_session::Error> {
/// let hour = Duration::from_secs(60 * 60);
/// let store = MemorySessionStore::new().with_lifetime(Lifetime::absolute(hour)?);
/// store.add_user(7, "Ada");
/// let sessions = SessionService::new(store);
///
/// let signed_in = sessions.sign_in_without_request(7).await?;
/// sessions.store().advance(hour);
/// assert_eq!(sessions.user(signed_in.token()).await?, None);
/// # Ok(())
/// # }
/// ```
#[doc(alias("mock", "test"))]
pub struct MemorySessionStore<I, U> {
    lifetime: Lifetime,
    limit: Option<SessionLimit>,
    session_columns: &'static [&'static str],
    apply: Option<Apply<U>>,
    state: Mutex<State<I, U>>,
}

struct State<I, U> {
    now: SystemTime,
    users: HashMap<I, Arc<U>>,
    disabled: HashSet<I>,
    columns: Columns<I>,
    sessions: HashMap<TokenDigest, Row<I>>,
    failing: bool,
}

struct Row<I> {
    user_id: I,
    remembered: bool,
    info: SessionInfo,
    values: MemorySessionValues,
}

impl<I> Row<I> {
    fn is_live(&self, now: SystemTime, lifetime: Lifetime) -> bool {
        let idle = now
            .duration_since(self.info.last_seen_at)
            .unwrap_or_default();
        self.expires_at(lifetime) > now && lifetime.idle_limit().is_none_or(|limit| idle < limit)
    }

    fn expires_at(&self, lifetime: Lifetime) -> SystemTime {
        let limit = self.info.created_at + lifetime.absolute_limit();
        self.info.expires_at.min(limit)
    }

    fn session(&self, now: SystemTime, lifetime: Lifetime) -> Session {
        Session::new(
            self.info.id,
            SessionTimestamps {
                created_at: self.info.created_at,
                authenticated_at: self.info.authenticated_at,
                last_seen_at: self.info.last_seen_at,
                expires_at: self.expires_at(lifetime),
                now,
            },
        )
    }
}

impl<I, U> Default for MemorySessionStore<I, U> {
    fn default() -> Self {
        let state = State {
            now: SystemTime::now(),
            users: HashMap::new(),
            disabled: HashSet::new(),
            columns: Columns::default(),
            sessions: HashMap::new(),
            failing: false,
        };
        Self {
            lifetime: Lifetime::default(),
            limit: None,
            session_columns: &[],
            apply: None,
            state: Mutex::new(state),
        }
    }
}

impl<I: Clone + Eq + Hash, U> MemorySessionStore<I, U> {
    /// Returns a store without users and without sessions.
    ///
    /// The store's clock starts at the current time. The lifetime is [`Lifetime::default`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the absolute limit and the idle limit of the sessions.
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the session limit of a user. The default is no limit.
    pub fn with_session_limit(mut self, limit: SessionLimit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Adds a user, or replaces the user with this key.
    pub fn add_user(&self, id: I, user: U) {
        self.state().users.insert(id, Arc::new(user));
    }

    /// Deletes a user and ends the user's sessions, like the foreign key in PostgreSQL.
    pub fn remove_user(&self, id: &I) {
        let mut state = self.state();
        state.users.remove(id);
        state.disabled.remove(id);
        state.columns.remove(id);
        state.sessions.retain(|_, row| row.user_id != *id);
    }

    /// Sets whether the user is disabled. A disabled user does not meet the store's condition.
    ///
    /// The sessions of a disabled user are rejected. The sessions are valid again if the user is
    /// enabled before they expire.
    pub fn set_disabled(&self, id: I, disabled: bool) {
        let mut state = self.state();
        if disabled {
            state.disabled.insert(id);
        } else {
            state.disabled.remove(&id);
        }
    }

    /// Moves the clock forward.
    pub fn advance(&self, time: Duration) {
        self.state().now += time;
    }

    /// Sets whether every operation fails with [`ErrorKind::Connection`].
    ///
    /// Use it to simulate an unreachable database in a test.
    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }

    fn state(&self) -> MutexGuard<'_, State<I, U>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_unless_failing(&self) -> Result<MutexGuard<'_, State<I, U>>, Error> {
        let state = self.state();
        if state.failing {
            Err(Error::from_kind(ErrorKind::Connection))
        } else {
            Ok(state)
        }
    }
}

impl<I: Clone + Eq + Hash, U: Clone> State<I, U> {
    fn allowed(&self, id: &I) -> Option<&Arc<U>> {
        self.users.get(id).filter(|_| !self.disabled.contains(id))
    }

    fn live_sessions_of(&self, id: &I, lifetime: Lifetime) -> Vec<TokenDigest> {
        let of_user = |row: &Row<I>| row.user_id == *id && row.is_live(self.now, lifetime);
        self.sessions
            .iter()
            .filter(|(_, row)| of_user(row))
            .map(|(digest, _)| *digest)
            .collect()
    }

    fn remove_where(&mut self, matches: impl Fn(&Row<I>) -> bool) -> Vec<SessionId> {
        let removed = self.sessions.extract_if(|_, row| matches(row));
        removed.map(|(_, row)| row.info.id).collect()
    }
}

impl<I, U> SessionLookup for MemorySessionStore<I, U>
where
    I: Clone + Eq + Hash + Send + Sync + 'static,
    U: Clone + Send + Sync + 'static,
{
    type User = U;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<U>>, Error> {
        let state = self.state_unless_failing()?;
        let now = state.now;
        let look_up = |digest: &TokenDigest| {
            let live = state
                .sessions
                .get(digest)
                .filter(|row| row.is_live(now, self.lifetime));
            match live.and_then(|row| Some((row, state.allowed(&row.user_id)?))) {
                Some((row, user)) => match self.applied(user, &row.values) {
                    Ok(user) => {
                        let session = row.session(now, self.lifetime);
                        LookupResult::live_shared(*digest, user, session)
                            .with_user_key(user_key(&row.user_id))
                    }
                    Err(error) => {
                        LookupResult::failed(*digest, Error::new(ErrorKind::Decode, error))
                    }
                },
                None => LookupResult::absent(*digest),
            }
        };
        Ok(digests.iter().map(look_up).collect())
    }

    fn touch_interval(&self) -> Option<Duration> {
        Some(self.lifetime.touch_interval())
    }

    async fn touch(&self, uses: &[SessionUse]) -> Result<(), Error> {
        let mut state = self.state_unless_failing()?;
        let now = state.now;
        for row in state
            .sessions
            .values_mut()
            .filter(|row| row.is_live(now, self.lifetime))
        {
            for used in uses.iter().filter(|used| used.session == row.info.id) {
                if used.at >= row.info.last_seen_at + self.lifetime.touch_interval() {
                    row.info.last_seen_at = used.at;
                }
            }
        }
        Ok(())
    }
}

impl<I, U> SessionStore for MemorySessionStore<I, U>
where
    I: Clone + Eq + Hash + Send + Sync + 'static,
    U: Clone + Send + Sync + 'static,
{
    type UserId = I;
    type Condition = MemoryConditions;
    type SessionValues = MemorySessionValues;

    fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    async fn insert(&self, new: NewSession<'_, Self>) -> Result<InsertOutcome, Error> {
        let values = new.values.cloned().unwrap_or_default();
        values.check(self.session_columns)?;
        let mut state = self.state_unless_failing()?;
        if state.allowed(new.user_id).is_none()
            || !state.columns.meet(new.user_id, new.condition)?
        {
            return Ok(InsertOutcome::UserRefused);
        }
        if state.sessions.contains_key(&new.digest) {
            return Ok(InsertOutcome::DuplicateDigest);
        }
        let mut others = state.live_sessions_of(new.user_id, self.lifetime);
        others.retain(|digest| !new.replaced.contains(digest));
        others.sort_by_key(|digest| state.sessions[digest].info.created_at);
        if let Some(limit) = self.limit {
            let surplus = (others.len() + 1).saturating_sub(limit.sessions as usize);
            if surplus > 0 && !limit.ends_oldest {
                return Ok(InsertOutcome::TooManySessions);
            }
            others.truncate(surplus);
        } else {
            others.clear();
        }
        let mut end = |digests: &[TokenDigest]| -> Vec<SessionId> {
            let rows = digests
                .iter()
                .filter_map(|digest| state.sessions.remove(digest));
            rows.map(|row| row.info.id).collect()
        };
        let (over_limit, ended) = (end(&others), end(new.replaced));
        let now = state.now;
        let times = SessionTimestamps {
            created_at: now,
            authenticated_at: now,
            last_seen_at: now,
            expires_at: now + new.lifetime,
            now,
        };
        let session = Session::new(random_id()?, times);
        let mut info = SessionInfo::new(&session);
        info.user_agent = new.user_agent.map(str::to_owned);
        info.ip = new.ip;
        let row = Row {
            user_id: new.user_id.clone(),
            remembered: new.remembered,
            info,
            values,
        };
        state.sessions.insert(new.digest, row);
        Ok(InsertOutcome::Inserted {
            session,
            ended,
            over_limit,
        })
    }

    async fn rotate(
        &self,
        user_id: &I,
        old: &[TokenDigest],
        new: TokenDigest,
        values: &MemorySessionValues,
    ) -> Result<RotateOutcome, Error> {
        values.check(self.session_columns)?;
        let mut state = self.state_unless_failing()?;
        if state.sessions.contains_key(&new) {
            return Ok(RotateOutcome::DuplicateDigest);
        }
        let live = state.live_sessions_of(user_id, self.lifetime);
        let current = old.iter().find(|digest| live.contains(digest));
        let allowed = state.allowed(user_id).is_some();
        let now = state.now;
        match current
            .filter(|_| allowed)
            .and_then(|digest| state.sessions.remove(digest))
        {
            None => Ok(RotateOutcome::NotFound),
            Some(mut row) => {
                row.info.authenticated_at = now;
                row.info.last_seen_at = now;
                row.values.extend(values);
                let outcome = RotateOutcome::Rotated {
                    session: row.session(now, self.lifetime),
                    remembered: row.remembered,
                };
                state.sessions.insert(new, row);
                Ok(outcome)
            }
        }
    }

    async fn update(
        &self,
        session: SessionId,
        values: &MemorySessionValues,
    ) -> Result<bool, Error> {
        values.check(self.session_columns)?;
        let mut state = self.state_unless_failing()?;
        let State {
            now,
            users,
            disabled,
            sessions,
            ..
        } = &mut *state;
        let allowed = |id: &I| users.contains_key(id) && !disabled.contains(id);
        let row = sessions.values_mut().find(|row| {
            row.info.id == session && row.is_live(*now, self.lifetime) && allowed(&row.user_id)
        });
        let Some(row) = row else {
            return Ok(false);
        };
        row.values.extend(values);
        Ok(true)
    }

    async fn revoke_where(
        &self,
        user_id: Option<&I>,
        values: &MemorySessionValues,
    ) -> Result<Vec<SessionId>, Error> {
        values.check(self.session_columns)?;
        Ok(self.state_unless_failing()?.remove_where(|row| {
            user_id.is_none_or(|id| row.user_id == *id) && row.values.match_all(values)
        }))
    }

    async fn delete(&self, digests: &[TokenDigest]) -> Result<Vec<EndedSession>, Error> {
        let mut state = self.state_unless_failing()?;
        let remove = |digest: &TokenDigest| {
            let row = state.sessions.remove(digest)?;
            Some(EndedSession::new(*digest, row.info.id))
        };
        Ok(digests.iter().filter_map(remove).collect())
    }

    async fn list(&self, user_id: &I) -> Result<Vec<SessionInfo>, Error> {
        let state = self.state_unless_failing()?;
        let live = state.live_sessions_of(user_id, self.lifetime);
        let mut infos: Vec<_> = live
            .iter()
            .map(|digest| state.sessions[digest].info.clone())
            .collect();
        infos.sort_by_key(|info| std::cmp::Reverse((info.last_seen_at, info.created_at, info.id)));
        Ok(infos)
    }

    async fn revoke(&self, user_id: &I, scope: RevokeScope) -> Result<Vec<SessionId>, Error> {
        Ok(self.state_unless_failing()?.remove_where(|row| {
            row.user_id == *user_id
                && match scope {
                    RevokeScope::One(id) => row.info.id == id,
                    RevokeScope::AllExcept(id) => row.info.id != id,
                    RevokeScope::All => true,
                }
        }))
    }

    async fn revoke_everyone(&self) -> Result<u64, Error> {
        Ok(self.state_unless_failing()?.remove_where(|_| true).len() as u64)
    }

    async fn remaining_lifetimes(
        &self,
        ids: &[SessionId],
    ) -> Result<Vec<RemainingLifetime>, Error> {
        let state = self.state_unless_failing()?;
        let (now, idle_limit) = (state.now, self.lifetime.idle_limit());
        let live = state.sessions.values().filter(|row| {
            ids.contains(&row.info.id)
                && row.is_live(now, self.lifetime)
                && !state.disabled.contains(&row.user_id)
        });
        Ok(live
            .map(|row| {
                let remaining = row.session(now, self.lifetime).limit_in(idle_limit);
                RemainingLifetime::new(row.info.id, remaining).with_user_key(user_key(&row.user_id))
            })
            .collect())
    }

    async fn delete_expired(&self, _: Option<u64>) -> Result<ExpiredBatch, Error> {
        let mut state = self.state_unless_failing()?;
        let now = state.now;
        let sessions = state.remove_where(|row| !row.is_live(now, self.lifetime));
        Ok(ExpiredBatch::new(sessions.len() as u64, None))
    }
}

fn user_key<I: Hash>(id: &I) -> UserKey {
    UserKey::from_hash(BuildHasherDefault::<DefaultHasher>::new().hash_one(id))
}

fn random_id() -> Result<SessionId, Error> {
    let random = crate::session::SessionToken::generate()?.digest();
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
