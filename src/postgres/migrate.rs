//! Creating the sessions' table.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio_postgres::{error::SqlState, types::Type};

use super::{
    connection_set::open_new,
    execution::{Bounds, Execution},
    failure,
    statements::Table,
};
use crate::{Error, ErrorKind};

// Each does nothing where it has been applied already.
const CREATE_SESSIONS: &str = include_str!("../../migrations/0001_create_sessions.sql");
const ANNOUNCE_SESSIONS: &str = include_str!("../../migrations/0002_announce_sessions.sql");
/// Processes that start together take turns by this lock ("sessions" in ASCII).
const LOCK: i64 = 0x7365_7373_696f_6e73;
/// A statement that waits for the lock of a table keeps later statements on that table waiting too.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(10);

/// A migration that is about to run: say which table the users are in, then await it.
///
/// It creates the sessions' table, with a key of the same type as the users' key and a foreign key to
/// it. Where that has happened it does nothing, so that every process can run it when it starts;
/// those that start together take turns. It never creates or changes the users' table.
///
/// # Keys
///
/// `user_id` has the type and the collation of the users' key. A key that is renamed takes its sessions along
/// (`ON UPDATE CASCADE`), and a user who is deleted loses them (`ON DELETE CASCADE`). A table that an earlier version
/// created has neither the collation nor the cascade of updates: there, renaming the key of a signed-in user fails
/// with SQLSTATE 23503 until the sessions are revoked, and [`check`](crate::PgSessionStore::check) names a collation
/// that differs.
///
/// # Running the files
///
/// The files in `migrations/` are plain SQL that runs under `psql` and under any migration tool as
/// it stands; an application that keeps its schema in one place copies them there and does not call
/// this. They read where the tables are from these settings:
///
/// | setting | default |
/// |---|---|
/// | `tower_user_session.sessions_table` | `sessions` |
/// | `tower_user_session.users_table` | `users` |
/// | `tower_user_session.users_key` | `id` |
/// | `tower_user_session.announce_users`, for `0002_announce_sessions.sql` | `off` |
///
/// ```sh
/// psql -c "SET tower_user_session.users_table = 'app.accounts'" \
///      -f migrations/0001_create_sessions.sql
/// ```
///
/// # Privileges
///
/// To create a table in the schema, and `REFERENCES` on the users' table. What is announced needs more:
/// see [`announce_ended_sessions`](Self::announce_ended_sessions) and
/// [`announce_changed_users`](Self::announce_changed_users).
///
/// # Cancellation
///
/// All or nothing happens: it is one transaction.
///
/// # Errors
///
/// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline) if it waits for a lock for more than 10 s: because another
/// migration is running, or because a transaction holds a lock on the users table or the sessions table. The
/// migration can be run again.
#[derive(Debug)]
#[must_use = "nothing is migrated until this is awaited"]
pub struct Migrate {
    pool: Pool,
    sessions_table: Table,
    users_table: String,
    users_key: String,
    announce: Announce,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Announce {
    Nothing,
    Sessions,
    SessionsAndUsers,
}

impl Migrate {
    pub(super) fn new(pool: Pool, sessions_table: Table) -> Self {
        Self {
            pool,
            sessions_table,
            users_table: "users".to_owned(),
            users_key: "id".to_owned(),
            announce: Announce::Nothing,
        }
    }

    /// The users' table, as SQL names it: with a schema, and quoted, where need be. By default
    /// `users`.
    pub fn users_table(mut self, table: impl Into<String>) -> Self {
        self.users_table = table.into();
        self
    }

    /// The column of the users' table that sessions refer to. By default `id`.
    pub fn users_key(mut self, column: impl Into<String>) -> Self {
        self.users_key = column.into();
        self
    }

    /// Also installs triggers that announce, with `NOTIFY`, the sessions that end or change, whoever
    /// does it: this library, a `DELETE` typed into `psql`, or one that cascades from the users' table.
    /// By default nothing is announced. Leaving this out later takes nothing back.
    ///
    /// This is `migrations/0002_announce_sessions.sql`, where the channel and the payloads are
    /// described. They name sessions by their [`SessionId`](crate::SessionId); no token and no digest
    /// is in them.
    ///
    /// A statement announces at most once, when it is committed, and says `everything` where it has
    /// more than 242 sessions to name. Not announced are sessions that begin, that are merely used, and
    /// those that are deleted after their absolute limit, as by
    /// [`clean_up`](crate::SessionService::clean_up).
    ///
    /// # Privileges
    ///
    /// To own the sessions' table, and `CREATE` in its schema. Whoever ends sessions needs no more
    /// than before.
    ///
    /// # Cost
    ///
    /// Installing waits for the writes to the table that are under way, once. After that every statement
    /// that updates or deletes sessions costs the server some 40 µs more, and one that announces
    /// another 25 µs for each process that listens. `benches/feed` measures it, in processor time of the
    /// server for each sign-out, in milliseconds:
    ///
    /// | sign-outs at the same time | 1 | 8 |
    /// |---|---|---|
    /// | without the triggers | 0.18 | 0.07 |
    /// | with them | 0.21 | 0.09 |
    /// | and four processes that listen | 0.32 | 0.14 |
    ///
    /// Transactions that announce are committed one after the other, in the whole server, which makes
    /// those dearer that come at once. They cannot be prepared for a two-phase commit, and they fail once the
    /// queue of notifications is full, which takes a listener that does not read for 8 GB.
    ///
    /// # What it does not see
    ///
    /// Statements while the triggers are disabled, and what logical replication applies to a
    /// subscriber's table: PostgreSQL fires no triggers for statements there.
    ///
    /// # Taking it back
    ///
    /// Qualified with the schema of the sessions' table. The triggers go with their functions, those
    /// of other tables of sessions in that schema too:
    ///
    /// ```sql
    /// DROP FUNCTION IF EXISTS tower_user_session_announce(), tower_user_session_announce_user() CASCADE;
    /// ```
    pub fn announce_ended_sessions(mut self) -> Self {
        if self.announce == Announce::Nothing {
            self.announce = Announce::Sessions;
        }
        self
    }

    /// The same as [`announce_ended_sessions`](Self::announce_ended_sessions), and also announces as
    /// changed the live sessions of every user whose row in the users' table really changes.
    ///
    /// Only that table counts: what [`PgUser::FROM`](super::PgUser::FROM) joins to it is not watched,
    /// nor are updates that name a partition of it. Sessions that begin between the `UPDATE` and its
    /// commit are not named, because the `UPDATE` cannot see them.
    ///
    /// # Privileges
    ///
    /// To own the users' table too. Whoever updates users without `SELECT` on the sessions' `id`,
    /// `user_id` and `expires_at`, or sees some of the rows only, announces `everything`.
    ///
    /// # Cost
    ///
    /// Some 0.4 ms for every statement that updates users, most of it planning. The sessions are found
    /// through the index on `user_id`.
    pub fn announce_changed_users(mut self) -> Self {
        self.announce = Announce::SessionsAndUsers;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let client = open_new(&self.pool).await?;
        let users = match self.announce {
            Announce::Nothing | Announce::Sessions => "off",
            Announce::SessionsAndUsers => "on",
        };
        let bounds = Bounds {
            statement: Duration::ZERO,
            lock: LONGEST_LOCK_WAIT,
        };
        Execution::begin(&client, bounds).await?;
        let migrated = async {
            client
                .execute_typed(
                    "SELECT pg_catalog.pg_advisory_xact_lock($1)",
                    &[(&LOCK, Type::INT8)],
                )
                .await?;
            client
                .execute_typed(
                    "SELECT pg_catalog.set_config('tower_user_session.sessions_table', $1, true),
                            pg_catalog.set_config('tower_user_session.users_table', $2, true),
                            pg_catalog.set_config('tower_user_session.users_key', $3, true),
                            pg_catalog.set_config('tower_user_session.announce_users', $4, true)",
                    &[
                        (&self.sessions_table.to_sql(), Type::TEXT),
                        (&self.users_table, Type::TEXT),
                        (&self.users_key, Type::TEXT),
                        (&users, Type::TEXT),
                    ],
                )
                .await?;
            client.batch_execute(CREATE_SESSIONS).await?;
            if self.announce != Announce::Nothing {
                client.batch_execute(ANNOUNCE_SESSIONS).await?;
            }
            client.batch_execute("COMMIT").await
        }
        .await;
        migrated.map_err(|error| {
            let error = failure::statement(error);
            if failure::code(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                let tables = format!(
                    "no lock on {} or {} within {LONGEST_LOCK_WAIT:?}: another transaction holds one",
                    self.users_table,
                    self.sessions_table.to_sql(),
                );
                return Error::new(ErrorKind::Deadline, tables);
            }
            error
        })
    }
}

impl IntoFuture for Migrate {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
