//! The guarantees of both stores, and that they behave the same.

use std::time::Duration;

use http::HeaderMap;
use proptest::{prelude::*, test_runner::TestRunner};
use tower_user_session::{
    ErrorKind, PgSessionStore, SessionService,
    postgres::SignInConditions,
    session::{SessionLimit, SessionToken},
    store::{ColumnConditions, MemorySessionStore, RevokeScope, SessionStore},
};

use crate::support::{User, conformance::conforms, cookie, database, pool, sql, two_limits};

#[tokio::test]
async fn both_stores_conform() {
    let database = database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 2)).with_lifetime(two_limits());
    conforms(&SessionService::new(store)).await;

    let store = MemorySessionStore::new().with_lifetime(two_limits());
    store.add_user(1, User::ada());
    store.add_user(2, User::eve());
    conforms(&SessionService::new(store)).await;
}

/// A handler that is generic over its store.
async fn sign_in<S, V>(sessions: &SessionService<S>, column: &'static str, value: V) -> Outcome
where
    S: SessionStore<UserId = i64, Condition: ColumnConditions<V>>,
{
    let sign_in = sessions.sign_in_without_request(1);
    let signed_in = sign_in.if_unchanged(column, value).await;
    signed_in.map(drop).map_err(|error| error.kind())
}

type Outcome = Result<(), ErrorKind>;

/// Both stores compare the same values of a column in the same way.
#[tokio::test]
async fn a_column_that_has_changed_refuses_a_sign_in() {
    let database = database().await;
    let columns =
        "ALTER TABLE users ADD hash text, ADD version int, ADD nothing text, ADD key bytea;
        UPDATE users SET hash = 'new', version = 7, key = '\\x0102'";
    let client = database.client().await;
    client.batch_execute(columns).await.unwrap();
    let pg = SessionService::new(PgSessionStore::<User>::new(pool(&database, 2)));
    let memory = SessionService::new(MemorySessionStore::new());
    let store = memory.store();
    store.add_user(1, User::ada());
    store.set_column(1, "u.hash", "new".to_owned());
    store.set_column(1, "u.version", 7);
    store.set_column(1, "u.nothing", None::<String>);
    store.set_column(1, "u.key", vec![1_u8, 2]);

    let (new, old) = ("new".to_owned(), "old".to_owned());
    let refused = Err(ErrorKind::UserNotAllowed);
    let unfit = Err(ErrorKind::Schema);
    /// One line per value: the column, the value, and the outcome in both stores.
    macro_rules! table {
        ($($column:literal, $value:expr, $outcome:expr;)*) => { $(
            let case = concat!($column, ": ", stringify!($value));
            assert_eq!(sign_in(&pg, $column, $value).await, $outcome, "{case}, PostgreSQL");
            assert_eq!(sign_in(&memory, $column, $value).await, $outcome, "{case}, memory");
        )* };
    }
    table! {
        "u.hash", new.clone(), Ok(());
        "u.hash", old.clone(), refused;
        "u.hash", String::new(), refused;
        "u.hash", 7, unfit;
        "u.version", 7, Ok(());
        "u.version", 8, refused;
        "u.nothing", None::<String>, Ok(());
        "u.nothing", Some(old.clone()), refused;
        "u.key", vec![1_u8, 2], Ok(());
        "u.key", vec![1_u8], refused;
        "u.missing", old.clone(), unfit;
    }
    // All conditions must hold.
    for (hash, outcome) in [(new, Ok(())), (old, refused)] {
        let sign_in = memory
            .sign_in_without_request(1)
            .if_unchanged("u.version", 7);
        let signed_in = sign_in.if_unchanged("u.hash", hash).await;
        assert_eq!(signed_in.map(drop).map_err(|error| error.kind()), outcome);
    }
    // The columns of a user are deleted with the user.
    store.remove_user(&1);
    store.add_user(1, User::ada());
    assert_eq!(sign_in(&memory, "u.version", 7).await, unfit);
}

#[derive(Clone, Debug)]
enum Step {
    /// Signs in, with the cookie of an earlier session if there is one.
    SignIn {
        user: i64,
        with: Option<usize>,
    },
    SignOut(usize),
    Reauthenticate {
        user: i64,
        with: usize,
    },
    Revoke {
        user: i64,
        session: usize,
    },
    RevokeOthers {
        user: i64,
        session: usize,
    },
    RevokeAll(i64),
    Disable(i64, bool),
    RemoveUser(i64),
    /// Advances the time, in minutes.
    Pass(u32),
    CleanUp,
}

fn step() -> impl Strategy<Value = Step> {
    let user = 1..=2_i64;
    let session = 0..6_usize;
    prop_oneof![
        6 => (user.clone(), prop::option::of(session.clone()))
            .prop_map(|(user, with)| Step::SignIn { user, with }),
        2 => session.clone().prop_map(Step::SignOut),
        2 => (user.clone(), session.clone()).prop_map(|(user, with)| Step::Reauthenticate { user, with }),
        1 => (user.clone(), session.clone()).prop_map(|(user, session)| Step::Revoke { user, session }),
        1 => (user.clone(), session).prop_map(|(user, session)| Step::RevokeOthers { user, session }),
        1 => user.clone().prop_map(Step::RevokeAll),
        2 => (user.clone(), any::<bool>()).prop_map(|(user, disabled)| Step::Disable(user, disabled)),
        1 => user.prop_map(Step::RemoveUser),
        2 => (10..400_u32).prop_map(Step::Pass),
        1 => Just(Step::CleanUp),
    ]
}

type Pg = SessionService<PgSessionStore<User>>;
type Memory = SessionService<MemorySessionStore<i64, User>>;

/// Does one step in both stores, and compares the results.
async fn both(
    database: &ephemeral_postgres::TestDatabase,
    (pg, memory): (&Pg, &Memory),
    tokens: &mut Vec<(SessionToken, SessionToken)>,
    step: &Step,
) {
    let presented = |n: usize| match tokens.get(n) {
        Some((a, b)) => (cookie(pg, a), cookie(memory, b)),
        None => (HeaderMap::new(), HeaderMap::new()),
    };
    let text = |token: &SessionToken| SessionToken::parse(token.expose().as_bytes()).unwrap();
    match *step {
        Step::SignIn { user, with } => {
            let (a, b) = presented(with.unwrap_or(usize::MAX));
            match (pg.sign_in(user, &a).await, memory.sign_in(user, &b).await) {
                (Ok(a), Ok(b)) => tokens.push((text(a.token()), text(b.token()))),
                (a, b) => assert_eq!(a.unwrap_err().kind(), b.unwrap_err().kind()),
            }
        }
        Step::SignOut(n) => {
            let (a, b) = presented(n);
            let (a, b) = (pg.sign_out(&a).await, memory.sign_out(&b).await);
            assert_eq!(a.ended().unwrap(), b.ended().unwrap());
        }
        Step::Reauthenticate { user, with } => {
            let (a, b) = presented(with);
            match (
                pg.reauthenticate(user, &a).await,
                memory.reauthenticate(user, &b).await,
            ) {
                (Ok(a), Ok(b)) => tokens.push((text(a.token()), text(b.token()))),
                (a, b) => assert_eq!(a.unwrap_err().kind(), b.unwrap_err().kind()),
            }
        }
        Step::Revoke { user, session } | Step::RevokeOthers { user, session } => {
            let (a, b) = (
                pg.sessions_of(&user).await.unwrap(),
                memory.sessions_of(&user).await.unwrap(),
            );
            assert_eq!(a.len(), b.len());
            // Which session is listed differs between the stores, but the number of others does
            // not.
            let Some((a, b)) = a.get(session).zip(b.get(session)) else {
                return;
            };
            if matches!(step, Step::Revoke { .. }) {
                let other = 3 - user;
                assert!(!pg.revoke(&other, a.id).await.unwrap());
                assert!(!memory.revoke(&other, b.id).await.unwrap());
            } else {
                let a = pg
                    .store()
                    .revoke(&user, RevokeScope::AllExcept(a.id))
                    .await
                    .unwrap();
                // The remaining sessions may differ in age: end all in both, so that the stores
                // agree again.
                let b = memory
                    .store()
                    .revoke(&user, RevokeScope::AllExcept(b.id))
                    .await
                    .unwrap();
                assert_eq!(a.len(), b.len());
                assert_eq!(
                    pg.revoke_all(&user).await.unwrap(),
                    memory.revoke_all(&user).await.unwrap()
                );
            }
        }
        Step::RevokeAll(user) => {
            assert_eq!(
                pg.revoke_all(&user).await.unwrap(),
                memory.revoke_all(&user).await.unwrap()
            );
        }
        Step::Disable(user, disabled) => {
            let value = if disabled { "now()" } else { "NULL" };
            let update = format!("UPDATE users SET disabled_at = {value} WHERE id = {user}");
            sql(database, &update).await;
            memory.store().set_disabled(user, disabled);
        }
        Step::RemoveUser(user) => {
            sql(database, &format!("DELETE FROM users WHERE id = {user}")).await;
            memory.store().remove_user(&user);
        }
        Step::Pass(minutes) => {
            let update = format!(
                "UPDATE sessions SET created_at = created_at - interval '{minutes} minutes',
                    authenticated_at = authenticated_at - interval '{minutes} minutes',
                    last_seen_at = last_seen_at - interval '{minutes} minutes',
                    expires_at = expires_at - interval '{minutes} minutes'"
            );
            sql(database, &update).await;
            memory
                .store()
                .advance(Duration::from_secs(60 * u64::from(minutes)));
        }
        Step::CleanUp => {
            assert_eq!(
                pg.delete_expired().await.unwrap(),
                memory.delete_expired().await.unwrap()
            );
        }
    }
}

/// After any sequence of operations, both stores return the same for each token that ever existed.
#[test]
fn the_memory_store_is_a_model_of_the_postgresql_store() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut config = ProptestConfig::with_cases(25);
    config.failure_persistence = None;
    let limits = prop_oneof![
        Just(None),
        Just(Some(SessionLimit::refuse_new(2).unwrap())),
        Just(Some(SessionLimit::end_oldest(2).unwrap())),
    ];
    let steps = prop::collection::vec(step(), 1..25);
    TestRunner::new(config)
        .run(&(limits, steps), |(limit, steps)| {
            runtime.block_on(async {
                let database = database().await;
                let mut store =
                    PgSessionStore::<User>::new(pool(&database, 2)).with_lifetime(two_limits());
                let mut model = MemorySessionStore::new().with_lifetime(two_limits());
                if let Some(limit) = limit {
                    store = store.with_session_limit(limit);
                    model = model.with_session_limit(limit);
                }
                let (pg, memory) = (SessionService::new(store), SessionService::new(model));
                memory.store().add_user(1, User::ada());
                memory.store().add_user(2, User::eve());
                let mut tokens = Vec::new();
                for (n, step) in steps.iter().enumerate() {
                    both(&database, (&pg, &memory), &mut tokens, step).await;
                    // No two sessions have the same age, in either store.
                    both(&database, (&pg, &memory), &mut tokens, &Step::Pass(1)).await;
                    for (a, b) in &tokens {
                        let a = pg.user(a).await.unwrap();
                        assert_eq!(
                            a,
                            memory.user(b).await.unwrap(),
                            "after step {n} of {steps:?}"
                        );
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}

/// The conditions of a sign-in are specific to the store. The memory store has none.
#[test]
fn conditions_print_no_value() {
    assert_eq!(format!("{:?}", SignInConditions::default()), "[]");
}
