//! Operators and functions of another role in a schema of the `search_path`.

use ephemeral_postgres::{TestDatabase, skip};
use tower_user_session::{
    BoxError, LookupRow, PgSessionStore, PgUser, SessionService, session::SessionLimit,
};

use crate::support::{audit, cookie, number, pool};

#[derive(Clone, Debug, PartialEq)]
struct Named(String);

impl PgUser for Named {
    type Id = String;
    const COLUMNS: &'static str = "u.name";
    const FROM: &'static str = "app.users AS u";

    fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
        Ok(Self(row.user().get("name")?))
    }
}

/// One line per type of key: a name, the SQL that creates it, and the type.
const KEYS: &[(&str, &str, &str)] = &[
    ("text", "SELECT", "text"),
    ("varchar", "SELECT", "varchar(36)"),
    ("a domain", "CREATE DOMAIN app.key AS text", "app.key"),
    ("citext", "CREATE EXTENSION citext SCHEMA app", "app.citext"),
];

/// One line per search path: where another role may create objects, and the path.
const PATHS: &[(&str, &str)] = &[
    ("after pg_catalog", "public, app"),
    ("before pg_catalog", "public, pg_catalog, app"),
];

/// Operators for each type that the statements compare, and functions that fit better than those of
/// `pg_catalog`. Each of them fails when it is called.
fn plant(key: &str) -> String {
    format!(
        r#"
        DO $plant$
        DECLARE type text; name text;
        BEGIN
            FOR type IN SELECT DISTINCT unnest(ARRAY[
                '{key}', 'varchar', 'text', 'name', 'bigint', 'integer', 'smallint', 'uuid', 'bytea', 'boolean',
                'timestamptz', 'regclass', 'tid', '"char"', 'double precision', 'interval', 'smallint[]'
            ]) LOOP
                BEGIN
                    EXECUTE format(
                        'CREATE FUNCTION public.planted(a %1$s, b %1$s) RETURNS boolean LANGUAGE plpgsql AS
                         $$ BEGIN RAISE ''planted''; END $$', type);
                    FOREACH name IN ARRAY '{{=,<>,<,>,<=,>=,+,-,/,||,~~}}'::text[] LOOP
                        EXECUTE format(
                            'CREATE OPERATOR public.%1$s (FUNCTION = public.planted, LEFTARG = %2$s, RIGHTARG = %2$s)',
                            name, type);
                    END LOOP;
                EXCEPTION WHEN duplicate_function THEN NULL;
                END;
            END LOOP;
            FOREACH name IN ARRAY ARRAY[
                'format(a text, b text)', 'format(a text, b text, c name, d regclass)',
                'format(a text, b name, c regclass)', 'format(a text, b text, c text, d regclass, e name)',
                'concat(a text, b text)', 'concat(a oid, b text, c text)', 'quote_ident(a name)',
                'format(a text, b name, c name)', 'to_regclass(a text)', 'current_schema()', 'now()',
                'current_setting(a text, b boolean)', 'set_config(a text, b text, c boolean)',
                'pg_advisory_xact_lock(a bigint)', 'gen_random_uuid()', 'octet_length(a bytea)',
                'isfinite(a timestamptz)', 'hashtextextended(a text, b bigint)', 'parse_ident(a text)'
            ] LOOP
                EXECUTE format(
                    'CREATE FUNCTION public.%s RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE ''planted''; END $$', name);
            END LOOP;
        END
        $plant$"#
    )
}

/// A database whose users are in their own schema. `None` if the server lacks the type.
async fn users(make: &str, key: &str) -> Option<TestDatabase> {
    let database = TestDatabase::create("CREATE SCHEMA app").await;
    let client = database.client().await;
    let users = format!(
        "{make}; CREATE TABLE app.users (id {key} PRIMARY KEY, name text, hash varchar);
         INSERT INTO app.users VALUES ('ada', 'Ada', 'x'), ('eve', 'Eve', NULL)"
    );
    match client.batch_execute(&users).await {
        Ok(()) => Some(database),
        Err(error) => {
            skip("planted", &error.to_string());
            None
        }
    }
}

async fn set_path(database: &TestDatabase, path: &str) {
    let statement = format!(
        "ALTER DATABASE {} SET search_path = {path}",
        database.name()
    );
    let client = database.client().await;
    client.batch_execute(&statement).await.unwrap();
}

/// M12: operators and functions that another role planted are never called: by the migration, the
/// check, or any statement.
#[tokio::test]
async fn planted_operators_and_functions_are_never_called() {
    for (name, make, key) in KEYS {
        for (place, path) in PATHS {
            let Some(database) = users(make, key).await else {
                continue;
            };
            let client = database.client().await;
            client.batch_execute(&plant(key)).await.unwrap();
            set_path(&database, path).await;
            let store = || {
                let store = PgSessionStore::<Named>::new(pool(&database, 2)).with_schema("app");
                store.with_session_limit(SessionLimit::end_oldest(2).unwrap())
            };
            store().migrate().users_table("app.users").await.unwrap();
            store().migrate().users_table("app.users").await.unwrap();
            audit::install(&database, &[("sessions_table", "app.sessions")]).await;
            for (mode, store) in [
                ("prepared", store()),
                ("unnamed", store().with_transaction_pooling()),
            ] {
                let case = format!("{name}, {place}, {mode}");
                Box::pin(use_everything(store, &case)).await;
            }
            let recorded = "SELECT count(DISTINCT event) FROM app.sessions_audit";
            assert_eq!(number(&database, recorded).await, 3, "{name}, {place}");
        }
    }
}

async fn use_everything(store: PgSessionStore<Named>, name: &str) {
    let ada = || "ada".to_owned();
    let checked = store.check().await;
    checked.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let sessions = SessionService::new(store);
    let one = sessions
        .sign_in_without_request(ada())
        .if_unchanged("u.hash", "x");
    let one = one
        .await
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let changed = sessions
        .sign_in_without_request(ada())
        .if_unchanged("u.hash", "y")
        .await;
    assert!(changed.is_err(), "{name}");
    let eve = sessions.sign_in_without_request("eve".to_owned());
    let eve = eve.if_unchanged("u.hash", None::<String>).await.unwrap();
    let user = sessions.user(one.token()).await.unwrap();
    assert_eq!(user, Some(Named("Ada".to_owned())), "{name}");
    let user = sessions.user(eve.token()).await.unwrap();
    assert_eq!(user, Some(Named("Eve".to_owned())), "{name}");
    let headers = cookie(&sessions, one.token());
    let one = sessions.reauthenticate(ada(), &headers).await.unwrap();
    let two = sessions.sign_in_without_request(ada()).await.unwrap();
    let _three = sessions
        .sign_in(ada(), &cookie(&sessions, two.token()))
        .await
        .unwrap();
    assert_eq!(
        sessions.sessions_of(&ada()).await.unwrap().len(),
        2,
        "{name}"
    );
    assert!(
        sessions.revoke(&ada(), one.session().id()).await.unwrap(),
        "{name}"
    );
    assert_eq!(sessions.revoke_all(&ada()).await.unwrap(), 1, "{name}");
    let signed_out = sessions.sign_out(&cookie(&sessions, eve.token())).await;
    assert!(signed_out.ended().unwrap(), "{name}");
    sessions.delete_expired().await.unwrap();
    assert_eq!(sessions.revoke_everyone().await.unwrap(), 0, "{name}");
}

/// M12: keys of an extension's type are compared with the extension's operator, also if its schema
/// is not in the path.
#[tokio::test]
async fn citext_keys_compare_with_their_own_operator() {
    let (_, make, key) = KEYS[3];
    for path in ["public", "app, public"] {
        let Some(database) = users(make, key).await else {
            return;
        };
        set_path(&database, path).await;
        let store = || PgSessionStore::<Named>::new(pool(&database, 2)).with_schema("app");
        store().migrate().users_table("app.users").await.unwrap();
        for store in [store(), store().with_transaction_pooling()] {
            store.check().await.unwrap();
            let sessions = SessionService::new(store);
            let signed_in = sessions
                .sign_in_without_request("ADA".to_owned())
                .await
                .unwrap();
            let user = sessions.user(signed_in.token()).await.unwrap();
            assert_eq!(user, Some(Named("Ada".to_owned())));
            assert_eq!(
                sessions.sessions_of(&"aDa".to_owned()).await.unwrap().len(),
                1
            );
            assert_eq!(sessions.revoke_all(&"Ada".to_owned()).await.unwrap(), 1);
        }
    }
}

/// M12: the migration restores the search path, also within a transaction of the caller.
#[tokio::test]
async fn migration_restores_the_search_path() {
    let Some(database) = users("SELECT", "text").await else {
        return;
    };
    set_path(&database, "app, public").await;
    let create = include_str!("../../../migrations/0001_create_sessions.sql");
    let mut client = database.client().await;
    for file in [create, audit::AUDIT, create, audit::AUDIT] {
        let transaction = client.transaction().await.unwrap();
        transaction.batch_execute(file).await.unwrap();
        let path = transaction
            .query_one("SHOW search_path", &[])
            .await
            .unwrap();
        assert_eq!(path.get::<_, &str>(0), "app, public");
        transaction.commit().await.unwrap();
    }
    let table = client.query_one("SELECT 'app.sessions'::regclass::text", &[]);
    assert_eq!(table.await.unwrap().get::<_, &str>(0), "sessions");
}
