//! One statement: its text, and of which types its parameters are.

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
    postgres::sql::key_operator::{KeyOperator, PLACEHOLDER},
};

/// Values for a statement's parameters, in their order.
pub(crate) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement's text, ready to be run.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    key_operator: Arc<KeyOperator>,
    /// The text with the operator of the foreign key.
    resolved: OnceLock<String>,
    parameters: &'static [&'static str],
    preconditions: Vec<&'static str>,
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
        }
    }

    /// Returns the text to send. The first time it may read the operator for users' keys on this connection.
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

    /// The statement with what must be true of the user's row besides: columns that must still have a
    /// value, as parameters after the others.
    pub(crate) fn demanding(&self, columns: Vec<&'static str>) -> Self {
        let mut preconditions = String::new();
        for (n, column) in columns.iter().enumerate() {
            let place = self.parameters.len() + 1 + n;
            // Writing to a string does not fail.
            // `IS NOT DISTINCT FROM` would resolve its operator through the search_path. The comparison comes
            // first, so that the server takes the parameter's type from the column.
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
        }
    }

    /// The columns that must still have a value.
    pub(crate) fn preconditions(&self) -> &[&'static str] {
        &self.preconditions
    }

    /// How many parameters it has, without those for demands.
    pub(crate) const fn parameters(&self) -> usize {
        self.parameters.len()
    }

    /// Whether it changes the tables, so that a server in recovery refuses it.
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

    /// Whether there is a plan for it to ask for.
    pub(crate) fn can_be_explained(&self) -> bool {
        !self.sql.starts_with("LOCK ")
    }

    /// The type of the parameter that is the user's key, if there is one, among those of all parameters.
    pub(crate) fn key_type<'a>(&self, types: &'a [Type]) -> Option<&'a Type> {
        let mut named = self.parameters.iter().zip(types);
        named.find_map(|(name, key)| type_of(name).is_none().then_some(key))
    }

    /// Whether one of its parameters is the user's key, whose type is the application's choice.
    pub(crate) fn names_a_user(&self) -> bool {
        self.parameters.iter().any(|name| type_of(name).is_none())
    }

    /// The values with the types of their parameters, where those of the application's columns are as
    /// given.
    pub(crate) fn typed<'a>(
        &self,
        values: Values<'a>,
        key: &Type,
        preconditions: Vec<Type>,
    ) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
        let own = self.parameters.iter().map(|name| type_of(name));
        let types = own.map(|own| own.unwrap_or_else(|| key.clone()));
        values
            .iter()
            .copied()
            .zip(types.chain(preconditions))
            .collect()
    }
}

/// Where the demands go; a comment, so that the statement without any is whole.
pub(crate) const NO_PRECONDITIONS: &str = "/* and nothing else */";

/// The type of a parameter, which has the same name in every statement; `None`: the user's key.
fn type_of(parameter: &str) -> Option<Type> {
    Some(match parameter {
        "digest" => Type::BYTEA,
        "digests" | "replaced" | "kept" => Type::BYTEA_ARRAY,
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

    fn types(values: Vec<(&(dyn ToSql + Sync), Type)>) -> Vec<Type> {
        values.into_iter().map(|(_, ty)| ty).collect()
    }

    /// Sent whole or prepared, a statement means the same: the types given are those that the server
    /// finds out.
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
            let nothing = vec![&None::<i32> as &(dyn ToSql + Sync); statement.parameters()];
            let found = types(statement.typed(&nothing, &Type::INT4, Vec::new()));
            assert_eq!(found, prepared.params(), "{}", statement.sql);
        }
    }

    #[test]
    fn demands_come_after_the_other_parameters() {
        let sql = format!("SELECT WHERE $1 {NO_PRECONDITIONS}");
        let statement = statement(sql, &["remembered"]).demanding(vec!["u.a", "u.b"]);
        let expected = "SELECT WHERE $1 \
            AND ((u.a) OPERATOR(pg_catalog.=) $2 OR ((u.a) IS NULL AND $2 IS NULL))\n\
            AND ((u.b) OPERATOR(pg_catalog.=) $3 OR ((u.b) IS NULL AND $3 IS NULL))\n";
        assert_eq!(statement.sql, expected);
        let values: Values<'_> = &[&true, &"a", &7_i32];
        let found = types(statement.typed(values, &Type::UUID, vec![Type::TEXT, Type::INT4]));
        assert_eq!(found, [Type::BOOL, Type::TEXT, Type::INT4]);
    }

    #[test]
    fn the_key_of_the_user_is_of_the_type_given() {
        let statement = statement(String::new(), &["user_id", "only"]);
        assert!(statement.names_a_user());
        let found = types(statement.typed(&[&7_i32, &None::<i32>], &Type::INT4, Vec::new()));
        assert_eq!(found, [Type::INT4, Type::UUID]);
    }
}
