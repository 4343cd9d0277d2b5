//! Application code that panics for one user: only the callers of that user fail.

use tokio::task::JoinSet;
use tower_user_session::{
    BoxError, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    session::SessionToken,
    store::{MemorySessionStore, SessionStore},
};

use crate::support::{
    USERS,
    fault::{ObservedFault, send},
    pool, sql,
};

/// A user whose e-mail address selects the part of the application's code that panics.
#[derive(Debug)]
struct Fragile {
    email: String,
}

impl PgUser for Fragile {
    type Id = i64;
    const COLUMNS: &'static str = "u.email";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let email: String = row.user().get("email")?;
        assert!(email != "from_row", "made up: from_row panics");
        Ok(Self { email })
    }
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        assert!(self.email != "clone", "made up: Clone panics");
        Self {
            email: self.email.clone(),
        }
    }
}

/// The result of a caller: the user's e-mail address, an error, or a panic in its own task.
type Outcome = Option<Result<Option<String>, Error>>;

/// Looks up each token in several tasks at once, so that they share batches and results.
async fn look_up<S: SessionStore<User = Fragile>>(
    sessions: &SessionService<S>,
    tokens: &[&SessionToken],
) -> Vec<(usize, Outcome)> {
    let mut callers = JoinSet::new();
    for (number, token) in tokens.iter().enumerate() {
        for _ in 0..8 {
            let (sessions, text) = (sessions.clone(), token.expose());
            callers.spawn(async move {
                let token = SessionToken::parse(text.as_bytes()).unwrap();
                let caller = tokio::spawn(async move {
                    let user = sessions.user(&token).await?;
                    Ok(user.map(|user| user.email.clone()))
                });
                (number, caller.await.ok())
            });
        }
    }
    callers.join_all().await
}

async fn only_its_callers_fail<S>(sessions: &SessionService<S>, name: &str)
where
    S: SessionStore<User = Fragile, UserId = i64>,
{
    let sound = sessions.sign_in_without_request(1).await.unwrap();
    let fragile = sessions.sign_in_without_request(2).await.unwrap();
    for _ in 0..5 {
        for (number, outcome) in look_up(sessions, &[sound.token(), fragile.token()]).await {
            match (number, outcome) {
                (0, Some(Ok(Some(email)))) => assert_eq!(email, "sound"),
                // A caller that panics, and one that gets the last reference and does not clone.
                (1, None) if name == "clone" => {}
                (1, Some(Ok(Some(email)))) if name == "clone" => assert_eq!(email, "clone"),
                (1, Some(Err(error))) if name == "from_row" => {
                    assert_eq!(error.kind(), ErrorKind::Panicked, "{error:?}");
                }
                (_, other) => panic!("{name}: caller {number} got {other:?}"),
            }
        }
    }
    sessions.close().await;
}

/// M11: one line per place where the application's code panics for one user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_application_code_fails_only_its_own_callers() {
    for name in ["from_row", "clone"] {
        let database = ephemeral_postgres::TestDatabase::create(USERS).await;
        sql(&database, "UPDATE users SET email = 'sound' WHERE id = 1").await;
        let update = format!("UPDATE users SET email = '{name}' WHERE id = 2");
        sql(&database, &update).await;
        let store = PgSessionStore::<Fragile>::new(pool(&database, 2));
        store.migrate().await.unwrap();
        only_its_callers_fail(&SessionService::new(store), name).await;
        let store = PgSessionStore::<Fragile>::new(pool(&database, 2)).with_transaction_pooling();
        only_its_callers_fail(&SessionService::new(store), name).await;
    }
    let store = MemorySessionStore::new();
    for (id, email) in [(1, "sound"), (2, "clone")] {
        store.add_user(
            id,
            Fragile {
                email: email.to_owned(),
            },
        );
    }
    only_its_callers_fail(&SessionService::new(store), "clone").await;
}

/// M11, Q03: a row whose conversion panics is visible, and so is the row's correction.
#[tokio::test]
async fn a_conversion_that_panics_is_visible() {
    let database = ephemeral_postgres::TestDatabase::create(USERS).await;
    let store = PgSessionStore::<Fragile>::new(pool(&database, 2));
    store.migrate().await.unwrap();
    let sessions = SessionService::new(store);
    let fragile = sessions.sign_in_without_request(2).await.unwrap();
    let request = async || {
        send(&sessions, fragile.token()).await;
    };
    let panics = "`PgUser::from_row` or the user's `Clone` panics";
    let fault = ObservedFault::begin(panics, &sessions);
    sql(
        &database,
        "UPDATE users SET email = 'from_row' WHERE id = 2",
    )
    .await;
    fault.becomes_visible(request).await;
    sql(&database, "UPDATE users SET email = 'sound' WHERE id = 2").await;
    fault.ends(request).await;
}
