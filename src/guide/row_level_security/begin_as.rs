use tower_user_session::tokio_postgres::{
    Client, Error, Transaction,
    types::{ToSql, Type},
};

/// Begins a transaction in which the setting `app.user_id` is this user, and each further setting
/// `app.{name}` has its value. An absent value is empty.
///
/// The settings are local to the transaction: PostgreSQL resets them when it commits or rolls back.
/// A pool or a pooler therefore never lends a connection with the settings of another request.
/// The statement has no name, so that it also works behind a pooler without prepared statements.
pub async fn begin_as<'a>(
    client: &'a mut Client,
    user_id: i64,
    session_columns: &[(&str, Option<String>)],
) -> Result<Transaction<'a>, Error> {
    let mut names = vec!["app.user_id".to_owned()];
    let mut values = vec![user_id.to_string()];
    for (name, value) in session_columns {
        names.push(format!("app.{name}"));
        values.push(value.clone().unwrap_or_default());
    }
    let transaction = client.transaction().await?;
    let set = "SELECT count(set_config(name, value, true))
        FROM unnest($1::text[], $2::text[]) AS settings (name, value)";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&names, Type::TEXT_ARRAY), (&values, Type::TEXT_ARRAY)];
    transaction.query_typed(set, &parameters).await?;
    Ok(transaction)
}
