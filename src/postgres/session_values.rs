//! Values of the application's columns of the sessions table.

use std::{borrow::Cow, fmt};

use tokio_postgres::types::ToSql;

use crate::{
    error::{Error, ErrorKind},
    postgres::{
        private_value::PrivateValue, sql::statement::Statement, store::PgSessionStore, user::PgUser,
    },
    store::SetSessionColumn,
};

/// Values for columns of [`PgUser::SESSION_COLUMNS`].
#[derive(Default)]
pub struct SessionValues(Vec<(&'static str, PrivateValue)>);

impl SessionValues {
    /// Returns the statement with these values. They are its last parameters.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if a column is not in [`PgUser::SESSION_COLUMNS`]. Only validated
    /// names become part of a statement.
    pub(super) fn applied_to<'a, U: PgUser>(
        &self,
        statement: &'a Statement,
    ) -> Result<Cow<'a, Statement>, Error> {
        let names: Vec<_> = self.0.iter().map(|(column, _)| *column).collect();
        let unknown = names
            .iter()
            .find(|column| !U::SESSION_COLUMNS.contains(column));
        if let Some(column) = unknown {
            let finding = format!("PgUser::SESSION_COLUMNS has no column \"{column}\"");
            return Err(Error::new(ErrorKind::Configuration, finding));
        }
        if names.is_empty() {
            return Ok(Cow::Borrowed(statement));
        }
        Ok(Cow::Owned(statement.with_session_values(names)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
        self.0.iter().map(|(_, value)| value as &(dyn ToSql + Sync))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<U: PgUser, T: ToSql + Send + Sync + 'static> SetSessionColumn<T> for PgSessionStore<U> {
    fn set(values: &mut SessionValues, column: &'static str, value: T) {
        values.0.retain(|(earlier, _)| *earlier != column);
        values.0.push((column, PrivateValue::new(value)));
    }
}

impl fmt::Debug for SessionValues {
    /// Omits the values, because they may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(column, _)| column))
            .finish()
    }
}
