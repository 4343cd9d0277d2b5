//! The guarantees of both stores, and that they behave the same.

use std::time::Duration;

use http::HeaderMap;
use proptest::{prelude::*, test_runner::TestRunner};
use tower_user_session::{
    CurrentSession, Error, ErrorKind, PgSessionStore, SessionService, SignedIn,
    postgres::SignInConditions,
    session::{Session, SessionLimit, SessionToken},
    store::{ColumnConditions, MemorySessionStore, RevokeScope, SessionStore},
};

use crate::support::{
    User,
    conformance::conforms,
    cookie, database,
    organizations::{MemoryMembers, PgMembers, member_store, memory_member_store, organizations},
    pool, sql, two_limits,
};

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
    /// Signs in, with the cookie of an earlier session if there is one, in this organization.
    SignIn {
        user: i64,
        with: Option<usize>,
        org: Option<i64>,
    },
    SignOut(usize),
    /// Re-authenticates, and adds a factor if the number is odd.
    Reauthenticate {
        user: i64,
        with: usize,
    },
    Update {
        session: usize,
        org: Option<i64>,
    },
    /// Ends this user's sessions in an organization, or those of all users.
    RevokeWhere {
        user: Option<i64>,
        org: i64,
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
    let org = 7..=8_i64;
    prop_oneof![
        6 => (user.clone(), prop::option::of(session.clone()), prop::option::of(org.clone()))
            .prop_map(|(user, with, org)| Step::SignIn { user, with, org }),
        3 => (session.clone(), prop::option::of(org.clone()))
            .prop_map(|(session, org)| Step::Update { session, org }),
        1 => (prop::option::of(user.clone()), org)
            .prop_map(|(user, org)| Step::RevokeWhere { user, org }),
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

/// A session that began in both stores, with its token in each.
type InBoth = [(SessionToken, Session); 2];

/// Compares the results of a sign-in or a re-authentication.
fn begin(begun: &mut Vec<InBoth>, a: Result<SignedIn, Error>, b: Result<SignedIn, Error>) {
    let token = |token: &SessionToken| SessionToken::parse(token.expose().as_bytes()).unwrap();
    let of = |signed_in: &SignedIn| (token(signed_in.token()), signed_in.session());
    match (a, b) {
        (Ok(a), Ok(b)) => begun.push([of(&a), of(&b)]),
        (a, b) => assert_eq!(a.unwrap_err().kind(), b.unwrap_err().kind()),
    }
}

/// Does a step about session columns.
async fn columns((pg, memory): (&PgMembers, &MemoryMembers), begun: &[InBoth], step: &Step) {
    match *step {
        Step::Update { session, org } => {
            if let Some([(_, a), (_, b)]) = begun.get(session) {
                let (a, b) = (CurrentSession::new(*a), CurrentSession::new(*b));
                let a = pg.update(&a).set("active_org_id", org).await;
                let b = memory.update(&b).set("active_org_id", org).await;
                assert_eq!(
                    a.map_err(|error| error.kind()),
                    b.map_err(|error| error.kind())
                );
            }
        }
        Step::RevokeWhere {
            user: Some(user),
            org,
        } => assert_eq!(
            pg.revoke_where(&user, "active_org_id", org).await.unwrap(),
            memory
                .revoke_where(&user, "active_org_id", org)
                .await
                .unwrap()
        ),
        Step::RevokeWhere { user: None, org } => assert_eq!(
            pg.revoke_everyone_where("active_org_id", org)
                .await
                .unwrap(),
            memory
                .revoke_everyone_where("active_org_id", org)
                .await
                .unwrap()
        ),
        _ => unreachable!("not a step about session columns"),
    }
}

/// A statement that moves all sessions into the past.
fn older(minutes: u32) -> String {
    format!(
        "UPDATE sessions SET created_at = created_at - interval '{minutes} minutes',
            authenticated_at = authenticated_at - interval '{minutes} minutes',
            last_seen_at = last_seen_at - interval '{minutes} minutes',
            expires_at = expires_at - interval '{minutes} minutes'"
    )
}

/// Does one step in both stores, and compares the results.
async fn both(
    database: &ephemeral_postgres::TestDatabase,
    (pg, memory): (&PgMembers, &MemoryMembers),
    begun: &mut Vec<InBoth>,
    step: &Step,
) {
    let presented = |n: usize| match begun.get(n) {
        Some([(a, _), (b, _)]) => (cookie(pg, a), cookie(memory, b)),
        None => (HeaderMap::new(), HeaderMap::new()),
    };
    match *step {
        Step::SignIn { user, with, org } => {
            let (a, b) = presented(with.unwrap_or(usize::MAX));
            let (mut a, mut b) = (pg.sign_in(user, &a), memory.sign_in(user, &b));
            if let Some(org) = org {
                (a, b) = (a.set("active_org_id", org), b.set("active_org_id", org));
            }
            begin(begun, a.await, b.await);
        }
        Step::Update { .. } | Step::RevokeWhere { .. } => {
            columns((pg, memory), begun, step).await;
        }
        Step::SignOut(n) => {
            let (a, b) = presented(n);
            let (a, b) = (pg.sign_out(&a).await, memory.sign_out(&b).await);
            assert_eq!(a.ended().unwrap(), b.ended().unwrap());
        }
        Step::Reauthenticate { user, with } => {
            let (a, b) = presented(with);
            let (mut a, mut b) = (pg.reauthenticate(user, &a), memory.reauthenticate(user, &b));
            if with % 2 == 1 {
                let factors = || vec![with.to_string()];
                (a, b) = (a.set("factors", factors()), b.set("factors", factors()));
            }
            begin(begun, a.await, b.await);
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
            sql(database, &older(minutes)).await;
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
                let database = organizations().await;
                let (mut store, mut model) = (member_store(&database), memory_member_store());
                if let Some(limit) = limit {
                    store = store.with_session_limit(limit);
                    model = model.with_session_limit(limit);
                }
                let (pg, memory) = (SessionService::new(store), SessionService::new(model));
                let mut begun = Vec::new();
                for (n, step) in steps.iter().enumerate() {
                    both(&database, (&pg, &memory), &mut begun, step).await;
                    // No two sessions have the same age, in either store.
                    both(&database, (&pg, &memory), &mut begun, &Step::Pass(1)).await;
                    for [(a, _), (b, _)] in &begun {
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
