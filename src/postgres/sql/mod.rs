//! SQL statements, completed with the application's identifiers and fragments.

pub(crate) mod execution;
pub(crate) mod key_operator;
pub(crate) mod own_transaction;
pub(crate) mod session_columns;
pub(crate) mod statement;
pub(crate) mod text;
mod user_types;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use crate::postgres::{
    decode::FIRST_USER_COLUMN,
    sql::{
        key_operator::{KeyOperator, PLACEHOLDER},
        session_columns::Fragments,
        statement::{NO_PRECONDITIONS, Statement},
        text::without_comments,
    },
    user::PgUser,
};

/// The sessions table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl Table {
    /// Returns the quoted name, qualified if the application set a schema.
    pub(crate) fn to_sql(&self) -> String {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

macro_rules! statements {
    ($($name:ident: $file:literal, $parameters:expr;)*) => {
        /// The statements. Their parameters are in the order listed here.
        #[derive(Debug)]
        pub(crate) struct Statements {
            $(pub(crate) $name: Statement,)*
        }

        impl Statements {
            pub(crate) fn new<U: PgUser>(table: &Table, absolute_limit: Duration) -> Self {
                let template = Template::new::<U>(table, absolute_limit);
                let key_operator = Arc::new(KeyOperator::new(table.to_sql()));
                let mut all = Self { $($name: Statement::new(
                    template.fill(include_str!($file), &$parameters),
                    &$parameters,
                    &key_operator,
                ),)* };
                all.find.sql = all.find.sql.replace(&template.user_key_column, "");
                all
            }

            pub(crate) const fn find(&self, with_user_key: bool) -> &Statement {
                if with_user_key {
                    &self.find_with_user_key
                } else {
                    &self.find
                }
            }

            /// Returns every statement, so that a check can verify all of them.
            pub(crate) fn all(&self) -> impl Iterator<Item = &Statement> {
                [$(&self.$name,)*].into_iter()
            }
        }

        #[cfg(test)]
        const FILES: &[&str] = &[$(include_str!($file),)*];
    };
}

statements! {
    find: "find.sql", ["digests", "query_seq"];
    find_with_user_key: "find.sql", ["digests", "query_seq"];
    insert: "insert.sql", [
        "digest", "user_id", "replaced_ids", "lifetime_seconds", "remembered", "user_agent", "ip"
    ];
    lock: "lock.sql", ["user_id", "table_name", "replaced"];
    allowed: "allowed.sql", ["user_id"];
    live_sessions: "live_sessions.sql", ["user_id", "idle_seconds", "most"];
    end_oldest: "end_oldest.sql", ["user_id", "digest", "idle_seconds", "others"];
    update: "update.sql", ["only", "idle_seconds"];
    rotate: "rotate.sql", ["digest", "user_id", "replaced", "idle_seconds"];
    delete: "delete.sql", ["digests"];
    delete_locked: "delete_locked.sql", ["ids"];
    list: "list.sql", ["user_id", "idle_seconds"];
    revoke: "revoke.sql", ["user_id", "only", "except"];
    none_left: "none_left.sql", ["user_id", "only", "except"];
    lock_everyone: "lock_everyone.sql", [];
    revoke_everyone: "revoke_everyone.sql", [];
    none_left_of_everyone: "none_left_of_everyone.sql", [];
    revoke_everyone_where: "revoke_everyone_where.sql", [];
    none_left_of_everyone_where: "none_left_of_everyone_where.sql", [];
    remaining_lifetimes: "remaining_lifetimes.sql", ["ids", "idle_seconds"];
    announced: "announced.sql", ["table_name"];
    outdated: "outdated.sql", ["table_name"];
    touch: "touch.sql", ["ids", "times", "interval_seconds", "idle_seconds"];
    check_table: "check_table.sql", ["table_name"];
    check_user: "check_user.sql", [];
    check_outer_joins: "check_outer_joins.sql", [];
    delete_expired: "delete_expired.sql", [
        "page", "next_page", "table_name", "idle_seconds", "most"
    ];
}

const USER_KEY: &str = include_str!("user_key.sql");

/// Expressions that several statements share, by the name that stands for each. An expression may
/// contain the name of a later one.
const FRAGMENTS: [(&str, &str); 8] = [
    (":user_allowed", include_str!("user_allowed.sql")),
    (":live", include_str!("live.sql")),
    (":not_idle", include_str!("not_idle.sql")),
    (":isolation", include_str!("isolation.sql")),
    (":lock_key", include_str!("lock_key.sql")),
    (":locked_user", include_str!("locked_user.sql")),
    (":revocable", include_str!("revocable.sql")),
    (":any_session", include_str!("any_session.sql")),
];

struct Template {
    fragments: [(&'static str, String); FRAGMENTS.len()],
    sessions: String,
    ends_at: String,
    before_user: String,
    user_key: String,
    user_key_column: String,
    user_found: String,
    session_columns: Fragments,
    columns: &'static str,
    from: &'static str,
    key: &'static str,
    condition: &'static str,
}

impl Template {
    fn new<U: PgUser>(table: &Table, absolute_limit: Duration) -> Self {
        let fragment = |sql| without_comments(sql).trim_end().to_owned();
        Self {
            fragments: FRAGMENTS.map(|(name, sql)| (name, fragment(sql))),
            session_columns: Fragments::new(
                U::SESSION_COLUMNS,
                &table.to_sql(),
                U::KEY,
                PLACEHOLDER,
            ),
            user_found: if U::SESSION_COLUMNS.is_empty() {
                String::new()
            } else {
                without_comments(include_str!("user_found.sql"))
            },
            sessions: table.to_sql(),
            ends_at: without_comments(include_str!("ends_at.sql")).replace(
                ":absolute_seconds",
                &absolute_limit.as_secs_f64().to_string(),
            ),
            before_user: ["NULL"; FIRST_USER_COLUMN].join(", "),
            user_key_column: format!(
                ", {} AS live_session_user_key",
                without_comments(USER_KEY)
                    .replace("s.user_id", "live_session.live_session_user_id")
            ),
            user_key: without_comments(USER_KEY),
            columns: U::COLUMNS,
            from: U::FROM,
            key: U::KEY,
            condition: U::CONDITION,
        }
    }

    /// Replaces each `:name`, the notation of psql's variables, with a fragment or a parameter
    /// number. Names in the fragments of this crate are replaced too. Names in the application's
    /// fragments stay as they are, and so does a cast (`::type`).
    fn fill(&self, sql: &str, parameters: &[&str]) -> String {
        // These fragments contain `:name` themselves. Therefore they are inserted first.
        let mut sql = without_comments(sql).replace(":user_found", self.user_found.trim_end());
        for (name, fragment) in &self.fragments {
            sql = sql.replace(name, fragment);
        }
        let mut filled = String::with_capacity(2 * sql.len());
        let mut rest = &*sql;
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
                // Writing to a string cannot fail.
                let _ = write!(filled, "${}", place + 1);
            } else {
                filled.push_str(self.text(name));
            }
        }
        filled.push_str(rest);
        filled
    }

    fn text(&self, name: &str) -> &str {
        match name {
            "sessions" => &self.sessions,
            "before_user" => &self.before_user,
            "ends_at" => self.ends_at.trim_end(),
            "user_key" => &self.user_key,
            "user_key_column" => &self.user_key_column,
            "columns" => self.columns,
            "from" => self.from,
            "key" => self.key,
            "equals" => PLACEHOLDER,
            "condition" => self.condition,
            "preconditions" => NO_PRECONDITIONS,
            _ => self.session_columns.text(name).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::BoxError, postgres::LookupRow};

    #[derive(Clone)]
    struct User;
    impl PgUser for User {
        type Id = i64;
        const COLUMNS: &'static str = "':key', u.a::text";
        fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
            Ok(Self)
        }
    }

    #[test]
    fn every_name_is_substituted_once() {
        let table = Table {
            schema: Some("my \"own\"".to_owned()),
            name: "log ins".to_owned(),
        };
        let statements = Statements::new::<User>(&table, Duration::from_secs(60));
        assert!(
            statements
                .find
                .sql
                .contains("FROM \"my \"\"own\"\"\".\"log ins\" AS s")
        );
        assert!(statements.find.sql.contains("SELECT ':key', u.a::text\n"));
        assert!(
            statements
                .find
                .sql
                .contains("unnest($1::pg_catalog.bytea[])")
        );
    }

    #[test]
    fn every_name_in_a_statement_is_known() {
        let known = [
            "sessions",
            "before_user",
            "not_idle",
            "user_allowed",
            "isolation",
            "lock_key",
            "locked_user",
            "revocable",
            "any_session",
            "ends_at",
            "columns",
            "from",
            "key",
            "equals",
            "condition",
            "preconditions",
            "live",
            "user_key",
            "user_key_column",
            "user_found",
            "stored_columns",
            "session_columns",
            "found_columns",
            "this_session",
            "new_session",
            "some_session",
            "of_session",
            "value_columns",
            "value_parameters",
            "assignments",
            "matching",
        ];
        let parameters = [
            "digest",
            "digests",
            "user_id",
            "replaced",
            "replaced_ids",
            "lifetime_seconds",
            "remembered",
            "user_agent",
            "ip",
            "idle_seconds",
            "others",
            "only",
            "except",
            "ids",
            "times",
            "interval_seconds",
            "page",
            "next_page",
            "query_seq",
            "table_name",
            "most",
        ];
        let fragments = FRAGMENTS.iter().map(|(_, sql)| sql);
        for sql in FILES.iter().chain(fragments) {
            for piece in without_comments(sql).replace("::", " ").split(':').skip(1) {
                let name: String = piece
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                assert!(
                    known.contains(&&*name) || parameters.contains(&&*name),
                    "{name} in {sql}"
                );
            }
        }
    }

    /// The lookup and the users' trigger compute the same hash.
    #[test]
    fn the_hash_of_a_user_is_one_expression() {
        let words = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        let of_trigger = without_comments(USER_KEY).replace("s.user_id", "keys.key");
        let migration = include_str!("../../../migrations/0002_announce_sessions.sql");
        assert_eq!(words(migration).matches(&words(&of_trigger)).count(), 1);
    }

    /// D13: the functions of the migration run the statements of the crate's own calls.
    #[test]
    fn the_functions_run_the_statements_of_the_crate() {
        let words = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
        let migration = words(include_str!("../../../migrations/0003_revoke_sessions.sql"));
        for (sql, functions) in [
            (include_str!("isolation.sql"), 2),
            (include_str!("lock_key.sql"), 1),
            (include_str!("locked_user.sql"), 1),
            (include_str!("revoke.sql"), 1),
            (include_str!("revocable.sql"), 1),
            (include_str!("lock_everyone.sql"), 1),
            (include_str!("revoke_everyone.sql"), 1),
            (include_str!("any_session.sql"), 1),
        ] {
            let mut statement = words(&without_comments(sql));
            for (name, argument) in [
                (":new_session LATERAL ", ""),
                (" :matching", ""),
                (":table_name", "%1$L"),
                (":sessions", "%1$s"),
                (":from", "%2$s AS u"),
                (":key", "u.%3$I"),
                (":equals", "%4$s"),
                (":user_id", "$1"),
                (":only", "%5$s"),
                (":except", "%6$s"),
            ] {
                statement = statement.replace(name, argument);
            }
            // A statement ends where the next word is not part of it.
            let ends = [");", ")", ";"].map(|end| format!("{statement}{end}"));
            let ends = ends.into_iter().chain([format!("{statement} )")]);
            let found: usize = ends.map(|text| migration.matches(&text).count()).sum();
            assert_eq!(found, functions, "{statement}");
        }
    }

    /// Without session columns, the lookup has the same text as before they existed.
    #[test]
    fn a_lookup_without_session_columns_has_no_trace_of_them() {
        #[derive(Clone)]
        struct Plain;
        impl PgUser for Plain {
            type Id = i64;
            const COLUMNS: &'static str = "u.id";
            fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
                Ok(Self)
            }
        }
        let table = Table {
            schema: None,
            name: "sessions".to_owned(),
        };
        let statements = Statements::new::<Plain>(&table, Duration::from_secs(60));
        let expected = include_str!("find_without_session_columns.sql");
        assert_eq!(statements.find.sql, expected);
    }

    /// D19: no statement updates a session that another statement may have created.
    #[test]
    fn no_statement_upserts() {
        for sql in FILES {
            assert!(!sql.to_uppercase().contains("ON CONFLICT"));
        }
    }
}
