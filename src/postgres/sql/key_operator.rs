//! The operator that compares users' keys.
//!
//! An unqualified `=` would be resolved through the `search_path`, where another role may have
//! created a better match. The operator of the foreign key decides which user a session belongs to.
//! For built-in types it is `pg_catalog.=`. For types of extensions, such as `citext`, it is in the
//! extension's schema.

use std::sync::OnceLock;

use tokio_postgres::{Client, types::Type};

use crate::{
    error::Error,
    postgres::{decode::column, errors, sql::text::KEY_OPERATOR},
};

/// The placeholder for the operator in every statement, until the foreign key has been read. This
/// text occurs nowhere else. It is also the correct operator for built-in types.
pub(crate) const PLACEHOLDER: &str = r#"OPERATOR("pg_catalog".=)"#;

/// The operator for one sessions table, read once on the first connection that needs it.
#[derive(Debug)]
pub(crate) struct KeyOperator {
    table: String,
    known: OnceLock<String>,
}

impl KeyOperator {
    pub(crate) const fn new(table: String) -> Self {
        Self {
            table,
            known: OnceLock::new(),
        }
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Returns the operator as SQL. Without a foreign key, it is the operator for built-in types.
    pub(crate) async fn resolve(&self, client: &Client) -> Result<&str, Error> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let rows = client
            .query_typed(&KEY_OPERATOR, &[(&self.table, Type::TEXT)])
            .await
            .map_err(errors::statement)?;
        let operator = match rows.first() {
            Some(row) => column(row, 0)?,
            None => PLACEHOLDER.to_owned(),
        };
        Ok(self.known.get_or_init(|| operator))
    }
}
