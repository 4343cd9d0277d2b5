//! Lookups: a token resolves to the user of its session.

use std::{collections::HashMap, convert::Infallible, sync::Arc, task::Poll};

use http::{Request, Response, StatusCode};
use tower::{ServiceBuilder, ServiceExt};
use tower_user_session::{
    BoxError, ErrorKind, LoadUserLayer, LookupRow, PgSessionStore, PgUser, SessionService,
    rejection::{EmptyResponseForRejection, Rejection},
    session::SessionToken,
    tokio_postgres,
};

use crate::support::{PgSessions, User, cookie, database, number, pool, sessions, sql};

/// C01, C02: a live token resolves to its user. Any other token resolves to none.
#[tokio::test]
async fn a_live_token_resolves_to_its_owner_and_any_other_to_none() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    assert_eq!(
        sessions
            .user(&SessionToken::generate().unwrap())
            .await
            .unwrap(),
        None
    );
}

/// C03, E01: under load, with callers that are dropped at any point, no token resolves to another
/// user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_never_resolves_to_another_user() {
    let database = database().await;
    let sessions = sessions(&database);
    sql(
        &database,
        "INSERT INTO users (id, email) SELECT n, 'user' || n FROM generate_series(3, 400) AS n",
    )
    .await;
    let mut tokens = Vec::new();
    for id in 1..=400 {
        tokens.push((id, sessions.sign_in_without_request(id).await.unwrap()));
    }
    let tokens = Arc::new(tokens);
    let tasks: Vec<_> = (0..64_usize)
        .map(|task| {
            let (sessions, tokens) = (sessions.clone(), Arc::clone(&tokens));
            tokio::spawn(async move {
                let mut answered = 0;
                for n in 0..500_usize {
                    let (id, signed_in) = &tokens[(task * 131 + n * 37) % tokens.len()];
                    let mut user = std::pin::pin!(sessions.user(signed_in.token()));
                    // Every other caller is dropped after this many polls.
                    let mut left = (n % 2 == 0).then_some(n / 2 % 20);
                    let user = std::future::poll_fn(|cx| {
                        if left == Some(0) {
                            return Poll::Ready(None);
                        }
                        left = left.map(|left| left - 1);
                        user.as_mut().poll(cx).map(Some)
                    });
                    if let Some(user) = user.await {
                        assert_eq!(user.unwrap().unwrap().id, *id);
                        answered += 1;
                    }
                }
                answered
            })
        })
        .collect();
    let mut answered = 0;
    for task in tasks {
        answered += task.await.unwrap();
    }
    assert!(answered >= 64 * 250);
}

/// C08, C09, C10: the next request sees the users table as it is then. A disabled user's session is
/// invalid, and valid again after the user is enabled, if it has not ended.
#[tokio::test]
async fn the_users_row_is_read_on_every_request() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let user = async || sessions.user(ada.token()).await.unwrap();

    sql(&database, "UPDATE users SET role = 'admin' WHERE id = 1").await;
    assert_eq!(user().await.unwrap().role, "admin");
    sql(
        &database,
        "UPDATE users SET disabled_at = now() WHERE id = 1",
    )
    .await;
    assert_eq!(user().await, None);
    assert_eq!(
        sessions
            .sign_in_without_request(1)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::UserNotAllowed
    );
    sql(
        &database,
        "UPDATE users SET disabled_at = NULL WHERE id = 1",
    )
    .await;
    assert!(user().await.is_some());
    sql(&database, "DELETE FROM users WHERE id = 1").await;
    assert_eq!(user().await, None);
    assert_eq!(
        sessions
            .sign_in_without_request(1)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::UserNotAllowed
    );
}

/// A user whose columns have the names of session columns, unqualified, and with the roles of a
/// third table: one statement, and no column is confused.
#[derive(Clone, Debug, PartialEq)]
struct Lookalike {
    id: i64,
    expires_at: String,
    roles: Vec<String>,
}

impl PgUser for Lookalike {
    type Id = i64;
    const COLUMNS: &'static str =
        "id, email AS user_id, 'never' AS expires_at, role AS token_digest,
        created_at::text AS created_at, ARRAY(
            SELECT r.name FROM roles AS r WHERE r.user_id = users.id ORDER BY r.name
        ) AS roles";
    const FROM: &'static str = "users";
    const KEY: &'static str = "id";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        assert_eq!(row.user().get::<&str>("token_digest")?, "member");
        assert_eq!(row.user().get::<&str>("user_id")?, "ada@example.com");
        assert!(
            row.user()
                .get::<&str>("created_at")?
                .starts_with("2000-01-01")
        );
        for ours in [
            "session_id",
            "live_session_id",
            "live_session_expires_at",
            "asked_digest",
            "query_seq",
            "last_seen_at",
            "now",
        ] {
            // The name decides, because the type could fit another column.
            let error = message(&row.user().get::<&str>(ours).unwrap_err());
            assert!(error.contains("has no column"), "{error}");
        }
        Ok(Self {
            id: row.user().get("id")?,
            expires_at: row.user().get("expires_at")?,
            roles: row.user().get("roles")?,
        })
    }
}

#[tokio::test]
async fn user_columns_never_replace_session_columns() {
    let database = database().await;
    sql(&database, "CREATE TABLE roles (user_id bigint, name text)").await;
    sql(
        &database,
        "INSERT INTO roles VALUES (1, 'writer'), (1, 'admin'), (2, 'reader')",
    )
    .await;
    let sessions = SessionService::new(PgSessionStore::<Lookalike>::new(pool(&database, 2)));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let before = sessions.metrics();
    let roles = vec!["admin".to_owned(), "writer".to_owned()];
    let expected = Lookalike {
        id: 1,
        expires_at: "never".to_owned(),
        roles,
    };
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(expected));
    assert_eq!(sessions.metrics().statements - before.statements, 1);
}

/// User types with one defect each.
macro_rules! user {
    ($name:ident, $columns:expr, $from:expr, $column:expr, $type:ty) => {
        #[derive(Clone, Debug, PartialEq)]
        struct $name($type);
        impl PgUser for $name {
            type Id = i64;
            const COLUMNS: &'static str = $columns;
            const FROM: &'static str = $from;
            fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
                Ok(Self(row.user().get($column)?))
            }
        }
    };
}

user!(Typo, "u.id, u.emial", "users AS u", "id", i64);
user!(
    SessionsColumn,
    "u.id, live_session.id",
    "users AS u",
    "id",
    i64
);
user!(WrongType, "u.id, u.email", "users AS u", "email", i64);
user!(Unselected, "u.id", "users AS u", "email", String);
user!(
    NotNull,
    "nullif(u.role, 'none') AS role",
    "users AS u",
    "role",
    String
);
user!(
    Dividing,
    "100 / length(u.role) AS share",
    "users AS u",
    "share",
    i32
);
user!(
    Twice,
    "u.id",
    "users AS u, generate_series(1, 2)",
    "id",
    i64
);

fn of<U: PgUser>(database: &ephemeral_postgres::TestDatabase) -> SessionService<PgSessionStore<U>> {
    SessionService::new(PgSessionStore::new(pool(database, 2)))
}

fn message(error: &(dyn std::error::Error + 'static)) -> String {
    let chain: Vec<_> = std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect();
    chain.join(": ")
}

/// A user type that does not match the tables is an error that names the column, in `check()` and
/// at the first use. The client gets 503 and no handler is called.
#[tokio::test]
async fn a_user_that_does_not_fit_the_table_is_an_error_that_names_the_column() {
    async fn fails<U: PgUser<Id = i64> + std::fmt::Debug>(
        sessions: &SessionService<PgSessionStore<U>>,
        name: &str,
    ) {
        let error = sessions.store().check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(message(&error).contains(name), "{}", message(&error));
        let token = SessionToken::generate().unwrap();
        let error = sessions.user(&token).await.unwrap_err();
        assert!(message(&error).contains(name), "{}", message(&error));

        let mut request = Request::new(());
        *request.headers_mut() = cookie(sessions, &token);
        let handler = async |_: Request<()>| -> Result<Response<()>, Infallible> {
            unreachable!("the lookup failed")
        };
        let app = ServiceBuilder::new().layer(
            LoadUserLayer::new(sessions.clone()).rejection_response(EmptyResponseForRejection),
        );
        let response = app.service_fn(handler).oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.error().unwrap().kind(), ErrorKind::Schema);
    }
    let database = database().await;
    fails(&of::<Typo>(&database), "emial").await;
    fails(&of::<SessionsColumn>(&database), "live_session.id").await;
}

/// C12, E08, E09: a column that cannot be read or computed fails only its own caller, and the error
/// names the column. A user that the tables return twice is an error.
#[tokio::test]
async fn one_invalid_row_fails_one_caller() {
    async fn outcome<U>(
        sessions: SessionService<PgSessionStore<U>>,
        bad: &SessionToken,
        good: Option<(&SessionToken, U)>,
    ) -> String
    where
        U: PgUser<Id = i64> + PartialEq + std::fmt::Debug,
    {
        // Together, so that they share a statement: another one is in flight before them.
        let unknown = SessionToken::generate().unwrap();
        let (_, _, failed, fine, absent) = tokio::join!(
            sessions.user(&unknown),
            sessions.user(&unknown),
            sessions.user(bad),
            async {
                match &good {
                    Some((token, _)) => Some(sessions.user(token).await.unwrap()),
                    None => None,
                }
            },
            sessions.user(&unknown),
        );
        assert_eq!(absent.unwrap(), None);
        assert_eq!(fine, good.map(|(_, user)| Some(user)));
        let error = failed.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Decode | ErrorKind::Protocol),
            "{error:?}"
        );
        message(&error)
    }
    let database = database().await;
    sql(
        &database,
        "INSERT INTO users (id, email, role) VALUES (3, 'c', ''), (4, 'd', 'none')",
    )
    .await;
    let sessions = sessions(&database);
    let mut tokens = HashMap::new();
    for id in 1..=4 {
        tokens.insert(id, sessions.sign_in_without_request(id).await.unwrap());
    }
    let token = |id: i64| tokens[&id].token();

    let message = outcome(
        of::<NotNull>(&database),
        token(4),
        Some((token(1), NotNull("member".into()))),
    );
    assert!(message.await.contains("\"role\""));
    let message = outcome(
        of::<Dividing>(&database),
        token(3),
        Some((token(1), Dividing(16))),
    );
    assert!(message.await.contains("SQLSTATE 22012"));
    assert!(
        outcome(of::<WrongType>(&database), token(1), None)
            .await
            .contains("\"email\"")
    );
    assert!(
        outcome(of::<Unselected>(&database), token(1), None)
            .await
            .contains("\"email\"")
    );
    assert!(
        outcome(of::<Twice>(&database), token(1), None)
            .await
            .contains("two results for one digest")
    );
}

/// C12: a session that cannot be read is an error for its own caller alone, and never anonymous.
#[tokio::test]
async fn an_unreadable_session_fails_one_caller() {
    let database = database().await;
    let sessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    sql(
        &database,
        "ALTER TABLE sessions DROP CONSTRAINT sessions_authenticated_at_check",
    )
    .await;
    let endless = "UPDATE sessions SET authenticated_at = 'infinity' WHERE user_id = 1";
    assert_eq!(sql(&database, endless).await, 1);
    // The last two share a statement: another one is in flight before them.
    let unknown = SessionToken::generate().unwrap();
    let (_, failed, fine) = tokio::join!(
        sessions.user(&unknown),
        sessions.user(ada.token()),
        sessions.user(eve.token()),
    );
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(
        message(&error).contains("out of range"),
        "{}",
        message(&error)
    );
    assert_eq!(fine.unwrap(), Some(User::eve()));
    assert_eq!(sessions.metrics().statements, 2);
}

/// Signing in checks whether the user exists, not how often the tables return it: one session
/// begins.
#[tokio::test]
async fn a_user_selected_twice_gets_one_session() {
    let database = database().await;
    let _ = of::<Twice>(&database)
        .sign_in_without_request(1)
        .await
        .unwrap();
    assert_eq!(number(&database, "SELECT count(*) FROM sessions").await, 1);
}

/// C17: a missing privilege is named at startup, and is a 503 for the client.
#[tokio::test]
async fn a_missing_right_is_an_error_that_names_it() {
    let database = database().await;
    let role = format!("reader_{}", database.name());
    for statement in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO {role}"),
    ] {
        sql(&database, &statement).await;
    }
    let mut config = database.config();
    config.user(&role);
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(2)
        .build()
        .unwrap();
    let limited: PgSessions = SessionService::new(PgSessionStore::new(pool));
    let error = limited.store().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(
        message(&error).contains("permission denied for table users"),
        "{}",
        message(&error)
    );
    let error = limited
        .user(&SessionToken::generate().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);

    // With exactly the documented privileges everything works.
    sql(&database, &format!("GRANT SELECT ON users TO {role}")).await;
    limited.store().check().await.unwrap();
    let ada = limited.sign_in_without_request(1).await.unwrap();
    assert_eq!(limited.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert_eq!(limited.revoke_all(&1).await.unwrap(), 1);
    assert_eq!(limited.delete_expired().await.unwrap(), 0);
    drop(limited);
    sql(&database, &format!("DROP OWNED BY {role}")).await;
}
