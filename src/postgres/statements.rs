//! The statements, with the application's names and fragments put in.

use std::fmt::Write as _;

use super::user::PgUser;

const FIND: &str = include_str!("find.sql");
const INSERT: &str = include_str!("insert.sql");
const DELETE: &str = include_str!("delete.sql");

/// Where the sessions are.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Table {
    /// The name as SQL has it: quoted, and qualified where the application named a schema.
    pub(super) fn to_sql(&self) -> String {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

#[derive(Debug)]
pub(super) struct Statements {
    pub(super) find: String,
    pub(super) insert: String,
    pub(super) delete: String,
}

impl Statements {
    pub(super) fn new<U: PgUser>(table: &Table) -> Self {
        let sessions = table.to_sql();
        let text = |name: &str| match name {
            "sessions" => Some(&*sessions),
            "columns" => Some(U::COLUMNS),
            "from" => Some(U::FROM),
            "key" => Some(U::KEY),
            "condition" => Some(U::CONDITION),
            _ => None,
        };
        Self {
            find: fill(FIND, &["digests", "idle_seconds"], text),
            insert: fill(
                INSERT,
                &[
                    "digest",
                    "user_id",
                    "replaced",
                    "lifetime_seconds",
                    "user_agent",
                    "ip",
                ],
                text,
            ),
            delete: fill(DELETE, &["digests"], text),
        }
    }
}

/// Replaces `:name`, as psql's variables are written, by a text or by the parameter's number. What
/// was put in is not read again, and `::type` is left alone.
fn fill<'a>(sql: &str, parameters: &[&str], text: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut filled = String::with_capacity(2 * sql.len());
    let code: String = sql
        .lines()
        .filter(|line| !line.starts_with("--"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut rest = &*code;
    while let Some(colon) = rest.find(':') {
        filled.push_str(&rest[..colon]);
        rest = &rest[colon + 1..];
        if let Some(cast) = rest.strip_prefix(':') {
            filled.push_str("::");
            rest = cast;
            continue;
        }
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if let Some(place) = parameters.iter().position(|parameter| *parameter == name) {
            // Writing to a string does not fail.
            let _ = write!(filled, "${}", place + 1);
        } else if let Some(text) = text(name) {
            filled.push_str(text);
        } else {
            filled.push(':');
            filled.push_str(name);
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, UserRow};

    #[derive(Clone)]
    struct User;
    impl PgUser for User {
        type Id = i64;
        const COLUMNS: &'static str = "':key', u.a::text";
        fn from_row(_: &UserRow<'_>) -> Result<Self, BoxError> {
            Ok(Self)
        }
    }

    #[test]
    fn every_name_is_filled_in_once() {
        let table = Table {
            schema: Some("my \"own\"".to_owned()),
            name: "log ins".to_owned(),
        };
        let statements = Statements::new::<User>(&table);
        assert!(
            statements
                .find
                .contains("FROM \"my \"\"own\"\"\".\"log ins\" AS s")
        );
        assert!(statements.find.contains("SELECT ':key', u.a::text\n"));
        assert!(statements.find.contains("unnest($1::pg_catalog.bytea[])"));
        for sql in [&statements.find, &statements.insert, &statements.delete] {
            let left = sql.replace("::", "").replace("':key'", "");
            assert!(!left.contains(':'), "a name was left in {sql}");
        }
    }

    /// D19: no statement changes what is there.
    #[test]
    fn nothing_upserts() {
        for sql in [FIND, INSERT, DELETE] {
            assert!(!sql.to_uppercase().contains("ON CONFLICT"));
        }
    }
}
