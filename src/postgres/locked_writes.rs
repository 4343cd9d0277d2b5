//! Sign-ins and revocations: the writes that lock a user.
//!
//! Each of them takes two round trips. The first round trip begins the transaction, waits for the
//! locks and reads the facts that the store decides by. The second round trip contains the changes
//! and `COMMIT`. The server decides whether to commit before the store knows the results of the
//! changes. A rejected change must therefore change nothing, or raise an error in SQL.

use tokio::join;
use tokio_postgres::{Row, types::ToSql};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        decode::{self, column},
        encoding::storable,
        errors,
        fence::Server,
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
        let insert = self.insert_statement(new);
        let mut replaced = Vec::new();
        let begun = self.begin_sign_in(executor, new, &insert, &mut replaced);
        match Box::pin(begun).await? {
            Some(ready) => {
                let inserted = self.commit_sign_in(executor, new, &ready, &replaced);
                Box::pin(inserted).await
            }
            None => Ok(InsertOutcome::TooManySessions),
        }
    }

    /// Revokes as part of the application's transaction.
    pub(super) async fn revoke_in(
        &self,
        executor: Executor<'_>,
        user_id: &U::Id,
        scope: RevokeScope,
    ) -> Result<Vec<SessionId>, Error> {
        let ready = Box::pin(self.begin_revocation(executor, user_id)).await?;
        let revoked = self.commit_revocation(executor, &ready, user_id, scope);
        Box::pin(revoked).await
    }

    /// Returns the statement that inserts this session.
    pub(super) fn insert_statement(&self, new: &NewSession<'_, Self>) -> Statement {
        let insert = &self.statements.insert;
        insert.with_preconditions(new.condition.columns())
    }

    /// Begins the transaction and acquires the locks. Returns `None` if the user has reached the
    /// limit of sessions. The caller must then roll back, and also after an error.
    ///
    /// `replaced` contains the sessions that an earlier attempt tried to replace. A concurrent
    /// rotation may have changed their digests since.
    pub(super) async fn begin_sign_in<'a>(
        &'a self,
        executor: Executor<'_>,
        new: &NewSession<'_, Self>,
        insert: &'a Statement,
        replaced: &mut Vec<SessionId>,
    ) -> Result<Option<ReadySignIn<'a>>, Error> {
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
            let live = self.ready_if(executor, refuse_at, &self.statements.live_sessions);
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
            let values: [&(dyn ToSql + Sync); 3] = [new.user_id, &idle, &most];
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
        if let (Some(most), Some(live)) = (refuse_at, live?) {
            let mut live = ids(&live)?;
            live.retain(|id| !replaced.contains(id));
            if live.len() as u64 >= most {
                return Ok(None);
            }
        }
        let (insert, end_oldest) = changes?;
        Ok(Some(ReadySignIn {
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
            let mut ended: Vec<SessionId> = column(row, 6)?;
            ended.extend(ids(&oldest)?);
            let session = decode::current(row, 0)?;
            Ok(InsertOutcome::Inserted { session, ended })
        };
        decoded().map_err(Error::with_outcome_unknown)
    }

    /// Begins the transaction and acquires the user's lock. After an error, the caller must roll
    /// back.
    pub(super) async fn begin_revocation(
        &self,
        executor: Executor<'_>,
        user_id: &U::Id,
    ) -> Result<ReadyRevocation<'_>, Error> {
        let locked = async {
            let lock = self.execution.ready(executor, &self.statements.lock);
            self.lock(executor, &lock.await?, user_id, &[]).await
        };
        let (begun, locked, revoke, none_left) = join!(
            biased;
            executor.begin(),
            locked,
            self.execution.ready(executor, &self.statements.revoke),
            self.execution.ready(executor, &self.statements.none_left),
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
        user_id: &U::Id,
        scope: RevokeScope,
    ) -> Result<Vec<SessionId>, Error> {
        let (only, except) = match scope {
            RevokeScope::One(id) => (Some(id), None),
            RevokeScope::AllExcept(id) => (None, Some(id)),
            RevokeScope::All => (None, None),
        };
        let values: [&(dyn ToSql + Sync); 3] = [user_id, &only, &except];
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
}

/// Converts the error of a statement with which `COMMIT` was sent.
fn failed(executor: Executor<'_>, error: Error) -> Error {
    executor.before_commit(errors::suppressed(error))
}

fn ids(rows: &[Row]) -> Result<Vec<SessionId>, Error> {
    rows.iter().map(|row| column(row, 0)).collect()
}
