//! SQL fragments for the application's columns of the sessions table.
//!
//! The names are fixed when the store is created. Which of the columns a statement sets is known
//! when it runs: the statement contains placeholders, which [`assign`] replaces.

use std::fmt::Write as _;

/// The columns of this crate, which the application's must not repeat.
const OWN: [&str; 10] = [
    "token_digest",
    "id",
    "user_id",
    "created_at",
    "authenticated_at",
    "last_seen_at",
    "expires_at",
    "remembered",
    "user_agent",
    "ip",
];

// Comments, so that each statement is valid without a value.
const COLUMNS: &str = "/* columns of values */";
const PARAMETERS: &str = "/* values */";
const ASSIGNMENTS: &str = "/* assignments */";
const MATCHING: &str = "/* matching values */";

/// Panics at compile time if one of the names is not allowed. See
/// [`PgUser::SESSION_COLUMNS`](crate::PgUser::SESSION_COLUMNS).
pub(crate) const fn validate(columns: &[&str]) {
    let mut index = 0;
    while index < columns.len() {
        let name = columns[index].as_bytes();
        assert!(
            !name.is_empty() && name.len() <= 63,
            "PgUser::SESSION_COLUMNS: a name has 1 to 63 bytes"
        );
        assert!(
            !name[0].is_ascii_digit(),
            "PgUser::SESSION_COLUMNS: a name starts with a letter or _"
        );
        let mut byte = 0;
        while byte < name.len() {
            assert!(
                name[byte].is_ascii_alphanumeric() || name[byte] == b'_',
                "PgUser::SESSION_COLUMNS: a name consists of ASCII letters, digits and _"
            );
            byte += 1;
        }
        assert!(
            !starts_with(name, b"live_session_"),
            "PgUser::SESSION_COLUMNS: a name does not start with live_session_"
        );
        let mut own = 0;
        while own < OWN.len() {
            assert!(
                !equal(name, OWN[own].as_bytes()),
                "PgUser::SESSION_COLUMNS: the name is one of this crate's columns"
            );
            own += 1;
        }
        let mut earlier = 0;
        while earlier < index {
            assert!(
                !equal(name, columns[earlier].as_bytes()),
                "PgUser::SESSION_COLUMNS: a name occurs twice"
            );
            earlier += 1;
        }
        index += 1;
    }
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && starts_with(a, b)
}

const fn starts_with(name: &[u8], prefix: &[u8]) -> bool {
    if name.len() < prefix.len() {
        return false;
    }
    let mut index = 0;
    while index < prefix.len() {
        if name[index] != prefix[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// The fragments that a statement's template contains. Each is empty if there are no session
/// columns.
#[derive(Debug)]
pub(super) struct Fragments {
    /// `, s."a", s."b"`
    pub(super) stored: String,
    /// `, "a", "b"`
    pub(super) names: String,
    /// `, live_session."a", live_session."b"`
    pub(super) found: String,
    /// The relation `live_session` for the row `s`.
    pub(super) this_session: String,
    /// The relation `live_session` for a session that a sign-in begins. A column without a value is
    /// null.
    pub(super) new_session: String,
    /// The relation `live_session` for any one session, with its user.
    pub(super) some_session: String,
    /// Selects the user of `some_session`.
    pub(super) of_session: String,
}

impl Fragments {
    pub(super) fn new(columns: &[&str], sessions: &str, key: &str, equals: &str) -> Self {
        let list = |prefix: &str| -> String {
            let each = |column: &&str| format!(", {prefix}\"{column}\"");
            columns.iter().map(each).collect()
        };
        let if_any = |fragment: String| {
            if columns.is_empty() {
                String::new()
            } else {
                fragment
            }
        };
        let stored = list("s.");
        Self {
            this_session: if_any(format!("(SELECT {}) AS live_session,", selected(columns))),
            new_session: null_session(columns, sessions),
            some_session: if_any(format!(
                "(SELECT s.user_id AS live_session_user_id{stored} FROM {sessions} AS s LIMIT 1) \
                 AS live_session,"
            )),
            of_session: if_any(format!(
                "AND {key} {equals} live_session.live_session_user_id"
            )),
            names: list(""),
            found: list("live_session."),
            stored,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        Some(match name {
            "stored_columns" => &self.stored,
            "session_columns" => &self.names,
            "found_columns" => &self.found,
            "this_session" => &self.this_session,
            "new_session" => &self.new_session,
            "some_session" => &self.some_session,
            "of_session" => &self.of_session,
            "value_columns" => COLUMNS,
            "value_parameters" => PARAMETERS,
            "assignments" => ASSIGNMENTS,
            "matching" => MATCHING,
            _ => return None,
        })
    }
}

/// Returns the relation `live_session` with one row of nulls, or an empty text if there are no
/// session columns.
pub(crate) fn null_session(columns: &[&str], sessions: &str) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let nulls: Vec<_> = columns.iter().map(|column| null(column)).collect();
    // The first branch gives each parameter the type of its column.
    format!(
        "(SELECT {} FROM {sessions} AS s WHERE false UNION ALL SELECT {}) AS live_session,",
        selected(columns),
        nulls.join(", ")
    )
}

/// `s."a", s."b"`
pub(crate) fn selected(columns: &[&str]) -> String {
    let each = columns.iter().map(|column| format!("s.\"{column}\""));
    each.collect::<Vec<_>>().join(", ")
}

fn null(column: &str) -> String {
    format!("NULL /* {column} */")
}

/// Returns the statement with values for these columns. The first value is this parameter.
pub(super) fn assign(sql: &str, columns: &[&str], first: usize) -> String {
    let mut sql = sql.to_owned();
    let (mut names, mut parameters) = (String::new(), String::new());
    let (mut assignments, mut matching) = (String::new(), String::new());
    for (column, place) in columns.iter().zip(first..) {
        // Writing to a string cannot fail.
        let _ = write!(names, ", \"{column}\"");
        let _ = write!(parameters, ", ${place}");
        let _ = write!(assignments, ", \"{column}\" = ${place}");
        let _ = write!(
            matching,
            "AND s.\"{column}\" OPERATOR(pg_catalog.=) ${place} "
        );
        sql = sql.replace(&null(column), &format!("${place}"));
    }
    sql.replace(COLUMNS, &names)
        .replace(PARAMETERS, &parameters)
        .replace(ASSIGNMENTS, &assignments)
        .replace(MATCHING, &matching)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that the compiler rejects, by the panic that it would report.
    #[test]
    fn unsuitable_names_are_rejected() {
        let long = "a".repeat(64);
        for (columns, text) in [
            (&[""] as &[&str], "1 to 63 bytes"),
            (&[&*long], "1 to 63 bytes"),
            (&["1a"], "starts with a letter or _"),
            (&["a b"], "ASCII letters"),
            (&["a\""], "ASCII letters"),
            (&["a;--"], "ASCII letters"),
            (&["ä"], "ASCII letters"),
            (&["a.b"], "ASCII letters"),
            (&["a$"], "ASCII letters"),
            (&["a*/"], "ASCII letters"),
            (&["id"], "one of this crate's columns"),
            (&["a", "ip"], "one of this crate's columns"),
            (&["live_session_id"], "does not start with live_session_"),
            (&["a", "b", "a"], "occurs twice"),
        ] {
            let panic = std::panic::catch_unwind(|| validate(columns)).unwrap_err();
            let found = panic.downcast_ref::<&str>().unwrap();
            assert!(found.contains(text), "{columns:?}: {found}");
        }
        validate(&[]);
        validate(&["a", "A", "_1", "select", "live_session", "ids", &long[1..]]);
    }

    /// Each column of the migration is one that the application cannot name.
    #[test]
    fn every_column_of_this_crate_is_known() {
        let migration = include_str!("../../../migrations/0001_create_sessions.sql");
        let (_, table) = migration.split_once("CREATE TABLE %1$s (").unwrap();
        let (table, _) = table.split_once("\n        ) WITH").unwrap();
        let lines = table.lines().map(str::trim);
        let mut columns: Vec<_> = lines
            .filter(|line| !line.is_empty() && !line.starts_with("--"))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        let mut own = OWN;
        own.sort_unstable();
        columns.sort_unstable();
        assert_eq!(columns, own);
    }

    fn of(columns: &[&str]) -> Fragments {
        Fragments::new(columns, "\"t\"", "u.id", "=")
    }

    /// The placeholders of values are comments, so that a statement is valid without values.
    #[test]
    fn fragments_name_each_column() {
        let two = of(&["a", "B"]);
        let null = "NULL /* a */, NULL /* B */";
        for (name, text, none) in [
            ("stored_columns", ", s.\"a\", s.\"B\"", ""),
            ("session_columns", ", \"a\", \"B\"", ""),
            (
                "found_columns",
                ", live_session.\"a\", live_session.\"B\"",
                "",
            ),
            (
                "this_session",
                "(SELECT s.\"a\", s.\"B\") AS live_session,",
                "",
            ),
            (
                "new_session",
                &format!(
                    "(SELECT s.\"a\", s.\"B\" FROM \"t\" AS s WHERE false UNION ALL SELECT {null}) \
                     AS live_session,"
                ),
                "",
            ),
            (
                "some_session",
                "(SELECT s.user_id AS live_session_user_id, s.\"a\", s.\"B\" FROM \"t\" AS s \
                 LIMIT 1) AS live_session,",
                "",
            ),
            (
                "of_session",
                "AND u.id = live_session.live_session_user_id",
                "",
            ),
            ("assignments", ASSIGNMENTS, ASSIGNMENTS),
        ] {
            assert_eq!(two.text(name), Some(text), "{name}");
            assert_eq!(of(&[]).text(name), Some(none), "{name}");
        }
        assert_eq!(two.text("unknown"), None);
    }

    /// A column without a value stays null, also if its name is the beginning of another name.
    #[test]
    fn values_are_numbered_from_the_first_parameter() {
        let sql = [
            COLUMNS,
            PARAMETERS,
            ASSIGNMENTS,
            MATCHING,
            &null("a"),
            &null("ab"),
        ]
        .join("|");
        assert_eq!(
            assign(&sql, &[], 3),
            "||||NULL /* a */|NULL /* ab */",
            "no values"
        );
        assert_eq!(
            assign(&sql, &["ab"], 3),
            ", \"ab\"|, $3|, \"ab\" = $3|AND s.\"ab\" OPERATOR(pg_catalog.=) $3 |NULL /* a */|$3"
        );
        let both = assign(&sql, &["ab", "a"], 9);
        assert!(both.ends_with("|$10|$9"), "{both}");
        assert!(both.starts_with(", \"ab\", \"a\"|, $9, $10|, \"ab\" = $9, \"a\" = $10|"));
    }
}
