//! Creating the sessions' table.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio_postgres::{error::SqlState, types::Type};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        connection_set::open_new,
        errors,
        sql::{
            Table,
            execution::{Bounds, Execution},
        },
    },
};

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
/// | `tower_user_session.announce_users_columns`, for the same | none |
///
/// ```sh
/// psql -c "SET tower_user_session.users_table = 'app.accounts'" \
///      -f migrations/0001_create_sessions.sql
/// ```
///
/// # Privileges
///
/// To create a table in the schema, and `REFERENCES` on the users' table. What is announced needs more:
/// see [`notify_on_revocation`](Self::notify_on_revocation) and
/// [`notify_on_user_change`](Self::notify_on_user_change).
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

#[derive(Clone, Debug, PartialEq)]
enum Announce {
    Nothing,
    Sessions,
    /// The users' columns that count, separated by commas; every column if there is none.
    SessionsAndUsers(String),
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

    /// Also installs triggers that announce, with `NOTIFY`, the sessions that end or change, no matter which client
    /// makes the change: this library, a `DELETE` typed into `psql`, or one that cascades from the users' table. By
    /// default nothing is announced. Leaving this call out later removes nothing.
    ///
    /// This is `migrations/0002_announce_sessions.sql`, where the channels and the payloads are described. They name
    /// sessions by their [`SessionId`](crate::session::SessionId), and contain neither tokens nor digests.
    ///
    /// A statement announces at most once, when it is committed, and announces `everything` if it has more than 242
    /// sessions to name. A change of any column but `last_seen_at` is announced. Sessions that begin, that are merely
    /// used, and that are deleted after their absolute limit are not announced. There is no setting that suppresses an
    /// announcement.
    ///
    /// Run it again after an update of this crate, before the new version is deployed: a feed demands the triggers of
    /// its own schema version. It also restores triggers that were disabled, or that `ENABLE TRIGGER ALL` has turned
    /// from `ALWAYS` into the default.
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
    pub fn notify_on_revocation(mut self) -> Self {
        if self.announce == Announce::Nothing {
            self.announce = Announce::Sessions;
        }
        self
    }

    /// The same as [`notify_on_revocation`](Self::notify_on_revocation), and also announces every user whose row
    /// in the users' table changes.
    ///
    /// A user is announced by a 64-bit hash of the key, because every role may `LISTEN` and a key may be an e-mail
    /// address. Lookups return the same hash, so that a cache finds the user's sessions by it: also those that begin
    /// while the change has not been committed yet. Keys must be integers, `uuid`, `text`, `varchar` or `citext`. For a
    /// key of another type every update announces `everything`, and so does an update of more than 470 users.
    ///
    /// Only that table counts: what [`PgUser::FROM`](super::PgUser::FROM) joins to it is not watched, and neither are
    /// updates that name a partition of it. The re-check interval bounds how long such a change goes unnoticed: see
    /// [`SessionService::enable_cache`](crate::SessionService::enable_cache).
    ///
    /// # Privileges
    ///
    /// To own the users' table too. The role that updates users needs no further privilege. The trigger reads the
    /// changed rows and no other table.
    ///
    /// # Cost
    ///
    /// Some 0.3 ms for every statement that updates users, most of it planning. If a column of every user's row is
    /// updated on every request, use [`announce_changed_users_if`](Self::announce_changed_users_if).
    pub fn notify_on_user_change(mut self) -> Self {
        self.announce = Announce::SessionsAndUsers(String::new());
        self
    }

    /// The same as [`notify_on_user_change`](Self::notify_on_user_change) for users of whom one of these columns
    /// changes. Name the columns that [`PgUser`](super::PgUser) reads. Changes of others, such as the time of the last
    /// request, cost a comparison for each row. The key is always compared.
    ///
    /// The trigger runs for each row that has changed, with a `WHEN` condition, and announces each user by itself.
    pub fn announce_changed_users_if<C: AsRef<str>>(
        mut self,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let quote = |column: C| format!("\"{}\"", column.as_ref().replace('"', "\"\""));
        let columns: Vec<_> = columns.into_iter().map(quote).collect();
        self.announce = Announce::SessionsAndUsers(columns.join(","));
        self
    }

    async fn run(self) -> Result<(), Error> {
        let client = open_new(&self.pool).await?;
        let (users, columns) = match &self.announce {
            Announce::Nothing | Announce::Sessions => ("off", ""),
            Announce::SessionsAndUsers(columns) => ("on", &**columns),
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
                            pg_catalog.set_config('tower_user_session.announce_users', $4, true),
                            pg_catalog.set_config('tower_user_session.announce_users_columns', $5, true)",
                    &[
                        (&self.sessions_table.to_sql(), Type::TEXT),
                        (&self.users_table, Type::TEXT),
                        (&self.users_key, Type::TEXT),
                        (&users, Type::TEXT),
                        (&columns, Type::TEXT),
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
            let error = errors::statement(error);
            if errors::code(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
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
