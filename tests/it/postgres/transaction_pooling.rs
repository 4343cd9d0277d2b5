//! The setting for transaction poolers, as the server sees it.

use std::collections::BTreeMap;

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, Error, ErrorKind, LookupRow, PgSessionStore, PgUser, SessionService,
    tokio_postgres::{Config, NoTls},
};

use crate::support::{USERS, User, database, pool, proxy::Proxy, sql};

/// F13: a lookup, and each other single statement, is one round trip and unnamed.
#[tokio::test]
async fn a_lookup_is_one_round_trip() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let store = PgSessionStore::<User>::new(proxy.pool(2)).with_transaction_pooling();
    let sessions = SessionService::new(store);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    // Opens the connection.
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    let one = BTreeMap::from(['P', 'B', 'D', 'E', 'S'].map(|message| (message, 1)));
    for _ in 0..3 {
        proxy.sent();
        assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
        assert_eq!(proxy.sent(), one);
        // In its own transaction: `BEGIN`, a statement that returns which server answers, and `COMMIT` are sent
        // with it.
        assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 1);
        let mut with_transaction: BTreeMap<_, _> =
            one.keys().map(|message| (*message, 2)).collect();
        with_transaction.insert('Q', 2);
        assert_eq!(proxy.sent(), with_transaction);
    }
}

/// A user with columns of types that are not built in.
#[derive(Clone, Debug, PartialEq)]
struct Typed<const CAST: bool>(String);

impl<const CAST: bool> PgUser for Typed<CAST> {
    type Id = String;
    const COLUMNS: &'static str = if CAST {
        "u.name, u.mood::text AS mood"
    } else {
        "u.name, u.mood"
    };

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        let name: String = row.user().get("name")?;
        Ok(Self(name + ": " + row.user().get("mood")?))
    }
}

const TYPED: &str = "
    CREATE TYPE mood AS ENUM ('merry', 'sad');
    CREATE DOMAIN name AS varchar(40) CHECK (VALUE <> '');
    CREATE DOMAIN label AS name;
    CREATE TABLE users (id label PRIMARY KEY, name label NOT NULL, mood mood NOT NULL, level int2 NOT NULL,
                        moods mood[] NOT NULL DEFAULT '{merry}');
    INSERT INTO users VALUES ('ada', 'Ada', 'merry', 3);
";

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, name: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains(&format!("{name:?}")) && source.contains("::text"),
        "{source}"
    );
}

/// F13: the driver would prepare a statement to look up a type that is not built in. Such columns
/// are rejected by name first. Domains and casts are accepted, and so are keys that are domains.
#[tokio::test]
async fn a_type_that_is_not_built_in_is_rejected_by_name() {
    let database = TestDatabase::create(TYPED).await;
    let proxy = Proxy::before(&database).await;
    let store = PgSessionStore::<Typed<false>>::new(proxy.pool(2)).with_transaction_pooling();
    store.migrate().await.unwrap();
    refused(store.check().await, "mood");
    let direct = PgSessionStore::<Typed<false>>::new(pool(&database, 1));
    let error = direct.check().await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Decode,
        "the type is the driver's to read, and no text"
    );
    proxy.sent();
    let not_cast = SessionService::new(store);
    let ada = not_cast
        .sign_in_without_request("ada".to_owned())
        .await
        .unwrap();
    refused(not_cast.user(ada.token()).await, "mood");

    let store = PgSessionStore::<Typed<true>>::new(proxy.pool(2)).with_transaction_pooling();
    store.check().await.unwrap();
    let cast = SessionService::new(store);
    let user = cast.user(ada.token()).await.unwrap();
    assert_eq!(user, Some(Typed("Ada: merry".to_owned())));

    let sign_in = || cast.sign_in_without_request("ada".to_owned());
    refused(sign_in().if_unchanged("u.mood", "merry").await, "mood");
    let moods = sign_in().if_unchanged("u.moods", vec!["merry"]).await;
    refused(moods, "_mood");
    for (demands, signed_in) in [
        (sign_in().if_unchanged("u.mood::text", "merry"), true),
        (sign_in().if_unchanged("u.mood::text", "sad"), false),
        (
            sign_in()
                .if_unchanged("u.name", "Ada")
                .if_unchanged("u.level", 3_i16),
            true,
        ),
        (
            sign_in()
                .if_unchanged("u.name", "Ada")
                .if_unchanged("u.level", 4_i16),
            false,
        ),
        (sign_in().if_unchanged("u.level + 1", 4_i32), true),
        (sign_in().if_unchanged("NULL::text", None::<String>), true),
    ] {
        assert_eq!(demands.await.is_ok(), signed_in);
    }
    assert!(!proxy.sent().contains_key(&'n'));
}

/// `check` reports an unsuitable schema and missing privileges, as without the setting.
#[tokio::test]
async fn a_check_reports_an_unsuitable_schema() {
    let database = TestDatabase::create(USERS).await;
    let role = format!("asker_{}", database.name());
    sql(&database, &format!("CREATE ROLE {role} LOGIN")).await;
    let with = |config: Config, pooling: bool| {
        let manager = Manager::new(config, NoTls);
        let pool = Pool::builder(manager).max_size(1).build().unwrap();
        let store = PgSessionStore::<User>::new(pool);
        if pooling {
            store.with_transaction_pooling()
        } else {
            store
        }
    };
    let store = |pooling| with(database.config(), pooling);
    for pooling in [false, true] {
        let error = store(pooling).check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
    }
    store(true).migrate().await.unwrap();
    sql(
        &database,
        &format!("GRANT SELECT ON users, sessions TO {role}"),
    )
    .await;
    for pooling in [false, true] {
        store(pooling).check().await.unwrap();
        let mut limited = database.config();
        limited.user(&role);
        let error = with(limited, pooling).check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
    }
    sql(&database, &format!("DROP OWNED BY {role}")).await;
    sql(&database, &format!("DROP ROLE {role}")).await;
    // In `list.sql` only.
    sql(&database, "ALTER TABLE sessions RENAME user_agent TO agent").await;
    for pooling in [false, true] {
        let error = store(pooling).check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("user_agent"), "{source}");
    }
}
