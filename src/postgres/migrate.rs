//! Schema migration of the sessions table.

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

// Each file is idempotent. The first acquires an advisory lock, which serializes migrations.
const CREATE_SESSIONS: &str = include_str!("../../migrations/0001_create_sessions.sql");
const LIVE_SESSIONS: &str = include_str!("../../migrations/0004_live_sessions.sql");
const ANNOUNCE_SESSIONS: &str = include_str!("../../migrations/0002_announce_sessions.sql");
const REVOKE_SESSIONS: &str = include_str!("../../migrations/0003_revoke_sessions.sql");
/// The time limit for a table lock. While a statement waits for the lock, later statements on the
/// table wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Migration of the sessions table, built by
/// [`PgSessionStore::migrate`](super::PgSessionStore::migrate) and run by awaiting it.
///
/// The migration creates the sessions table, and [functions](#functions-for-other-clients) that end
/// sessions. `user_id` gets the type of the users' key and a foreign key to that key. If the table
/// and the functions exist already, the migration does nothing, so every process may run it at
/// startup. Concurrent migrations run one after the other. The migration never creates or changes
/// the users table.
///
/// # Keys
///
/// `user_id` has the type and the collation of the users' key. Renaming a key also renames it in
/// the user's sessions (`ON UPDATE CASCADE`). Deleting a user deletes the user's sessions (`ON
/// DELETE CASCADE`). A table that an earlier version created lacks the collation and the cascade of
/// updates. In such a table, renaming the key of a signed-in user fails with SQLSTATE 23503 until
/// the sessions are revoked. [`check`](crate::PgSessionStore::check) reports a collation that
/// differs.
///
/// # Functions for other clients
///
/// An application whose transactions run on another driver (sqlx, Diesel, SeaORM) ends sessions
/// with SQL functions. So does an operator with `psql`. The functions are in the schema of the
/// sessions table and are named after it:
///
/// | function | ends | returns |
/// |---|---|---|
/// | `sessions_revoke(user_id, session_id)` | this session, if it is the user's | the ids of the ended sessions |
/// | `sessions_revoke_others(user_id, kept_session_id)` | all of the user's sessions except one | the ids of the ended sessions |
/// | `sessions_revoke_all(user_id)` | all of the user's sessions | the ids of the ended sessions |
/// | `sessions_revoke_everyone()` | all sessions of all users | the number of ended sessions |
///
/// ```sql
/// BEGIN;
/// UPDATE users SET password_hash = '…' WHERE id = 7;
/// SELECT sessions_revoke_others(7, '67e55044-10b1-426f-9247-bb680e5fe0c8');
/// COMMIT;
/// ```
///
/// The functions acquire the locks of the crate's own calls. A function waits for the user's
/// sign-ins in progress, and later sign-ins of the user wait until the transaction ends. **A
/// `DELETE` does neither.** It misses the session of a sign-in that commits a moment later.
///
/// A function fails if the isolation level is above `READ COMMITTED`, or if an argument is `NULL`.
/// It never uses the caller's `search_path`. With the cache, the session is invalidated like a
/// session that another process ends: see `SECURITY.md`, "Propagation of changes".
///
/// The caller needs `USAGE` on the schema, `SELECT (id, user_id)` and `DELETE` on the sessions
/// table, and `SELECT` on the key of the users table. `PUBLIC` may execute the functions, unless the
/// default privileges were changed. If a function is missing,
/// [`check`](crate::PgSessionStore::check) logs a warning that names it, and
/// [`CheckReport::missing_functions`](super::CheckReport::missing_functions) returns it. Run the
/// migration again after a table was renamed or moved to another schema. The name of the sessions
/// table must have at most 47 bytes.
///
/// # Running the files
///
/// The files in `migrations/` are plain SQL. They run unchanged under `psql` and under any
/// migration tool. An application that keeps its schema in one place copies the files there and
/// does not call this method. The files read the table names from these settings:
///
/// | setting | default |
/// |---|---|
/// | `tower_user_session.sessions_table` | `sessions` |
/// | `tower_user_session.users_table` | `users` |
/// | `tower_user_session.users_key` | `id` |
/// | `tower_user_session.announce_users`, for `0002_announce_sessions.sql` | `off` |
/// | `tower_user_session.announce_users_columns`, for `0002_announce_sessions.sql` | none |
///
/// ```sh
/// psql -c "SET tower_user_session.users_table = 'app.accounts'" \
///      -f migrations/0001_create_sessions.sql
/// ```
///
/// # Privileges
///
/// The role needs `CREATE` in the schema, and `REFERENCES` on the users table. To add the functions
/// to an existing table, the role must own the table. Notifications need
/// more privileges: see [`notify_on_revocation`](Self::notify_on_revocation) and
/// [`notify_on_user_change`](Self::notify_on_user_change).
///
/// # Cancellation
///
/// The migration is one transaction. If it is cancelled, all of it or none of it is applied.
///
/// # Errors
///
/// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline) if the migration waits for a lock for more
/// than 10 s. The cause is another running migration, or a transaction that holds a lock on the
/// users table or the sessions table. The migration can be retried.
#[derive(Debug)]
#[doc(alias("sqlx", "diesel", "sea-orm", "psql", "schema"))]
#[must_use = "the migration runs only when it is awaited"]
pub struct Migrate {
    pool: Pool,
    sessions_table: Table,
    users_table: String,
    users_key: String,
    triggers: Triggers,
}

#[derive(Clone, Debug, PartialEq)]
enum Triggers {
    None,
    Sessions,
    /// The watched columns of the users table, separated by commas. If the text is empty, every
    /// column is watched.
    SessionsAndUsers(String),
}

impl Migrate {
    pub(super) fn new(pool: Pool, sessions_table: Table) -> Self {
        Self {
            pool,
            sessions_table,
            users_table: "users".to_owned(),
            users_key: "id".to_owned(),
            triggers: Triggers::None,
        }
    }

    /// Sets the name of the users table as an SQL identifier: quoted and qualified with its schema
    /// if necessary. The default is `users`.
    pub fn users_table(mut self, table: impl Into<String>) -> Self {
        self.users_table = table.into();
        self
    }

    /// Sets the column of the users table to which sessions refer. The default is `id`.
    pub fn users_key(mut self, column: impl Into<String>) -> Self {
        self.users_key = column.into();
        self
    }

    /// Also installs triggers that send a notification (`NOTIFY`) when a session ends or changes.
    /// The triggers cover every client: this library, a `DELETE` in `psql`, and a delete that
    /// cascades from the users table. By default no triggers are installed. Omitting this call
    /// later does not remove the triggers.
    ///
    /// This runs `migrations/0002_announce_sessions.sql`, which documents the channels and the
    /// payloads. A payload names sessions by their [`SessionId`](crate::session::SessionId). A
    /// payload contains neither tokens nor digests.
    ///
    /// A statement sends at most one notification, which is delivered when the statement is
    /// committed. If a statement affects more than 242 sessions, its payload is `everything`. A
    /// change of any column except `last_seen_at` sends a notification. These events send no
    /// notification: a new session, the use of a session, and the deletion of a session after its
    /// absolute limit. No setting suppresses a notification.
    ///
    /// Run the migration again after an update of this crate, before the new version is deployed. A
    /// feed requires the triggers of its own schema version. The migration also enables triggers
    /// that were disabled. It restores `ALWAYS` for triggers that `ENABLE TRIGGER ALL` has changed.
    ///
    /// # Privileges
    ///
    /// The role must own the sessions table, and needs `CREATE` in its schema. Roles that end
    /// sessions need no further privilege.
    ///
    /// # Cost
    ///
    /// Installing the triggers waits once for the writes to the table that are in progress. After
    /// that, a statement that updates or deletes sessions costs the server about 40 µs more. A
    /// statement that sends a notification costs another 25 µs for each listening process.
    /// `benches/feed` measures the server's processor time for each sign-out, in milliseconds:
    ///
    /// | concurrent sign-outs | 1 | 8 |
    /// |---|---|---|
    /// | without the triggers | 0.18 | 0.07 |
    /// | with the triggers | 0.21 | 0.09 |
    /// | with the triggers and four listening processes | 0.32 | 0.14 |
    ///
    /// The server commits transactions with notifications one after the other, which slows down
    /// concurrent transactions. Transactions with notifications cannot be prepared for a two-phase
    /// commit. They fail if the notification queue is full. The queue is full at 8 GB of
    /// notifications that a listener does not read.
    ///
    /// # Limitations
    ///
    /// Two kinds of changes send no notification, because PostgreSQL fires no triggers for them:
    /// statements that run while the triggers are disabled, and changes that logical replication
    /// applies to a subscriber's table.
    ///
    /// # Uninstalling
    ///
    /// Qualify the functions with the schema of the sessions table. `CASCADE` drops the triggers
    /// too, including those of other sessions tables in that schema:
    ///
    /// ```sql
    /// DROP FUNCTION IF EXISTS
    ///     tower_user_session_announce(), tower_user_session_announce_user() CASCADE;
    /// ```
    pub fn notify_on_revocation(mut self) -> Self {
        if self.triggers == Triggers::None {
            self.triggers = Triggers::Sessions;
        }
        self
    }

    /// Does the same as [`notify_on_revocation`](Self::notify_on_revocation), and also sends a
    /// notification for each user whose row in the users table changes.
    ///
    /// The payload names a user by a 64-bit hash of the key, because every role may `LISTEN` and a
    /// key may be an e-mail address. Lookups return the same hash. With it, a cache finds the
    /// sessions of the user, including sessions that begin before the change is committed. The key
    /// must be an integer, `uuid`, `text`, `varchar` or `citext`. For a key of another type, every
    /// update sends `everything`. An update of more than 470 users also sends `everything`.
    ///
    /// The triggers watch the users table only. They do not see changes of tables that
    /// [`PgUser::FROM`](super::PgUser::FROM) joins to the users table, or updates that name a
    /// partition of the users table. Such a change has an effect after the re-check interval at the
    /// latest: see [`SessionService::enable_cache`](crate::SessionService::enable_cache).
    ///
    /// # Privileges
    ///
    /// The role must also own the users table. Roles that update users need no further privilege.
    /// The trigger reads the changed rows and no other table.
    ///
    /// # Cost
    ///
    /// Every statement that updates users costs the server about 0.3 ms more, most of it for
    /// planning. If every request updates a column of the user's row, use
    /// [`notify_on_user_change_if`](Self::notify_on_user_change_if).
    pub fn notify_on_user_change(mut self) -> Self {
        self.triggers = Triggers::SessionsAndUsers(String::new());
        self
    }

    /// Does the same as [`notify_on_user_change`](Self::notify_on_user_change), but only for users
    /// for whom one of these columns changes. Name the columns that [`PgUser`](super::PgUser)
    /// reads. A change of another column, such as the time of the last request, costs one
    /// comparison per row. The key is always compared.
    ///
    /// The trigger runs for each changed row, with a `WHEN` condition, and sends one notification
    /// per user.
    pub fn notify_on_user_change_if<C: AsRef<str>>(
        mut self,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let quote = |column: C| format!("\"{}\"", column.as_ref().replace('"', "\"\""));
        let columns: Vec<_> = columns.into_iter().map(quote).collect();
        self.triggers = Triggers::SessionsAndUsers(columns.join(","));
        self
    }

    async fn run(self) -> Result<(), Error> {
        let client = open_new(&self.pool).await?;
        let (users, columns) = match &self.triggers {
            Triggers::None | Triggers::Sessions => ("off", ""),
            Triggers::SessionsAndUsers(columns) => ("on", &**columns),
        };
        let bounds = Bounds {
            statement: Duration::ZERO,
            lock: LOCK_TIMEOUT,
        };
        Execution::begin(&client, bounds).await?;
        let migrated = async {
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
            client.batch_execute(REVOKE_SESSIONS).await?;
            client.batch_execute(LIVE_SESSIONS).await?;
            if self.triggers != Triggers::None {
                client.batch_execute(ANNOUNCE_SESSIONS).await?;
            }
            client.batch_execute("COMMIT").await
        }
        .await;
        migrated.map_err(|error| {
            let error = errors::statement(error);
            if errors::code(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                let cause = format!(
                    "migration failed: no lock on {} or {} within {LOCK_TIMEOUT:?}, because \
                     another transaction holds one; end it, or run the migration again",
                    self.users_table,
                    self.sessions_table.to_sql(),
                );
                return Error::new(ErrorKind::Deadline, cause);
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
