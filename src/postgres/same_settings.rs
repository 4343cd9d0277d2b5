//! Comparison of a pool connection with the store's own connections: the role, the search path and
//! the tables.

use deadpool_postgres::Pool;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        decode::column,
        errors,
        sql::{Table, session_columns},
        user::PgUser,
    },
};

/// The settings that decide which rows a statement sees.
#[derive(Debug, PartialEq, Eq)]
struct VisibleSettings {
    role: String,
    search_path: String,
    sessions: Option<u32>,
    users: Option<u32>,
}

/// Verifies that a pool connection has the role, the search path and the tables of the store's own
/// connections. The application's code, or a hook that runs each time a connection is acquired, may
/// have changed the settings of a pool connection. On the store's own connections, only the hooks
/// for new connections have run.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if the connections differ. The source names the difference.
pub(super) async fn check<U: PgUser>(
    pool: &Pool,
    own: &Client,
    table: &Table,
) -> Result<(), Error> {
    let pooled = pool.get().await.map_err(errors::pool)?;
    let pooled = read::<U>(&pooled, table).await?;
    let own = read::<U>(own, table).await?;
    if pooled == own {
        return Ok(());
    }
    let difference = format!(
        "a connection of the pool has {pooled:?}, and a new connection has {own:?}: set the role \
         and the search path with ALTER ROLE … SET, or in a `post_create` hook of the pool"
    );
    Err(Error::new(ErrorKind::Configuration, difference))
}

async fn read<U: PgUser>(client: &Client, table: &Table) -> Result<VisibleSettings, Error> {
    let sql = "SELECT current_user::pg_catalog.text, pg_catalog.current_setting('search_path'),
                      pg_catalog.to_regclass($1)::pg_catalog.oid";
    let name = table.to_sql();
    let name: (&(dyn ToSql + Sync), Type) = (&name, Type::TEXT);
    let row = client.query_typed_one(sql, &[name]).await;
    let row = row.map_err(errors::statement)?;
    Ok(VisibleSettings {
        role: column(&row, 0)?,
        search_path: column(&row, 1)?,
        sessions: column(&row, 2)?,
        users: users_table::<U>(client, table).await,
    })
}

/// Returns the OID of the users table, if [`PgUser::KEY`] is a column of it and the role can read
/// the table.
async fn users_table<U: PgUser>(client: &Client, sessions: &Table) -> Option<u32> {
    let (table, key) = U::KEY.rsplit_once('.')?;
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_alphanumeric() || "_\".".contains(c))
    };
    if !is_name(table) || !is_name(key) {
        return None;
    }
    let live_session = session_columns::null_session(U::SESSION_COLUMNS, &sessions.to_sql());
    let sql = format!(
        "SELECT pg_catalog.max(users.oid)
         FROM {live_session} LATERAL (SELECT {table}.tableoid FROM {}) AS users (oid)",
        U::FROM
    );
    let row = client.query_typed_one(&sql, &[]).await.ok()?;
    row.try_get(0).ok()
}
