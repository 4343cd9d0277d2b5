//! SQL texts of single statements, without their comments.

use std::sync::LazyLock;

/// Returns the query of `users_types.sql` for these expressions. `live_session` is the relation of
/// the session columns, or empty.
pub(crate) fn types_query(live_session: &str, from: &str, expressions: &str) -> String {
    // The application's fragments are inserted last and not substituted again.
    let sql = without_comments(include_str!("users_types.sql"));
    let sql = sql.replace(":live_session", live_session);
    let (before, after) = sql.split_once(":expressions").unwrap_or_default();
    let (between, after) = after.split_once(":from").unwrap_or_default();
    [before, expressions, between, from, after].concat()
}

/// The query of `base_type.sql`.
pub(crate) static BASE_TYPE: LazyLock<String> =
    LazyLock::new(|| without_comments(include_str!("base_type.sql")).replace(":type_oid", "$1"));

/// The query of `key_operator.sql`.
pub(crate) static KEY_OPERATOR: LazyLock<String> = LazyLock::new(|| {
    without_comments(include_str!("key_operator.sql")).replace(":table_name", "$1")
});

pub(super) fn without_comments(sql: &str) -> String {
    sql.lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(|l| [l, "\n"])
        .collect()
}
