//! Tests of both limits at their exact instants. Only a transaction can reach these instants,
//! because the clock of a transaction does not advance. Other tests change the rows; see
//! `tests/it/service/lifetimes.rs`.

use std::time::Duration;

use ephemeral_postgres::TestDatabase;

use crate::{
    error::BoxError,
    postgres::{
        sql::{Statements, Table},
        user::{LookupRow, PgUser},
    },
    session::{Lifetime, TokenDigest},
};

#[derive(Clone)]
struct User;

impl PgUser for User {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

const ABSOLUTE: Duration = Duration::from_secs(60 * 60);

/// C05, C06, C15: a session is expired at the instant of a limit, and live one microsecond before.
#[tokio::test]
async fn a_limit_is_strict_to_the_microsecond() {
    let migration = include_str!("../../migrations/0001_create_sessions.sql");
    let users = "CREATE TABLE users (id bigint PRIMARY KEY); INSERT INTO users VALUES (1);";
    let database = TestDatabase::create(&format!("{users}{migration}")).await;
    let table = Table {
        schema: None,
        name: "sessions".to_owned(),
    };
    let lifetime = Lifetime::absolute(ABSOLUTE)
        .and_then(|lifetime| lifetime.with_idle(Duration::from_secs(60)))
        .unwrap();
    let statements = Statements::new::<User>(&table, ABSOLUTE);
    let mut client = database.client().await;
    let list = statements.list.text(&client).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let digest = [TokenDigest::from_bytes([7; 32])];
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at) VALUES ($1, 1, now())";
    transaction.execute(insert, &[&digest[0]]).await.unwrap();
    for (created, live) in [
        ("now() - interval '1 hour'", false),
        ("now() - interval '59:59.999999'", true),
        ("now() - interval '1:00:00.000001'", false),
        ("now()", true),
    ] {
        let update = format!(
            "UPDATE sessions SET created_at = {created}, last_seen_at = now(),
                 expires_at = now() + interval '1 day'"
        );
        transaction.execute(&update, &[]).await.unwrap();
        let row = transaction
            .query_one(&statements.find.sql, &[&&digest[..], &0_i64])
            .await;
        let found = super::decode::found::<User>(&row.unwrap(), false, lifetime).unwrap();
        let outcome = found.result.into_outcome().unwrap();
        assert_eq!(outcome.is_some(), live, "created {created}");
        let listed = transaction.query(list, &[&1_i64, &Some(60.0)]).await;
        assert_eq!(
            listed.unwrap().len(),
            usize::from(live),
            "created {created}"
        );
    }
    for (expires, last_seen, live) in [
        ("now()", "now()", false),
        ("now() + interval '1 microsecond'", "now()", true),
        ("now() - interval '1 microsecond'", "now()", false),
        (
            "now() + interval '1 day'",
            "now() - interval '60 seconds'",
            false,
        ),
        (
            "now() + interval '1 day'",
            "now() - interval '59.999999 seconds'",
            true,
        ),
        (
            "now() + interval '1 day'",
            "now() - interval '60.000001 seconds'",
            false,
        ),
    ] {
        let update =
            format!("UPDATE sessions SET expires_at = {expires}, last_seen_at = {last_seen}");
        transaction.execute(&update, &[]).await.unwrap();
        let row = transaction
            .query_one(&statements.find.sql, &[&&digest[..], &0_i64])
            .await;
        let found = super::decode::found::<User>(&row.unwrap(), false, lifetime).unwrap();
        let outcome = found.result.into_outcome().unwrap();
        assert_eq!(
            outcome.is_some(),
            live,
            "expires {expires}, last seen {last_seen}"
        );
        let listed = transaction.query(list, &[&1_i64, &Some(60.0)]).await;
        assert_eq!(
            listed.unwrap().len(),
            usize::from(live),
            "expires {expires}, last seen {last_seen}"
        );
    }
}
