//! Whether a connection of the pool, as the application uses it, sees what the store's own connections see.

use deadpool_postgres::Pool;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use crate::{
    error::{Error, ErrorKind},
    postgres::{decode::column, errors, sql::Table, user::PgUser},
};

/// What decides which rows a statement sees.
#[derive(Debug, PartialEq, Eq)]
struct Surroundings {
    role: String,
    search_path: String,
    sessions: Option<u32>,
    users: Option<u32>,
}

/// Fails if the pool lends connections that the application's code, or a hook that runs whenever one is lent, has
/// turned to another role, search path or table. The store's own connections have seen only the hooks that run when one
/// is created.
///
/// # Errors
///
/// [`ErrorKind::Configuration`], with a source that says what differs.
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
    let differs = format!(
        "connections of the pool have {pooled:?}, and new ones have {own:?}: set the role and the search path for the \
         database role or in a hook that runs when a connection is created (`post_create`)"
    );
    Err(Error::new(ErrorKind::Configuration, differs))
}

async fn read<U: PgUser>(client: &Client, table: &Table) -> Result<Surroundings, Error> {
    let sql = "SELECT current_user::pg_catalog.text, pg_catalog.current_setting('search_path'),
                      pg_catalog.to_regclass($1)::pg_catalog.oid";
    let name = table.to_sql();
    let name: (&(dyn ToSql + Sync), Type) = (&name, Type::TEXT);
    let row = client.query_typed_one(sql, &[name]).await;
    let row = row.map_err(errors::statement)?;
    Ok(Surroundings {
        role: column(&row, 0)?,
        search_path: column(&row, 1)?,
        sessions: column(&row, 2)?,
        users: users_table::<U>(client).await,
    })
}

/// The oid of the users table, if [`PgUser::KEY`] is a column of it and the table can be read.
async fn users_table<U: PgUser>(client: &Client) -> Option<u32> {
    let (table, key) = U::KEY.rsplit_once('.')?;
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_alphanumeric() || "_\".".contains(c))
    };
    if !is_name(table) || !is_name(key) {
        return None;
    }
    let sql = format!("SELECT pg_catalog.max({table}.tableoid) FROM {}", U::FROM);
    let row = client.query_typed_one(&sql, &[]).await.ok()?;
    row.try_get(0).ok()
}
