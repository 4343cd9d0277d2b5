//! Check of one user, which is decoded in the same way as in a lookup.

use std::collections::HashSet;

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        decode::{self, FIRST_USER_COLUMN, column},
        sql::execution::Executor,
        store::PgSessionStore,
        user::{LookupRow, PgUser},
    },
};

pub(super) async fn check<U: PgUser>(
    store: &PgSessionStore<U>,
    executor: Executor<'_>,
) -> Result<(), Error> {
    let statement = &store.statements.check_user;
    let rows = store.execution.query(executor, statement, &[]).await?;
    let row = rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?;
    let after_user = row.len() - U::SESSION_COLUMNS.len();
    let matches = after_user - 1;
    let has_user = column::<Option<bool>>(row, matches)?.is_some();
    let row = LookupRow::new(row, FIRST_USER_COLUMN..matches, after_user..row.len());
    let mut names = HashSet::new();
    for each in row.user().columns() {
        if !names.insert(each.name()) {
            return Err(schema_error(format!(
                "PgUser::COLUMNS has more than one column \"{}\": rename them with AS",
                each.name()
            )));
        }
    }
    if rows.len() > 1 {
        return Err(schema_error(
            "PgUser::FROM returns more than one row for one user: join only tables with at most \
             one row per user, and select other values as an array, ARRAY(SELECT …)"
                .to_owned(),
        ));
    }
    let statement = &store.statements.check_outer_joins;
    let rows = store.execution.query(executor, statement, &[]).await?;
    if column(rows.first().ok_or(Error::from_kind(ErrorKind::Decode))?, 0)? {
        return Err(schema_error(NO_OUTER_JOIN.to_owned()));
    }
    if has_user {
        decode::user::<U>(&row).map_err(|error| {
            error.with_message(
                "PgUser::from_row failed for a user of the users table: see the source of this \
                 error",
            )
        })?;
    }
    Ok(())
}

/// Names the remedy for a user whom [`PgUser::FROM`] finds only by the values of session columns.
pub(in crate::postgres) const NO_OUTER_JOIN: &str = "PgUser::FROM does not find a user if the session columns are null: use LEFT JOIN for joins \
     with live_session, and reject a missing row in PgUser::CONDITION";

fn schema_error(finding: String) -> Error {
    Error::new(ErrorKind::Schema, finding)
}
