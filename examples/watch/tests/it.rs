//! The program prints what ends and changes in a database.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use ephemeral_postgres::TestDatabase;

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, email text);
    INSERT INTO users VALUES (1, 'ada@example.com'), (2, 'eve@example.com')";
const SESSIONS: &str = include_str!("../../../migrations/0001_create_sessions.sql");
const TRIGGERS: &str = include_str!("../../../migrations/0002_announce_sessions.sql");

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn ended_and_changed_sessions_and_users_are_printed() {
    let database = TestDatabase::create(USERS).await;
    let client = database.client().await;
    client.batch_execute(SESSIONS).await.unwrap();
    client
        .batch_execute(&format!(
            "SET tower_user_session.announce_users = 'on'; {TRIGGERS}"
        ))
        .await
        .unwrap();
    let insert = "INSERT INTO sessions (token_digest, user_id, expires_at)
        SELECT sha256(id::text::bytea), id, now() + interval '1 day' FROM users
        RETURNING id::text";
    let ids = client.query(insert, &[]).await.unwrap();
    let ids: Vec<String> = ids.iter().map(|row| row.get(0)).collect();

    let program = Command::new(env!("CARGO_BIN_EXE_example-watch"))
        .env("DATABASE_URL", database.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut program = Program(program);
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    let mut watched = [next(), next()];
    watched.sort();
    assert!(watched[0].starts_with("watching sessions (tower_user_session_"));
    assert!(watched[1].starts_with("watching users (tower_user_session_users_"));

    for (statement, printed) in [
        (
            "UPDATE sessions SET remembered = true WHERE user_id = 1",
            format!("changed {}", ids[0]),
        ),
        (
            "DELETE FROM sessions WHERE user_id = 1",
            format!("ended {}", ids[0]),
        ),
        (
            "DELETE FROM sessions WHERE user_id = 2",
            format!("ended {}", ids[1]),
        ),
        ("TRUNCATE sessions", "everything".to_owned()),
    ] {
        client.batch_execute(statement).await.unwrap();
        assert_eq!(next(), printed);
    }
    client
        .batch_execute("UPDATE users SET email = 'x' WHERE id = 1")
        .await
        .unwrap();
    assert!(next().starts_with("user "));
}
