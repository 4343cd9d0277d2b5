//! Creating the sessions' table.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use deadpool_postgres::Pool;
use tokio_postgres::types::Type;

use super::{connections::Borrowed, failure, statements::Table};
use crate::Error;

/// The migrations, in their order. Each does nothing where it has been applied already.
const MIGRATIONS: [&str; 1] = [include_str!("../../migrations/0001_create_sessions.sql")];
/// Processes that start together take turns by this lock ("sessions" in ASCII).
const LOCK: i64 = 0x7365_7373_696f_6e73;

/// A migration that is about to run: say which table the users are in, then await it.
///
/// It creates the sessions' table, with a key of the same type as the users' key and a foreign key to
/// it. Where that has happened it does nothing, so that every process can run it when it starts;
/// those that start together take turns. It never creates or changes the users' table.
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
///
/// ```sh
/// psql -c "SET tower_user_session.users_table = 'app.accounts'" \
///      -f migrations/0001_create_sessions.sql
/// ```
///
/// # Privileges
///
/// To create a table in the schema, and `REFERENCES` on the users' table.
///
/// # Cancellation
///
/// All or nothing happens: it is one transaction.
#[derive(Debug)]
#[must_use = "nothing is migrated until this is awaited"]
pub struct Migrate {
    pool: Pool,
    sessions_table: Table,
    users_table: String,
    users_key: String,
}

impl Migrate {
    pub(super) fn new(pool: Pool, sessions_table: Table) -> Self {
        Self {
            pool,
            sessions_table,
            users_table: "users".to_owned(),
            users_key: "id".to_owned(),
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

    async fn run(self) -> Result<(), Error> {
        let mut client = Borrowed::from(&self.pool).await?;
        let migrated = async {
            let transaction = client.transaction().await?;
            transaction
                .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
                .await?;
            transaction
                .execute_typed(
                    "SELECT set_config('tower_user_session.sessions_table', $1, true),
                            set_config('tower_user_session.users_table', $2, true),
                            set_config('tower_user_session.users_key', $3, true)",
                    &[
                        (&self.sessions_table.to_sql(), Type::TEXT),
                        (&self.users_table, Type::TEXT),
                        (&self.users_key, Type::TEXT),
                    ],
                )
                .await?;
            for migration in MIGRATIONS {
                transaction.batch_execute(migration).await?;
            }
            transaction.commit().await
        }
        .await;
        client.give_back();
        migrated.map_err(failure::statement)
    }
}

impl IntoFuture for Migrate {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
