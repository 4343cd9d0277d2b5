//! The application's columns of the sessions table: names, types, errors, and the check.

use std::{error::Error as _, time::SystemTime};

use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService, session::SessionLimit,
};

use crate::support::{
    ROWS, USERS, cookie, current, number,
    organizations::{Member, member_store, members, organizations},
    pgbouncer::PgBouncer,
    pool, sql,
};

/// A database with these session columns.
async fn with_columns(columns: &str) -> TestDatabase {
    let database = TestDatabase::create(USERS).await;
    let store = PgSessionStore::<crate::support::User>::new(pool(&database, 1));
    store.migrate().await.unwrap();
    sql(&database, &format!("ALTER TABLE sessions {columns}")).await;
    database
}

/// Users whose columns are selected in different ways, beside session columns with the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Namesake<const WAY: usize> {
    email: String,
    session_email: String,
}

const COLUMNS: [&str; 3] = ["u.id, u.email, u.role", "id, email, role", "u.*"];
const CONDITIONS: [&str; 3] = [
    "u.disabled_at IS NULL",
    "disabled_at IS NULL",
    "role = 'member'",
];

impl<const WAY: usize> PgUser for Namesake<WAY> {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = &["email", "role", "disabled_at", "Email"];
    const COLUMNS: &'static str = COLUMNS[WAY];
    const CONDITION: &'static str = CONDITIONS[WAY];

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let (user, session) = (row.user(), row.session());
        let role: String = user.get("role")?;
        assert_eq!(
            (role.as_str(), session.get("role")?),
            ("member", "of session")
        );
        assert!(user.get::<String>("Email").is_err());
        assert!(session.get::<i64>("id").is_err());
        let with_upper_case: Option<String> = session.get("Email")?;
        assert_eq!(with_upper_case, None);
        let debug = format!("{row:?} {user:?} {session:?}");
        assert!(
            !debug.contains("of session") && !debug.contains("example.com"),
            "{debug}"
        );
        Ok(Self {
            email: user.get("email")?,
            session_email: session.get("email")?,
        })
    }
}

async fn a_namesake<const WAY: usize>(database: &TestDatabase) {
    let store = PgSessionStore::<Namesake<WAY>>::new(pool(database, 2));
    let sessions = SessionService::new(store);
    let signed_in = sessions
        .sign_in_without_request(1)
        .set("email", "of session")
        .set("role", "of session")
        .set("disabled_at", SystemTime::now())
        .await
        .unwrap();
    sessions.store().check().await.unwrap();
    let namesake = Namesake {
        email: "ada@example.com".to_owned(),
        session_email: "of session".to_owned(),
    };
    let user = sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user, Some(namesake), "way {WAY}");
    let users =
        "SELECT count(*) FROM users WHERE email LIKE '%@example.com' AND disabled_at IS NULL";
    assert_eq!(number(database, users).await, 2);
}

/// P01: a session column with the name of a user's column is never taken for it: in the row, in
/// the condition, and in the selected columns, qualified or not. Names differ by case.
#[tokio::test]
async fn a_session_column_is_never_taken_for_a_users() {
    let columns = "ADD COLUMN email text, ADD COLUMN role text, ADD COLUMN disabled_at timestamptz,
        ADD COLUMN \"Email\" text";
    let database = with_columns(columns).await;
    a_namesake::<0>(&database).await;
    a_namesake::<1>(&database).await;
    a_namesake::<2>(&database).await;
}

/// Names the type of a value.
fn value<T>(value: T) -> T {
    value
}

/// Session columns of each type: a name, the type in SQL, the type in Rust, and two values.
macro_rules! typed {
    ($($name:ident: $sql:literal, $rust:ty = $first:expr, $second:expr;)*) => {
        #[derive(Clone, Debug, Default, PartialEq)]
        struct Typed {
            $($name: Option<$rust>,)*
        }

        const TYPED: &str = concat!($(
            "ALTER TABLE sessions ADD COLUMN ", stringify!($name), " ", $sql, ";",
        )*);

        impl PgUser for Typed {
            type Id = i64;
            const SESSION_COLUMNS: &'static [&'static str] = &[$(stringify!($name),)*];
            const COLUMNS: &'static str = "u.id";

            fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
                Ok(Self { $($name: row.session().get(stringify!($name))?,)* })
            }
        }

        async fn each_type(sessions: &SessionService<PgSessionStore<Typed>>) {
            let signed_in = sessions.sign_in_without_request(1)
                $(.set(stringify!($name), value::<$rust>($first)))*.await.unwrap();
            let mut expected = Typed { $($name: Some(value::<$rust>($first)),)* };
            let token = signed_in.token();
            assert_eq!(sessions.user(token).await.unwrap(), Some(expected.clone()));
            let current = current(&signed_in);
            $(
                sessions.update(&current).set(stringify!($name), value::<$rust>($second)).await.unwrap();
                expected.$name = Some(value::<$rust>($second));
                assert_eq!(sessions.user(token).await.unwrap(), Some(expected.clone()));
                let none = None::<$rust>;
                sessions.update(&current).set(stringify!($name), none).await.unwrap();
                expected.$name = None;
                assert_eq!(sessions.user(token).await.unwrap(), Some(expected.clone()));
            )*
            let signed_in = sessions.reauthenticate(1, &cookie(sessions, token))
                $(.set(stringify!($name), value::<$rust>($first)))*.await.unwrap();
            expected = Typed { $($name: Some(value::<$rust>($first)),)* };
            assert_eq!(sessions.user(signed_in.token()).await.unwrap(), Some(expected));
            $(
                let (name, other) = (stringify!($name), value::<$rust>($second));
                assert_eq!(sessions.revoke_where(&1, name, other).await.unwrap(), 0, "{name}");
                assert_eq!(sessions.revoke_where(&1, name, None::<$rust>).await.unwrap(), 0);
                let both = sessions.sign_in_without_request(1).set(name, value::<$rust>($first)).await.unwrap();
                let none = sessions.sign_in_without_request(1).await.unwrap();
                assert_eq!(sessions.revoke_everyone_where(name, value::<$rust>($second)).await.unwrap(), 0);
                let ended = sessions.revoke_where(&1, name, value::<$rust>($first)).await.unwrap();
                assert!(ended == 1 || ended == 2, "{name}");
                assert_eq!(sessions.user(both.token()).await.unwrap(), None, "{name}");
                assert!(sessions.revoke(&1, none.session().id()).await.unwrap(), "{name}");
            )*
        }
    };
}

typed! {
    number: "bigint", i64 = 1, i64::MIN;
    small: "smallint", i16 = 1, -1;
    text: "text", String = "a".to_owned(), "'; -- é\u{1f600}".to_owned();
    short: "varchar(3)", String = "a".to_owned(), "abc".to_owned();
    list: "text[]", Vec<String> = vec!["a".to_owned()], vec![];
    domain: "session_kind", String = "web".to_owned(), "app".to_owned();
    key: "uuid", uuid::Uuid = uuid::Uuid::nil(), uuid::Uuid::max();
    is_set: "boolean", bool = true, false;
    document: "jsonb", serde_json::Value = serde_json::json!({"a": 1}), serde_json::json!([]);
    time: "timestamptz", SystemTime = SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
}

/// A value of each type is stored by a sign-in, an update and a re-authentication, read by a
/// lookup, and matched by a revocation. A null matches nothing.
#[tokio::test]
async fn each_type_is_stored_read_and_matched() {
    let name = "postgres::session_columns::each_type_is_stored_read_and_matched";
    let database = with_columns("ADD COLUMN unused int").await;
    let client = database.client().await;
    client
        .batch_execute("CREATE DOMAIN session_kind AS text")
        .await
        .unwrap();
    client.batch_execute(TYPED).await.unwrap();
    let store = || PgSessionStore::<Typed>::new(pool(&database, 2));
    Box::pin(each_type(&SessionService::new(store()))).await;
    let unnamed = store().with_transaction_pooling();
    unnamed.check().await.unwrap();
    Box::pin(each_type(&SessionService::new(unnamed))).await;
    let Some(bouncer) = PgBouncer::before(name, &database, "").await else {
        return;
    };
    let store = PgSessionStore::<Typed>::new(bouncer.pool(4)).with_transaction_pooling();
    store.check().await.unwrap();
    Box::pin(each_type(&SessionService::new(store))).await;
}

/// A user whose session columns are read in a wrong way, by `check`'s findings.
#[derive(Clone, Debug)]
struct Wrong<const WAY: usize>;

impl<const WAY: usize> PgUser for Wrong<WAY> {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = [
        &["active_org_id"] as &[&str],
        &["missing"],
        &["Factors"],
        &["factors", "active_org_id"],
    ][WAY];
    const COLUMNS: &'static str = "u.id";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        match WAY {
            0 => drop(row.session().get::<Option<String>>("active_org_id")?),
            3 => drop(row.session().get::<Option<String>>("suspended")?),
            _ => {}
        }
        Ok(Self)
    }
}

async fn wrong<const WAY: usize>(database: &TestDatabase, says: &str) {
    for pooling in [false, true] {
        let store = PgSessionStore::<Wrong<WAY>>::new(pool(database, 1));
        let store = if pooling {
            store.with_transaction_pooling()
        } else {
            store
        };
        let error = store.check().await.unwrap_err();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        assert!(text.contains(says), "{WAY}: {text}");
    }
}

/// `check` finds a session column that is missing, that `from_row` reads as another type, and that
/// `from_row` reads without naming it.
#[tokio::test]
async fn the_check_finds_unsuitable_session_columns() {
    let database = organizations().await;
    let sessions = members(&database);
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    sessions.store().check().await.unwrap();
    wrong::<0>(
        &database,
        "decoding the session's column \"active_org_id\" failed",
    )
    .await;
    wrong::<1>(&database, "column s.missing does not exist").await;
    wrong::<2>(&database, "column s.Factors does not exist").await;
    wrong::<3>(
        &database,
        "PgUser::SESSION_COLUMNS has no column \"suspended\"",
    )
    .await;
}

/// The values of a sign-in are part of the condition: an organization that is suspended, and a
/// session limit, reject it. A suspended organization does not bypass the limit.
#[tokio::test]
async fn a_sign_in_meets_the_condition_with_its_values() {
    let database = organizations().await;
    sql(
        &database,
        "UPDATE orgs SET suspended_at = now() WHERE id = 8",
    )
    .await;
    let limit = SessionLimit::refuse_new(1).unwrap();
    let sessions = SessionService::new(member_store(&database).with_session_limit(limit));
    let sign_in = async |org: Option<i64>| {
        let sign_in = sessions
            .sign_in_without_request(1)
            .set("active_org_id", org);
        sign_in.await.map_err(|error| error.kind())
    };
    assert_eq!(
        sign_in(Some(8)).await.unwrap_err(),
        ErrorKind::UserNotAllowed
    );
    let signed_in = sign_in(Some(7)).await.unwrap();
    for (org, kind) in [
        (None, ErrorKind::TooManySessions),
        (Some(7), ErrorKind::TooManySessions),
        (Some(8), ErrorKind::UserNotAllowed),
    ] {
        assert_eq!(sign_in(org).await.unwrap_err(), kind);
    }
    // The limit counts sessions by the new session's organization, not by their own.
    sessions
        .update(&current(&signed_in))
        .set("active_org_id", 8_i64)
        .await
        .unwrap();
    assert_eq!(sign_in(None).await.unwrap_err(), ErrorKind::TooManySessions);
    assert_eq!(number(&database, ROWS).await, 1);
}

/// A sign-in in the application's transaction sets session columns, and sees rows that the
/// transaction inserted.
#[tokio::test]
async fn a_sign_in_in_a_transaction_sets_columns() {
    let database = organizations().await;
    let sessions = members(&database);
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction
        .batch_execute("INSERT INTO orgs VALUES (9, 'nine')")
        .await
        .unwrap();
    let sign_in = sessions
        .sign_in_without_request(1)
        .set("active_org_id", 9_i64);
    let signed_in = sign_in.in_transaction(&transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let user = sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user, Some(Member::of(1, 9)));
}

/// Users whose row is joined to the session's organization by an inner join.
#[derive(Clone, Debug)]
struct Joined;

impl PgUser for Joined {
    type Id = i64;
    const SESSION_COLUMNS: &'static [&'static str] = &["active_org_id"];
    const COLUMNS: &'static str = "u.id";
    const FROM: &'static str = "users AS u JOIN orgs AS o ON o.id = live_session.active_org_id";

    fn from_row(_: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

/// All operations of a user have the same lock, whatever the session columns are. Without an outer
/// join there would be none: sign-ins fail, and `check` names the remedy.
#[tokio::test]
async fn an_inner_join_with_session_columns_is_rejected() {
    let database = organizations().await;
    let _ = members(&database)
        .sign_in_without_request(1)
        .set("active_org_id", 7_i64)
        .await
        .unwrap();
    let sessions = SessionService::new(PgSessionStore::<Joined>::new(pool(&database, 2)));
    let check = sessions.store().check().await.unwrap_err();
    assert_eq!(check.kind(), ErrorKind::Schema);
    assert!(
        format!("{:?}", check.source()).contains("LEFT JOIN"),
        "{check:?}"
    );
    for (org, kind) in [
        (Some(7_i64), ErrorKind::Configuration),
        (None, ErrorKind::UserNotAllowed),
    ] {
        let sign_in = sessions
            .sign_in_without_request(1)
            .set("active_org_id", org);
        assert_eq!(sign_in.await.unwrap_err().kind(), kind);
    }
    assert_eq!(number(&database, ROWS).await, 1);
}
