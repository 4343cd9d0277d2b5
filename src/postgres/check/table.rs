//! Findings about the sessions table, each with its remedy.

use tokio_postgres::Row;

use crate::error::{BoxError, Error, ErrorKind};

/// Returns the findings in a row of `check_table.sql`.
pub(super) fn findings(row: &Row, in_recovery: bool) -> Result<Vec<String>, Error> {
    let read = |error: tokio_postgres::Error| Error::new(ErrorKind::Decode, BoxError::from(error));
    let text = |name| row.try_get::<_, Option<&str>>(name).map_err(read);
    let holds = |name| row.try_get::<_, bool>(name).map_err(read);
    let table = text("name")?.unwrap_or_default();
    let role = text("role")?.unwrap_or_default();
    let mut findings = Vec::new();
    let mut add = |finding: String| findings.push(finding);

    match text("kind")?.unwrap_or_default() {
        "r" => {}
        "p" => add(format!(
            "{table} is partitioned, and expired sessions would not be deleted: use an ordinary \
             table"
        )),
        kind => add(format!(
            "{table} is not an ordinary table (relkind {kind}): create it with migrate()"
        )),
    }
    if text("persistence")? == Some("t") {
        add(format!(
            "{table} is a temporary table, which is invisible to other connections: drop it, or \
             name the schema with with_schema"
        ));
    }
    if holds("has_children")? {
        add(format!(
            "other tables inherit from {table}, and expired sessions would not be deleted: use a \
             table without children"
        ));
    }
    if let Some(columns) = text("unfit_columns")? {
        add(format!(
            "{table} needs the columns {columns}: compare it with \
             migrations/0001_create_sessions.sql"
        ));
    }
    if !holds("digest_is_unique")? {
        add(format!(
            "{table} has no valid unique index on token_digest: CREATE UNIQUE INDEX ON {table} \
             (token_digest)"
        ));
    }
    let keys = (text("user_id_type")?, text("key_type")?);
    if let (Some(user_id), Some(key)) = keys
        && user_id != key
        && ![user_id, key].iter().all(|each| is_text(each))
    {
        add(format!(
            "{table}.user_id has the type {user_id}, and the users' key that it refers to has \
             the type {key}: ALTER TABLE {table} ALTER COLUMN user_id TYPE {key}"
        ));
    }
    if holds("collations_differ")? {
        add(format!(
            "the collation of {table}.user_id is not that of the users' key, and two spellings \
             of one key could count as two users: ALTER TABLE {table} ALTER COLUMN user_id TYPE … \
             COLLATE … with the collation of the key"
        ));
    }
    let hidden = |table: &str| {
        format!(
            "row-level security hides rows of {table} from the role {role}: the role must own \
             the table without FORCE ROW LEVEL SECURITY, or have BYPASSRLS"
        )
    };
    if holds("rows_are_hidden")? {
        add(hidden(table));
    }
    let users = text("users")?;
    if let Some(users) = users.filter(|_| holds("users_are_hidden").unwrap_or(true)) {
        add(hidden(users));
    }
    if let Some(rights) = text("missing_rights")?.filter(|_| !in_recovery) {
        add(format!(
            "the role {role} lacks the privileges {rights} on {table}: GRANT them as shown in \
             \"The database role\" in SECURITY.md"
        ));
    }
    if holds("read_only")? && !in_recovery {
        add(format!(
            "transactions of the role {role} are read-only: set default_transaction_read_only to \
             off for the role, the database and the server"
        ));
    }
    if users.is_none() {
        tracing::warn!(
            target: "tower_user_session",
            event = "no_foreign_key",
            %table,
            "user_id has no foreign key: the sessions of a deleted user stay in the table, and \
             would belong to a later user with the same key"
        );
    }
    Ok(findings)
}

/// Returns whether the type is `text` or `character varying`. The two types share one equality
/// operator. A foreign key between them is therefore sound.
fn is_text(name: &str) -> bool {
    ["text", "character varying"].contains(&name)
}
