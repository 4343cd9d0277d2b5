//! Any type of key, any name of the tables, any setting of the role.

use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService, session::SessionId,
    tokio_postgres::types,
};

use crate::support::{User, database, pool, sessions, sql};

/// A key of the given type, in a table with an unusual name.
macro_rules! account {
    ($name:ident, $id:ty) => {
        #[derive(Clone, Debug, PartialEq)]
        struct $name(String);
        impl PgUser for $name {
            type Id = $id;
            const COLUMNS: &'static str = "a.\"e mail\"";
            const FROM: &'static str = "\"my App\".\"user's \"\"accounts\"\"\" AS a";
            const KEY: &'static str = "a.\"Key\"";
            fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
                Ok(Self(row.user().get("e mail")?))
            }
        }
    };
}

account!(Int, i32);
account!(BigInt, i64);
account!(Text, String);
account!(Uuid, RawUuid);

/// The type that `uuid::Uuid` has with the driver's feature for it.
#[derive(Clone, Copy, Debug)]
struct RawUuid([u8; 16]);

impl types::ToSql for RawUuid {
    fn to_sql(
        &self,
        ty: &types::Type,
        out: &mut bytes::BytesMut,
    ) -> Result<types::IsNull, BoxError> {
        SessionId::from_bytes(self.0).to_sql(ty, out)
    }

    fn accepts(ty: &types::Type) -> bool {
        <SessionId as types::ToSql>::accepts(ty)
    }

    types::to_sql_checked!();
}

async fn works<U>(key_type: &str, key: &str, id: U::Id)
where
    U: PgUser + PartialEq + std::fmt::Debug,
    U::Id: Clone,
{
    works_with::<U>(key_type, key, id.clone(), |store| store).await;
    works_with::<U>(key_type, key, id, PgSessionStore::with_transaction_pooling).await;
}

async fn works_with<U>(
    key_type: &str,
    key: &str,
    id: U::Id,
    with: fn(PgSessionStore<U>) -> PgSessionStore<U>,
) where
    U: PgUser + PartialEq + std::fmt::Debug,
    U::Id: Clone,
{
    let setup = format!(
        "CREATE SCHEMA \"my App\";
         CREATE SCHEMA \"Sessions!\";
         CREATE TABLE \"my App\".\"user's \"\"accounts\"\"\" (\"Key\" {key_type} PRIMARY KEY, \"e mail\" text);
         INSERT INTO \"my App\".\"user's \"\"accounts\"\"\" VALUES ({key}, 'ada');"
    );
    let database = TestDatabase::create(&setup).await;
    let store = with(PgSessionStore::new(pool(&database, 2)))
        .with_schema("Sessions!")
        .with_table("log \"ins\"; --");
    let migrate = || {
        store
            .migrate()
            .users_table("\"my App\".\"user's \"\"accounts\"\"\"")
            .users_key("Key")
    };
    migrate().await.unwrap();
    migrate().await.unwrap();
    store.check().await.unwrap();
    let column = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = '\"Sessions!\".\"log \"\"ins\"\"; --\"'::regclass AND attname = 'user_id'";
    let found: String = database
        .client()
        .await
        .query_one(column, &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(found, key_type);

    let sessions = SessionService::new(store);
    let signed_in = sessions.sign_in_without_request(id.clone()).await.unwrap();
    assert!(sessions.user(signed_in.token()).await.unwrap().is_some());
    assert_eq!(sessions.sessions_of(&id).await.unwrap().len(), 1);
    assert!(
        sessions
            .revoke(&id, signed_in.session().id())
            .await
            .unwrap()
    );
    assert_eq!(sessions.user(signed_in.token()).await.unwrap(), None);
    assert_eq!(sessions.delete_expired().await.unwrap(), 0);
}

#[tokio::test]
async fn keys_of_every_usual_type_and_tables_of_any_name() {
    works::<Int>("integer", "7", 7).await;
    works::<BigInt>("bigint", "7", 7).await;
    works::<Text>("text", "'a''b'", "a'b".to_owned()).await;
    works::<Text>("character varying(36)", "'ab'", "ab".to_owned()).await;
    let uuid = "'07070707-0707-0707-0707-070707070707'";
    works::<Uuid>("uuid", uuid, RawUuid([7; 16])).await;
}

/// Settings of the role change nothing: values are binary on the wire, and there is one clock.
#[tokio::test]
async fn settings_of_the_role_change_nothing() {
    let database = database().await;
    for setting in [
        "timezone = 'Pacific/Chatham'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "standard_conforming_strings = off",
    ] {
        let name = database.name();
        sql(&database, &format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let sessions = sessions(&database);
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let live = sessions.resolve(signed_in.token()).await.unwrap().unwrap();
    assert_eq!(live.user, User::ada());
    assert_eq!(
        live.session.times().expires_at,
        signed_in.session().times().expires_at
    );
    let total = live
        .session
        .times()
        .expires_at
        .duration_since(live.session.times().created_at);
    assert_eq!(total.unwrap().as_secs(), 30 * 24 * 60 * 60);
}

/// The users and sessions with a schema.
#[derive(Clone, Debug, PartialEq)]
struct Qualified(i64);

impl PgUser for Qualified {
    type Id = i64;
    const COLUMNS: &'static str = "u.id";
    const FROM: &'static str = "public.users AS u";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self(row.user().get("id")?))
    }
}

/// A schema that precedes all others, including `pg_catalog`, with tables of the same names, a
/// clock that stands still in the past, and operators that always return true.
#[tokio::test]
async fn a_hostile_search_path_changes_nothing() {
    let database = database().await;
    let name = database.name();
    for statement in [
        "CREATE SCHEMA evil",
        "CREATE TABLE evil.users AS SELECT * FROM public.users",
        "CREATE TABLE evil.sessions (LIKE public.sessions INCLUDING ALL)",
        "CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2001-01-01'::timestamptz $$",
        "CREATE FUNCTION evil.yes(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
        "CREATE FUNCTION evil.yes(bytea, bytea) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
        "CREATE OPERATOR evil.> (FUNCTION = evil.yes, LEFTARG = timestamptz, RIGHTARG = timestamptz)",
        "CREATE OPERATOR evil.= (FUNCTION = evil.yes, LEFTARG = bytea, RIGHTARG = bytea)",
        &format!("ALTER DATABASE {name} SET search_path = evil, pg_catalog, public"),
    ] {
        sql(&database, statement).await;
    }
    let store = || PgSessionStore::<Qualified>::new(pool(&database, 2)).with_schema("public");
    for store in [store(), store().with_transaction_pooling()] {
        stands_by_its_tables(&database, store).await;
    }
}

async fn stands_by_its_tables(database: &TestDatabase, store: PgSessionStore<Qualified>) {
    let sessions = SessionService::new(store);
    sessions.store().check().await.unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(
        sessions.user(ada.token()).await.unwrap(),
        Some(Qualified(1))
    );
    assert_eq!(
        sessions.user(eve.token()).await.unwrap(),
        Some(Qualified(2))
    );
    assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 1);
    sql(
        database,
        "UPDATE public.sessions SET expires_at = pg_catalog.now() - interval '1 second'",
    )
    .await;
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert!(sessions.sessions_of(&1).await.unwrap().is_empty());
    assert_eq!(sessions.delete_expired().await.unwrap(), 2);
}
