//! Sign-ins and revocations: the writes that lock a user.
//!
//! Each of them takes two round trips. The first round trip begins the transaction, waits for the
//! locks and reads the facts that the store decides by. The second round trip contains the changes
//! and `COMMIT`. The server decides whether to commit before the store knows the results of the
//! changes. A rejected change must therefore change nothing, or raise an error in SQL.

use std::borrow::Cow;

use tokio::join;
use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        check::NO_OUTER_JOIN,
        decode::{self, column},
        encoding::storable,
        errors,
        fence::Server,
        session_values::SessionValues,
        sql::{
            execution::{Executor, Ready},
            own_transaction::Unsent,
            statement::Statement,
        },
        store::PgSessionStore,
        user::PgUser,
    },
    session::{SessionId, TokenDigest},
    store::{InsertOutcome, NewSession, RevokeScope},
};

/// What the first round trip of a sign-in has found.
pub(super) enum BegunSignIn<'a> {
    Ready(ReadySignIn<'a>),
    /// Nothing is changed. The caller must roll back.
    Rejected(InsertOutcome),
}

/// The statements of a sign-in that has the locks, ready to be sent.
pub(super) struct ReadySignIn<'a> {
    insert: Ready<'a>,
    /// If the limit ends the oldest sessions: the statement, and the number of sessions that stay
    /// besides the new session.
    end_oldest: Option<(Ready<'a>, i64)>,
    /// The database's encoding.
    encoding: String,
    server: Server,
}

/// A revocation of one user's sessions.
pub(super) struct Revocation<'a, U: PgUser> {
    user_id: &'a U::Id,
    scope: RevokeScope,
    values: &'a SessionValues,
    revoke: Cow<'a, Statement>,
    none_left: Cow<'a, Statement>,
}

/// The statements of a revocation that has the lock, ready to be sent.
pub(super) struct ReadyRevocation<'a> {
    revoke: Ready<'a>,
    none_left: Ready<'a>,
    server: Server,
}

impl<U: PgUser> PgSessionStore<U> {
    /// Signs in as part of the application's transaction.
    pub(super) async fn insert_in(
        &self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
    ) -> Result<InsertOutcome, Error> {
        let insert = self.insert_statement(new)?;
        let mut replaced = Vec::new();
        let begun = self.begin_sign_in(executor, new, &insert, &mut replaced);
        match Box::pin(begun).await? {
            BegunSignIn::Ready(ready) => {
                let inserted = self.commit_sign_in(executor, new, &ready, &replaced);
                Box::pin(inserted).await
            }
            BegunSignIn::Rejected(outcome) => Ok(outcome),
        }
    }

    /// Revokes as part of the application's transaction.
    pub(super) async fn revoke_in(
        &self,
        executor: Executor<'_>,
        user_id: &U::Id,
        scope: RevokeScope,
    ) -> Result<Vec<SessionId>, Error> {
        let none = SessionValues::default();
        let revocation = self.revocation(user_id, scope, &none)?;
        let ready = Box::pin(self.begin_revocation(executor, &revocation)).await?;
        let revoked = self.commit_revocation(executor, &ready, &revocation);
        Box::pin(revoked).await
    }

    /// Returns the statement that inserts this session.
    pub(super) fn insert_statement(&self, new: &NewSession<'_, Self>) -> Result<Statement, Error> {
        let insert = &self.statements.insert;
        let insert = insert.with_preconditions(new.condition.columns());
        Ok(match new.values {
            Some(values) => values.applied_to::<U>(&insert)?.into_owned(),
            None => insert,
        })
    }

    /// Returns the revocation of those sessions in the scope whose columns have these values.
    pub(super) fn revocation<'a>(
        &'a self,
        user_id: &'a U::Id,
        scope: RevokeScope,
        values: &'a SessionValues,
    ) -> Result<Revocation<'a, U>, Error> {
        Ok(Revocation {
            user_id,
            scope,
            values,
            revoke: values.applied_to::<U>(&self.statements.revoke)?,
            none_left: values.applied_to::<U>(&self.statements.none_left)?,
        })
    }

    /// Begins the transaction and acquires the locks. The caller must roll back if the sign-in is
    /// rejected, and also after an error.
    ///
    /// `replaced` contains the sessions that an earlier attempt tried to replace. A concurrent
    /// rotation may have changed their digests since.
    pub(super) async fn begin_sign_in<'a>(
        &'a self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
        insert: &'a Statement,
        replaced: &mut Vec<SessionId>,
    ) -> Result<BegunSignIn<'a>, Error> {
        let none = SessionValues::default();
        let session_values = new.values.unwrap_or(&none);
        let live_sessions = session_values.applied_to::<U>(&self.statements.live_sessions)?;
        let (refuse_at, end_at) = match self.limit {
            Some(limit) if limit.ends_oldest => (None, Some(i64::from(limit.sessions))),
            limit => (limit.map(|limit| u64::from(limit.sessions)), None),
        };
        let changes = async {
            let end_oldest = self.ready_if(executor, end_at, &self.statements.end_oldest);
            let (insert, end_oldest) =
                join!(biased; self.execution.ready(executor, insert), end_oldest);
            let end_oldest = end_oldest?.map(|(ready, most)| (ready, most - 1));
            Ok::<_, Error>((insert?, end_oldest))
        };
        let locks = async {
            let live = self.ready_if(executor, refuse_at, &live_sessions);
            let lock = self.execution.ready(executor, &self.statements.lock);
            // Both are prepared before either is sent, because the locks must be acquired first.
            let (lock, live) = join!(biased; lock, live);
            let (lock, live) = (lock?, live?);
            let may_be_replaced = (replaced.len() + new.replaced.len()) as u64;
            let (idle, most) = (
                self.idle_seconds(),
                refuse_at.unwrap_or(0) + may_be_replaced,
            );
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let mut values: Vec<&(dyn ToSql + Sync)> = vec![new.user_id, &idle, &most];
            values.extend(session_values.values());
            let live = async {
                match &live {
                    Some((live, _)) => live.query(executor, &values).await.map(Some),
                    None => Ok(None),
                }
            };
            Ok::<_, Error>(
                join!(biased; self.lock(executor, &lock, new.user_id, new.replaced), live),
            )
        };
        let (begun, locks, changes) = join!(biased; executor.begin(), locks, changes);
        let server = begun?;
        let (locked, live) = locks?;
        let locked = locked?;
        replaced.extend(locked.replaced);
        let live = live?;
        if !locked.found_user {
            changes?;
            let rejected = self.reject_without_lock(executor, new).await;
            return rejected.map(BegunSignIn::Rejected);
        }
        if let (Some(most), Some(live)) = (refuse_at, live) {
            let mut live = ids(&live)?;
            live.retain(|id| !replaced.contains(id));
            if live.len() as u64 >= most {
                return Ok(BegunSignIn::Rejected(InsertOutcome::TooManySessions));
            }
        }
        let (insert, end_oldest) = changes?;
        Ok(BegunSignIn::Ready(ReadySignIn {
            insert,
            end_oldest,
            encoding: locked.encoding,
            server,
        }))
    }

    /// Inserts the session and commits. Nothing is changed unless the outcome is
    /// [`InsertOutcome::Inserted`].
    pub(super) async fn commit_sign_in(
        &self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
        ready: &ReadySignIn<'_>,
        replaced: &[SessionId],
    ) -> Result<InsertOutcome, Error> {
        let user_agent = storable(&ready.encoding, new.user_agent);
        let (lifetime, idle) = (new.lifetime.as_secs_f64(), self.idle_seconds());
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![
            &new.digest,
            new.user_id,
            &replaced,
            &lifetime,
            &new.remembered,
            &user_agent,
            &new.ip,
        ];
        values.extend(new.condition.values());
        values.extend(new.values.into_iter().flat_map(SessionValues::values));
        let end_oldest = async {
            match &ready.end_oldest {
                Some((end_oldest, others)) => {
                    let values: [&(dyn ToSql + Sync); 4] =
                        [new.user_id, &new.digest, &idle, others];
                    end_oldest.query(executor, &values).await
                }
                None => Ok(Vec::new()),
            }
        };
        let unsent = Unsent::default();
        let (inserted, oldest, committed) = join!(
            biased;
            unsent.watch(ready.insert.query(executor, &values)),
            unsent.watch(end_oldest),
            executor.commit(&unsent, ready.server),
        );
        let inserted = match inserted {
            Err(error) if errors::is_duplicate_digest(&error, &self.table.name) => {
                return committed.map(|()| InsertOutcome::DuplicateDigest);
            }
            inserted => inserted.map_err(|error| failed(executor, error))?,
        };
        let oldest = oldest.map_err(|error| failed(executor, error))?;
        committed?;
        let Some(row) = inserted.first() else {
            return Ok(InsertOutcome::UserRefused);
        };
        let decoded = || {
            Ok(InsertOutcome::Inserted {
                session: decode::current(row, 0)?,
                ended: column(row, 6)?,
                over_limit: ids(&oldest)?,
            })
        };
        decoded().map_err(Error::with_outcome_unknown)
    }

    /// Returns the outcome of a sign-in whose user has no lock, because [`PgUser::FROM`] does not
    /// find the user while the session columns are null. Without a lock, a concurrent revocation
    /// could miss the sign-in.
    async fn reject_without_lock(
        &self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
    ) -> Result<InsertOutcome, Error> {
        let allowed = &self.statements.allowed;
        let mut allowed = allowed.with_preconditions(new.condition.columns());
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![new.user_id];
        values.extend(new.condition.values());
        if let Some(session_values) = new.values {
            allowed = session_values.applied_to::<U>(&allowed)?.into_owned();
            values.extend(session_values.values());
        }
        let rows = self.execution.query(executor, &allowed, &values).await?;
        if column(rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?, 0)? {
            return Err(Error::from_kind(ErrorKind::Configuration).with_message(NO_OUTER_JOIN));
        }
        Ok(InsertOutcome::UserRefused)
    }

    /// Begins the transaction and acquires the user's lock. After an error, the caller must roll
    /// back.
    pub(super) async fn begin_revocation<'a>(
        &self,
        executor: Executor<'_>,
        revocation: &'a Revocation<'_, U>,
    ) -> Result<ReadyRevocation<'a>, Error> {
        let locked = async {
            let lock = self.execution.ready(executor, &self.statements.lock);
            self.lock(executor, &lock.await?, revocation.user_id, &[])
                .await
        };
        let (begun, locked, revoke, none_left) = join!(
            biased;
            executor.begin(),
            locked,
            self.execution.ready(executor, &revocation.revoke),
            self.execution.ready(executor, &revocation.none_left),
        );
        let server = begun?;
        locked?;
        Ok(ReadyRevocation {
            revoke: revoke?,
            none_left: none_left?,
            server,
        })
    }

    /// Deletes the sessions and commits. After an error, no session has ended, unless the outcome
    /// is unknown.
    pub(super) async fn commit_revocation(
        &self,
        executor: Executor<'_>,
        ready: &ReadyRevocation<'_>,
        revocation: &Revocation<'_, U>,
    ) -> Result<Vec<SessionId>, Error> {
        let (only, except) = match revocation.scope {
            RevokeScope::One(id) => (Some(id), None),
            RevokeScope::AllExcept(id) => (None, Some(id)),
            RevokeScope::All => (None, None),
        };
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![revocation.user_id, &only, &except];
        values.extend(revocation.values.values());
        let unsent = Unsent::default();
        let (ended, none_left, committed) = join!(
            biased;
            unsent.watch(ready.revoke.query(executor, &values)),
            unsent.watch(ready.none_left.query(executor, &values)),
            executor.commit(&unsent, ready.server),
        );
        let ended = ended.map_err(|error| failed(executor, error))?;
        none_left.map_err(|error| failed(executor, error))?;
        committed?;
        ids(&ended).map_err(Error::with_outcome_unknown)
    }

    async fn ready_if<'a, T>(
        &self,
        executor: Executor<'_>,
        limit: Option<T>,
        statement: &'a Statement,
    ) -> Result<Option<(Ready<'a>, T)>, Error> {
        Ok(match limit {
            Some(limit) => Some((self.execution.ready(executor, statement).await?, limit)),
            None => None,
        })
    }

    /// Acquires the locks of this user, and of the owners of the replaced sessions, until the
    /// transaction ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the transaction's isolation level is above `READ COMMITTED`,
    /// because its snapshot could be older than what the lock has waited for. [`ErrorKind::Schema`]
    /// if a policy hides sessions.
    async fn lock(
        &self,
        executor: Executor<'_>,
        lock: &Ready<'_>,
        user_id: &U::Id,
        replaced: &[TokenDigest],
    ) -> Result<Locked, Error> {
        let table = self.table.to_sql();
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &table, &replaced];
        let rows = lock.query(executor, &values).await?;
        let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
        if column(row, 3)? {
            return Err(Error::from_kind(ErrorKind::Schema).with_message(
                "row-level security hides sessions from the role, which therefore cannot end \
                 them: PgSessionStore::check returns the remedy",
            ));
        }
        if column(row, 0)? {
            return Ok(Locked {
                replaced: column(row, 2)?,
                encoding: column(row, 4)?,
                found_user: U::SESSION_COLUMNS.is_empty() || column(row, 5)?,
            });
        }
        Err(Error::from_kind(ErrorKind::Configuration).with_message(
            "the transaction's isolation level is above READ COMMITTED: begin it with ISOLATION \
             LEVEL READ COMMITTED",
        ))
    }
}

/// The result of `lock.sql`.
struct Locked {
    /// The sessions that are replaced.
    replaced: Vec<SessionId>,
    /// The database's encoding.
    encoding: String,
    /// Whether the user's lock was acquired, if there are session columns. A user who does not exist
    /// has no lock.
    found_user: bool,
}

/// Converts the error of a statement with which `COMMIT` was sent.
fn failed(executor: Executor<'_>, error: Error) -> Error {
    executor.before_commit(errors::suppressed(error))
}

pub(super) fn ids(rows: &[Row]) -> Result<Vec<SessionId>, Error> {
    rows.iter().map(|row| column(row, 0)).collect()
}
