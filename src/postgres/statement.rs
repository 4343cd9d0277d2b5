//! One statement: its text, and of which types its parameters are.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};

/// Values for a statement's parameters, in their order.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement's text, ready to be run.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    parameters: &'static [&'static str],
    demands: Vec<&'static str>,
}

impl Statement {
    pub(super) fn new(sql: String, parameters: &'static [&'static str]) -> Self {
        Self {
            sql,
            parameters,
            demands: Vec::new(),
        }
    }

    /// The statement with what must be true of the user's row besides: columns that must still have a
    /// value, as parameters after the others.
    pub(super) fn demanding(&self, columns: Vec<&'static str>) -> Self {
        let mut demands = String::new();
        for (n, column) in columns.iter().enumerate() {
            let place = self.parameters.len() + 1 + n;
            // Writing to a string does not fail.
            let _ = writeln!(demands, "AND ({column}) IS NOT DISTINCT FROM ${place}");
        }
        Self {
            sql: self.sql.replace(NO_DEMANDS, &demands),
            parameters: self.parameters,
            demands: columns,
        }
    }

    /// The columns that must still have a value.
    pub(super) fn demands(&self) -> &[&'static str] {
        &self.demands
    }

    /// How many parameters it has, without those for demands.
    pub(super) const fn parameters(&self) -> usize {
        self.parameters.len()
    }

    /// Whether there is a plan for it to ask for.
    pub(super) fn can_be_explained(&self) -> bool {
        !self.sql.starts_with("LOCK ")
    }

    /// Whether one of its parameters is the user's key, whose type is the application's choice.
    pub(super) fn names_a_user(&self) -> bool {
        self.parameters.iter().any(|name| type_of(name).is_none())
    }

    /// The values with the types of their parameters, where those of the application's columns are as
    /// given.
    pub(super) fn typed<'a>(
        &self,
        values: Values<'a>,
        key: &Type,
        demands: Vec<Type>,
    ) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
        let own = self.parameters.iter().map(|name| type_of(name));
        let types = own.map(|own| own.unwrap_or_else(|| key.clone()));
        values.iter().copied().zip(types.chain(demands)).collect()
    }
}

/// Where the demands go; a comment, so that the statement without any is whole.
pub(super) const NO_DEMANDS: &str = "/* and nothing else */";

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
        "others" | "page" | "next_page" | "question" => Type::INT8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ephemeral_postgres::TestDatabase;

    use super::*;
    use crate::{
        BoxError, PgUser, UserRow,
        postgres::statements::{Statements, Table},
    };

    #[derive(Clone)]
    struct User;

    impl PgUser for User {
        type Id = i32;
        const COLUMNS: &'static str = "u.id";

        fn from_row(_: &UserRow<'_>) -> Result<Self, BoxError> {
            Ok(Self)
        }
    }

    fn types(values: Vec<(&(dyn ToSql + Sync), Type)>) -> Vec<Type> {
        values.into_iter().map(|(_, ty)| ty).collect()
    }

    /// Sent whole or prepared, a statement means the same: the types given are those that the server
    /// finds out.
    #[tokio::test]
    async fn parameters_have_the_types_that_the_server_finds() {
        let migration = include_str!("../../migrations/0001_create_sessions.sql");
        let users = "CREATE TABLE users (id int PRIMARY KEY);";
        let database = TestDatabase::create(&format!("{users}{migration}")).await;
        let client = database.client().await;
        let table = Table {
            schema: None,
            name: "sessions".to_owned(),
        };
        for statement in Statements::new::<User>(&table).all() {
            let prepared = client.prepare(&statement.sql).await.unwrap();
            let nothing = vec![&None::<i32> as &(dyn ToSql + Sync); statement.parameters()];
            let found = types(statement.typed(&nothing, &Type::INT4, Vec::new()));
            assert_eq!(found, prepared.params(), "{}", statement.sql);
        }
    }

    #[test]
    fn demands_come_after_the_other_parameters() {
        let sql = format!("SELECT WHERE $1 {NO_DEMANDS}");
        let statement = Statement::new(sql, &["remembered"]).demanding(vec!["u.a", "u.b"]);
        let expected = "SELECT WHERE $1 \
                        AND (u.a) IS NOT DISTINCT FROM $2\nAND (u.b) IS NOT DISTINCT FROM $3\n";
        assert_eq!(statement.sql, expected);
        let values: Values<'_> = &[&true, &"a", &7_i32];
        let found = types(statement.typed(values, &Type::UUID, vec![Type::TEXT, Type::INT4]));
        assert_eq!(found, [Type::BOOL, Type::TEXT, Type::INT4]);
    }

    #[test]
    fn the_key_of_the_user_is_of_the_type_given() {
        let statement = Statement::new(String::new(), &["user_id", "only"]);
        assert!(statement.names_a_user());
        let found = types(statement.typed(&[&7_i32, &None::<i32>], &Type::INT4, Vec::new()));
        assert_eq!(found, [Type::INT4, Type::UUID]);
    }
}
