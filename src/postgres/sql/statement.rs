//! One statement: its SQL and the types of its parameters.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use crate::{
    error::Error,
    postgres::sql::{
        key_operator::{KeyOperator, PLACEHOLDER},
        session_columns,
    },
};

/// The values of a statement's parameters, in order.
pub(crate) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    key_operator: Arc<KeyOperator>,
    /// The SQL with the operator of the foreign key.
    resolved: OnceLock<String>,
    parameters: &'static [&'static str],
    preconditions: Vec<&'static str>,
    /// The session columns for which the statement has a value.
    session_columns: Vec<&'static str>,
}

impl Statement {
    pub(crate) fn new(
        sql: String,
        parameters: &'static [&'static str],
        key_operator: &Arc<KeyOperator>,
    ) -> Self {
        Self {
            sql,
            key_operator: Arc::clone(key_operator),
            resolved: OnceLock::new(),
            parameters,
            preconditions: Vec::new(),
            session_columns: Vec::new(),
        }
    }

    /// Returns the SQL to send. The first call may query the operator for users' keys on this
    /// connection.
    pub(crate) async fn text(&self, client: &Client) -> Result<&str, Error> {
        if let Some(resolved) = self.resolved.get() {
            return Ok(resolved);
        }
        if !self.sql.contains(PLACEHOLDER) {
            return Ok(&self.sql);
        }
        let operator = self.key_operator.resolve(client).await?;
        let resolve = || self.sql.replace(PLACEHOLDER, operator);
        Ok(self.resolved.get_or_init(resolve))
    }

    /// Returns the statement with preconditions on the user's row: columns that must still have a
    /// given value. The values are parameters after the other parameters.
    pub(crate) fn with_preconditions(&self, columns: Vec<&'static str>) -> Self {
        let mut preconditions = String::new();
        for (n, column) in columns.iter().enumerate() {
            let place = self.parameters.len() + 1 + n;
            // Writing to a string cannot fail. `IS NOT DISTINCT FROM` would resolve its operator
            // through the `search_path`. The comparison comes first, so that the server infers the
            // parameter's type from the column.
            let _ = writeln!(
                preconditions,
                "AND (({column}) OPERATOR(pg_catalog.=) ${place} \
                      OR (({column}) IS NULL AND ${place} IS NULL))"
            );
        }
        Self {
            sql: self.sql.replace(NO_PRECONDITIONS, &preconditions),
            key_operator: Arc::clone(&self.key_operator),
            resolved: OnceLock::new(),
            parameters: self.parameters,
            preconditions: columns,
            session_columns: Vec::new(),
        }
    }

    /// Returns the statement with values for these session columns. The values are the last
    /// parameters.
    pub(crate) fn with_session_values(&self, columns: Vec<&'static str>) -> Self {
        let first = self.parameters.len() + self.preconditions.len() + 1;
        Self {
            sql: session_columns::assign(&self.sql, &columns, first),
            key_operator: Arc::clone(&self.key_operator),
            resolved: OnceLock::new(),
            parameters: self.parameters,
            preconditions: self.preconditions.clone(),
            session_columns: columns,
        }
    }

    /// Returns the columns of the preconditions.
    pub(crate) fn preconditions(&self) -> &[&'static str] {
        &self.preconditions
    }

    /// Returns the session columns for which the statement has a value.
    pub(crate) fn session_columns(&self) -> &[&'static str] {
        &self.session_columns
    }

    /// Returns the sessions table, as SQL.
    pub(crate) fn table(&self) -> &str {
        self.key_operator.table()
    }

    /// Returns the number of parameters, without the parameters of the preconditions and of the
    /// session columns.
    pub(crate) const fn parameters(&self) -> usize {
        self.parameters.len()
    }

    /// Returns whether the statement changes the tables. A server in recovery rejects such a
    /// statement.
    pub(crate) fn writes(&self) -> bool {
        [
            "INSERT INTO ",
            "UPDATE ",
            "DELETE FROM ",
            "LOCK ",
            "FOR UPDATE",
        ]
        .iter()
        .any(|word| self.sql.contains(word))
    }

    /// Returns whether `EXPLAIN` supports the statement.
    pub(crate) fn can_be_explained(&self) -> bool {
        !self.sql.starts_with("LOCK ")
    }

    /// Returns the type of the parameter that is the user's key, if there is one.
    pub(crate) fn key_type<'a>(&self, types: &'a [Type]) -> Option<&'a Type> {
        let mut named = self.parameters.iter().zip(types);
        named.find_map(|(name, key)| type_of(name).is_none().then_some(key))
    }

    /// Returns whether one of the parameters is the user's key, whose type the application chooses.
    pub(crate) fn has_user_key_parameter(&self) -> bool {
        self.parameters.iter().any(|name| type_of(name).is_none())
    }

    /// Returns the types of the parameters. The caller supplies the types of the application's
    /// columns.
    pub(crate) fn types(&self, key: &Type, others: Vec<Type>) -> Vec<Type> {
        let own = self.parameters.iter().map(|name| type_of(name));
        let types = own.map(|own| own.unwrap_or_else(|| key.clone()));
        types.chain(others).collect()
    }
}

/// The placeholder for preconditions. It is an SQL comment. The statement is therefore valid
/// without preconditions.
pub(crate) const NO_PRECONDITIONS: &str = "/* no preconditions */";

/// Returns the type of a parameter, or `None` for the user's key. A name has the same type in every
/// statement.
fn type_of(parameter: &str) -> Option<Type> {
    Some(match parameter {
        "digest" => Type::BYTEA,
        "digests" | "replaced" => Type::BYTEA_ARRAY,
        "idle_seconds" | "lifetime_seconds" | "interval_seconds" => Type::FLOAT8,
        "remembered" => Type::BOOL,
        "user_agent" | "table_name" => Type::TEXT,
        "ip" => Type::INET,
        "only" | "except" => Type::UUID,
        "ids" | "replaced_ids" => Type::UUID_ARRAY,
        "times" => Type::TIMESTAMPTZ_ARRAY,
        "others" | "page" | "next_page" | "query_seq" | "most" => Type::INT8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ephemeral_postgres::TestDatabase;

    use super::*;
    use crate::{
        error::BoxError,
        postgres::{
            LookupRow, PgUser,
            sql::{Statements, Table},
        },
    };

    #[derive(Clone)]
    struct User;

    impl PgUser for User {
        type Id = i32;
        const COLUMNS: &'static str = "u.id";

        fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
            Ok(Self)
        }
    }

    fn statement(sql: String, parameters: &'static [&'static str]) -> Statement {
        let key_operator = Arc::new(KeyOperator::new(String::new()));
        Statement::new(sql, parameters, &key_operator)
    }

    /// An unnamed statement and a prepared statement have the same parameter types: the server
    /// infers the types that are declared here.
    #[tokio::test]
    async fn parameters_have_the_types_that_the_server_finds() {
        let migration = include_str!("../../../migrations/0001_create_sessions.sql");
        let users = "CREATE TABLE users (id int PRIMARY KEY);";
        let database = TestDatabase::create(&format!("{users}{migration}")).await;
        let client = database.client().await;
        let table = Table {
            schema: None,
            name: "sessions".to_owned(),
        };
        for statement in Statements::new::<User>(&table, std::time::Duration::from_secs(60)).all() {
            let prepared = client.prepare(&statement.sql).await.unwrap();
            let found = statement.types(&Type::INT4, Vec::new());
            assert_eq!(found, prepared.params(), "{}", statement.sql);
        }
    }

    #[test]
    fn preconditions_come_after_the_other_parameters() {
        let sql = format!("SELECT WHERE $1 {NO_PRECONDITIONS}");
        let statement = statement(sql, &["remembered"]).with_preconditions(vec!["u.a", "u.b"]);
        let expected = "SELECT WHERE $1 \
            AND ((u.a) OPERATOR(pg_catalog.=) $2 OR ((u.a) IS NULL AND $2 IS NULL))\n\
            AND ((u.b) OPERATOR(pg_catalog.=) $3 OR ((u.b) IS NULL AND $3 IS NULL))\n";
        assert_eq!(statement.sql, expected);
        let found = statement.types(&Type::UUID, vec![Type::TEXT, Type::INT4]);
        assert_eq!(found, [Type::BOOL, Type::TEXT, Type::INT4]);
    }

    #[test]
    fn the_user_key_parameter_has_the_supplied_type() {
        let statement = statement(String::new(), &["user_id", "only"]);
        assert!(statement.has_user_key_parameter());
        let found = statement.types(&Type::INT4, Vec::new());
        assert_eq!(found, [Type::INT4, Type::UUID]);
    }
}
